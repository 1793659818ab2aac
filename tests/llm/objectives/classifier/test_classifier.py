import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from llm.dataset import BatchSampler
from llm.device import Compute
from llm.formats.model_folder import save_model
from llm.kernels.processor import has_fast_bfloat16
from llm.loaded_model import LoadedModel
from llm.objectives import CLASSIFY, GUARD, interface_of, load
from llm.objectives.classifier import Classifier, ClassifierConfig, email_text, guard_replies, probabilities, serve
from llm.objectives.classifier.fit import LabelledTexts, read_texts
from llm.objectives.classifier.inputs import Inputs
from llm.objectives.classifier.loss import objective
from llm.objectives.classifier.model import encode_windows

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
SPAM = ("ham", "spam")
THREE = ("a", "b", "c")


def config_of(labels: tuple[str, ...] = SPAM, max_tokens: int = 32, **values: Any) -> ClassifierConfig:
    return ClassifierConfig(labels=labels, max_tokens=max_tokens, **values)


@pytest.fixture(scope="module")
def make_classifier(make_gpt, encoding) -> Callable[..., LoadedModel[Classifier]]:
    """Make a small classifier with its tokenizer."""

    def make(tied: bool = True, **values: Any) -> LoadedModel[Classifier]:
        model = Classifier(make_gpt(tied=tied), config_of(**values)).eval()
        torch.nn.init.normal_(model.head.weight, std=1.0, generator=torch.Generator().manual_seed(0))
        return LoadedModel(model, encoding)

    return make


@pytest.fixture(scope="module")
def classifier(make_classifier) -> LoadedModel[Classifier]:
    return make_classifier()


def states_of(loaded: LoadedModel[Classifier], texts: list[list[int]], batch_size: int = 8) -> torch.Tensor:
    return loaded.model.states_of(Inputs(texts), range(len(texts)), batch_size)


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 250), min_size=1, max_size=32), min_size=1, max_size=7), st.integers(1, 4))
def test_states_are_means_without_padding_and_in_a_batch_those_of_each_text_alone(classifier, texts, batch_size):
    off = 0.0 if has_fast_bfloat16(CPU.device) else 1e-6  # in float32 torch adds one row's products in another order
    states_NC = states_of(classifier, texts, batch_size)
    alone_NC = torch.cat([states_of(classifier, [text]) for text in texts])
    torch.testing.assert_close(states_NC, alone_NC, atol=off, rtol=0.0)
    gpt = classifier.model.gpt
    expected_NC = torch.stack([gpt.hidden_states(torch.tensor([text]))[0].mean(dim=0) for text in texts]).detach()
    torch.testing.assert_close(states_NC, expected_NC, atol=2e-2, rtol=2e-2)  # bfloat16
    inputs_BT, lengths_B = Inputs(texts).batch(range(len(texts)), 32)
    logits_BK = classifier.model(inputs_BT, lengths_B).detach()
    torch.testing.assert_close(logits_BK, classifier.model.head(expected_NC).detach(), atol=1e-5, rtol=1e-4)


def test_email_is_subject_then_body_of_which_the_gpt_reads_so_many_tokens_of_plain_text(make_classifier, encoding):
    text = email_text("the cat", "sat <|endoftext|>")
    assert text == "the cat\n\nsat <|endoftext|>"
    tokens = encoding.encode_ordinary(text)
    assert encode_windows(make_classifier(), [text]) == [tokens]
    assert encode_windows(make_classifier(max_tokens=3), [text]) == [tokens[:3]]


CHANCES = {
    2: np.array([[0.8, 0.2], [0.31, 0.69], [0.3, 0.7], [0.29, 0.71]]),
    3: np.array([[0.4, 0.35, 0.25], [0.2, 0.3, 0.5]]),
}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (config_of(threshold=0.7), [0, 0, 0, 1]),
        (config_of(), [0, 1, 1, 1]),
        (config_of(THREE), [0, 2]),
        (config_of(THREE, threshold=0.5), [1, 2]),
        (config_of(THREE, threshold=0.7), [0, 2]),
    ],
)
def test_label_is_another_than_the_first_above_the_threshold_and_without_one_the_likeliest(config, expected):
    assert config.decide(CHANCES[len(config.labels)]).tolist() == expected


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"threshold": 0.5, "unsure": (0.6, 0.9)}, r"threshold 0\.5 is not between these bounds"),
        ({"labels": ("ham", "unsure")}, "unsure is the answer where no label is sure"),
        ({"labels": THREE, "replies": {"a": "No."}}, "replies: 'a' is not one of b, c"),
        ({"labels": THREE, "replies": {"b": " "}}, "replies: 'b' has no text"),
        ({"labels": ("a", "a")}, "labels a, a"),
        ({"max_tokens": 33}, "max_tokens 33 is more than the model's context of 32"),
    ],
)
def test_config_that_contradicts_itself_or_the_model_is_refused(make_classifier, values, reason):
    with pytest.raises(ValueError, match=reason):
        make_classifier(**values)


