import pytest
import torch

from llm.objectives.classifier import Classifier, ClassifierConfig
from llm.objectives.classifier import inputs as module
from llm.objectives.classifier.inputs import StreamInputs, TokenInputs
from llm.training.frozen_blocks import split_blocks

TEXTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [1, 2]]


@pytest.fixture
def classifier(make_gpt):
    torch.manual_seed(0)
    return Classifier(make_gpt(n_layer=3), ClassifierConfig(labels=("ham", "spam"), max_tokens=32)).eval()


def test_streams_give_the_states_of_the_whole_model_but_for_their_rounding(classifier):
    whole, texts = classifier.gpt, range(1, 4)
    expected = classifier.states_of(TokenInputs(TEXTS), texts)
    reader, classifier.gpt = split_blocks(whole, 2)
    states = classifier.states_of(StreamInputs(reader, TEXTS), texts)
    assert states.shape == expected.shape
    assert float((states - expected).norm() / expected.norm()) < 0.02


def test_streams_are_padded_with_zeros_to_a_length(classifier):
    reader, _ = split_blocks(classifier.gpt, 2)
    x_BTC, lengths_B = StreamInputs(reader, TEXTS).batch([1, 0], 4)
    assert x_BTC.shape == (2, 4, reader.config.n_embd)
    assert lengths_B.tolist() == [1, 3]
    assert not x_BTC[0, 1:].any()
    assert not x_BTC[1, 3:].any()


def test_streams_are_computed_once_as_far_as_there_is_room(classifier, monkeypatch):
    reader, _ = split_blocks(classifier.gpt, 2)
    inputs = StreamInputs(reader, TEXTS)
    first, _ = inputs.batch([0, 1])
    reader.blocks[0].mlp.projection.weight.data.zero_()  # which a second reading would show
    second, _ = inputs.batch([0, 1])
    assert torch.equal(second, first)
    monkeypatch.setattr(module, "ROOM", 0)
    inputs = StreamInputs(reader, TEXTS)
    third, _ = inputs.batch([0, 1])
    assert inputs.streams == {}
    assert not torch.equal(third, first)


def test_streams_of_inference_mode_can_be_learned_from(classifier):
    reader, classifier.gpt = split_blocks(classifier.gpt, 2)
    inputs = StreamInputs(reader, TEXTS)
    with torch.inference_mode():
        inputs.batch([0, 1])
    classifier(*inputs.batch([0, 1])).sum().backward()
    assert classifier.gpt.blocks[0].mlp.projection.weight.grad is not None
