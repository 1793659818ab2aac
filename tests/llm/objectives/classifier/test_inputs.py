import pytest
import torch

from llm.objectives.classifier import Classifier, ClassifierConfig
from llm.objectives.classifier import inputs as module
from llm.objectives.classifier.inputs import Inputs
from llm.training.frozen_blocks import split_blocks

TEXTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [1, 2]]


@pytest.fixture
def classifier(make_gpt):
    return Classifier(make_gpt(n_layer=3), ClassifierConfig(labels=("ham", "spam"), max_tokens=32)).eval()


def test_streams_give_the_states_of_the_whole_model_but_for_their_rounding(classifier):
    texts = range(1, 4)
    expected = classifier.states_of(Inputs(TEXTS), texts)
    reader, classifier.gpt = split_blocks(classifier.gpt, 2)
    states = classifier.states_of(Inputs(TEXTS, reader), texts)
    assert float((states - expected).norm() / expected.norm()) < 0.02


def test_streams_are_computed_once_as_far_as_there_is_room_and_padded_with_zeros(classifier, monkeypatch):
    reader, _ = split_blocks(classifier.gpt, 2)
    inputs = Inputs(TEXTS, reader)
    first, lengths_B = inputs.batch([1, 0], 4)
    assert first.shape == (2, 4, reader.config.n_embd)
    assert lengths_B.tolist() == [1, 3]
    assert not first[0, 1:].any()
    reader.blocks[0].mlp.projection.weight.data.zero_()  # which a second reading would show
    assert torch.equal(inputs.batch([1, 0], 4)[0], first)
    monkeypatch.setattr(module, "ROOM", 0)
    inputs = Inputs(TEXTS, reader)
    assert not torch.equal(inputs.batch([1, 0], 4)[0], first)
    assert inputs.streams == {}


def test_streams_of_inference_mode_can_be_learned_from(classifier):
    reader, classifier.gpt = split_blocks(classifier.gpt, 2)
    inputs = Inputs(TEXTS, reader)
    with torch.inference_mode():
        inputs.batch([0, 1])
    classifier(*inputs.batch([0, 1])).sum().backward()
    assert classifier.gpt.blocks[0].mlp.projection.weight.grad is not None