def test_guard_replies_to_what_it_stops_but_to_no_blank_request(make_classifier, tmp_path):
    replies = {"b": "Call somebody.", "c": "I can't help with that."}
    guard = make_classifier(labels=THREE, columns=("request",), threshold=0.5, replies=replies)
    requests = ["the cat", "the moon\nthe dog", "a hat", "a bird sang"]
    labels = guard.model.config.decide(probabilities(guard, requests))
    assert len({*labels}) > 1
    expected = [replies.get(THREE[label]) for label in labels]
    assert guard_replies(guard, [*requests, " "]) == [*expected, None]
    assert guard_replies(guard, [""]) == [None]
    save_model(tmp_path, guard, "classifier")
    interface = interface_of(tmp_path)
    assert interface.capabilities == (GUARD,)
    assert {*interface.inputs} == {*interface.example} == {"request"}


def test_folder_from_before_columns_and_replies_reads_mails(classifier, tmp_path):
    save_model(tmp_path, classifier, "classifier")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["classifier"]["columns"]
    del config["classifier"]["replies"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(tmp_path).model.config.columns == ("subject", "body")
    assert interface_of(tmp_path).capabilities == (CLASSIFY,)


def test_serve_gives_label_leaning_and_probabilities_and_names_what_is_wrong_with_other_rows(make_classifier):
    texts = ["\n\nmoon", "\n\nthe cat", "\n\na hat"]
    chances = probabilities(make_classifier(), texts)
    low, middle, high = np.sort(chances[:, 1])
    bounds = ((low + middle) / 2, (middle + high) / 2)
    loaded = make_classifier(threshold=float(bounds[0]), unsure=bounds)
    rows = [{"body": text.strip()} for text in texts]
    *answers, empty, number = serve(loaded, [*rows, {"subject": " ", "body": None}, {"body": 3.5}])
    labels = {low: ("ham", "ham"), middle: ("unsure", "spam"), high: ("spam", "spam")}
    for answer, chance in zip(answers, chances, strict=True):
        assert (answer["label"], answer["leaning"]) == labels[chance[1]]
        assert [answer["ham_probability"], answer["spam_probability"]] == chance.tolist()
    assert empty == {"error": "there is no text to classify"}
    assert number == {"error": "body: 3.5 is not text"}
    (explained,) = serve(loaded, rows[:1], explain=1)
    assert explained["moved_by"].endswith("“moon”")


def test_window_of_a_long_text_is_read_closely_and_both_views_are_added(make_classifier):
    loaded = make_classifier(ngram_buckets=2**16)
    model = loaded.model
    model.ngrams.idf.fill_(1.0)
    model.ngrams.weight.normal_(generator=torch.Generator().manual_seed(1))
    texts = ["the cat sat " * 50, "a hat"]
    windows = [model.ngrams.window_of(text) for text in texts]
    states_NC = states_of(loaded, encode_windows(loaded, windows))
    logits = F.linear(states_NC, model.head.weight, model.head.bias).detach() + model.ngrams(texts, windows)
    assert probabilities(loaded, texts) == pytest.approx(logits.double().softmax(dim=-1).numpy(), abs=1e-6)
    for whole in (make_classifier(labels=THREE, ngram_buckets=64), make_classifier()):
        assert whole.model.windows(texts) == texts


def test_loss_and_evaluation_by_hand_and_the_output_layer_is_not_trained(make_classifier, make_config):
    loaded = make_classifier(tied=False)
    model = loaded.model
    labels = torch.tensor([0, 0, 0, 1])
    texts = ["the cat", "moon", "the dog ate", "hat"]
    emails = read_texts(loaded, LabelledTexts(texts, labels, [1, 2, 3, 4]))
    config = make_config(batch_size=3)
    goal = objective(model, config, emails, validation=emails, compute=CPU)
    tokens = encode_windows(loaded, texts)
    logits_NK = torch.cat([model(torch.tensor([text]), torch.tensor([len(text)])) for text in tokens])
    batches = BatchSampler(4, 3, config.seed, lengths=np.array([len(text) for text in tokens]))
    for index in range(3):
        rows = batches[index]
        expected = F.cross_entropy(logits_NK[rows], labels[rows]).item()
        assert goal.loss(model, index).item() == pytest.approx(expected, rel=1e-4)
    goal.loss(model, 0).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == ["gpt.output.weight"]
    metrics = goal.evaluate()
    assert metrics["validation_loss"] == pytest.approx(F.cross_entropy(logits_NK, labels).item(), rel=0.02)  # bfloat16
    assert metrics["validation_f1"] == sklearn.metrics.f1_score(labels, logits_NK.argmax(dim=1))
