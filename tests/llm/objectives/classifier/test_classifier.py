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
from llm.objectives.classifier import (
    Classifier,
    ClassifierConfig,
    email_text,
    guard_replies,
    probabilities,
    serve,
)
from llm.objectives.classifier.fit import LabelledTexts, read_texts
from llm.objectives.classifier.inputs import TokenInputs
from llm.objectives.classifier.loss import objective
from llm.objectives.classifier.model import encode_windows

quick = settings(max_examples=25)
lists_of_tokens = st.lists(st.lists(st.integers(0, 250), min_size=1, max_size=32), min_size=1, max_size=7)
CPU = Compute(torch.device("cpu"), torch.float32, "a test")
SPAM = ("ham", "spam")
THREE = ("a", "b", "c")


def config_of(labels: tuple[str, ...] = SPAM, max_tokens: int = 32, **values: Any) -> ClassifierConfig:
    return ClassifierConfig(labels=labels, max_tokens=max_tokens, **values)


@pytest.fixture(scope="module")
def make_classifier(make_gpt, encoding) -> Callable[..., LoadedModel[Classifier]]:
    """Make a small classifier with its tokenizer."""

    def make(tied: bool = True, **values: Any) -> LoadedModel[Classifier]:
        torch.manual_seed(0)
        return LoadedModel(Classifier(make_gpt(tied=tied), config_of(**values)).eval(), encoding)

    return make


@pytest.fixture(scope="module")
def classifier(make_classifier) -> LoadedModel[Classifier]:
    return make_classifier()


@pytest.fixture(scope="module")
def make_ngram_classifier(make_classifier) -> Callable[..., LoadedModel[Classifier]]:
    """Make a classifier by n-grams alone, whose texts get these logits for each word that they have."""

    def make(logits_of_words: dict[str, list[float]], **values: Any) -> LoadedModel[Classifier]:
        loaded = make_classifier(ngram_buckets=2**16, **values)
        ngrams = loaded.model.ngrams
        loaded.model.head.weight.data.zero_()
        ngrams.idf.fill_(1.0)
        for word, logits in logits_of_words.items():
            buckets, _, _ = ngrams.features([word], [word])
            ngrams.weight[buckets[:1]] = torch.tensor(logits)
        return loaded

    return make


def states_of(loaded: LoadedModel[Classifier], texts: list[list[int]], batch_size: int = 8) -> torch.Tensor:
    return loaded.model.states_of(TokenInputs(texts), range(len(texts)), batch_size)


def with_first(second: list[float]) -> np.ndarray:
    """Probabilities of two labels."""
    return np.stack([1 - np.array(second), second], axis=1)


@quick
@given(lists_of_tokens, st.integers(1, 4))
def test_states_in_a_batch_are_those_of_each_text_alone(classifier, texts, batch_size):
    off = 0.0 if has_fast_bfloat16(CPU.device) else 1e-6  # in float32 torch adds one row's products in another order
    expected = torch.cat([states_of(classifier, [text]) for text in texts])
    torch.testing.assert_close(states_of(classifier, texts, batch_size), expected, atol=off, rtol=0.0)


@quick
@given(lists_of_tokens)
def test_states_count_no_padding(classifier, texts):
    means = [classifier.model.mean_states(torch.tensor([text]), torch.tensor([len(text)])) for text in texts]
    torch.testing.assert_close(
        states_of(classifier, texts), torch.cat(means).detach(), atol=2e-2, rtol=2e-2
    )  # bfloat16


def test_logits_are_of_the_mean_of_all_real_tokens(classifier, make_gpt):
    text = [5, 6, 7, 8]
    hidden_states = make_gpt().hidden_states(torch.tensor([text]))[0]
    with torch.inference_mode():
        (logits,) = classifier.model(torch.tensor([text + [1] * 9]), torch.tensor([4]))
    assert torch.allclose(logits, classifier.model.head(hidden_states.mean(dim=0)), atol=1e-5)


def test_email_is_subject_then_body_of_which_the_gpt_reads_so_many_tokens(make_classifier, classifier, encoding):
    text = email_text("the cat", "sat")
    assert text == "the cat\n\nsat"
    tokens = encoding.encode_ordinary(text)
    assert encode_windows(make_classifier(max_tokens=3), [text]) == [tokens[:3]]
    assert encode_windows(classifier, [text]) == [tokens]


def test_special_token_that_somebody_types_is_text(classifier, encoding):
    texts = ["<|endoftext|>"]
    states_NC = states_of(classifier, [encoding.encode_ordinary(texts[0])])
    expected = classifier.model.logits(texts, texts, states_NC).double().softmax(dim=-1)
    assert np.array_equal(probabilities(classifier, texts), expected.numpy())


@pytest.mark.parametrize(
    ("config", "chances", "expected"),
    [
        (config_of(threshold=0.7), with_first([0.2, 0.69, 0.7, 0.71]), [0, 0, 0, 1]),
        (config_of(), with_first([0.2, 0.69, 0.7, 0.71]), [0, 1, 1, 1]),
        (config_of(THREE), np.array([[0.4, 0.35, 0.25], [0.2, 0.3, 0.5]]), [0, 2]),
        (config_of(THREE, threshold=0.5), np.array([[0.4, 0.35, 0.25], [0.2, 0.3, 0.5]]), [1, 2]),
        (config_of(THREE, threshold=0.7), np.array([[0.4, 0.35, 0.25], [0.2, 0.3, 0.5]]), [0, 2]),
    ],
)
def test_label_is_another_than_the_first_above_the_threshold_and_without_one_the_likeliest(config, chances, expected):
    assert config.decide(chances).tolist() == expected


def test_label_is_unsure_between_the_bounds_and_the_leaning_is_served_with_it(make_classifier, classifier):
    config = config_of(threshold=0.7, unsure=(0.3, 0.9))
    assert config.is_unsure(with_first([0.3, 0.31, 0.9, 0.91])).tolist() == [False, True, True, False]
    assert not config_of(threshold=0.7).is_unsure(with_first([0.7])).any()
    low, high = sorted(probabilities(classifier, ["\n\nmoon", "\n\nthe cat"])[:, 1])
    unsure = make_classifier(threshold=low - 1e-6, unsure=(low - 2e-6, (low + high) / 2))
    answers = serve(unsure, [{"body": "moon"}, {"body": "the cat"}])
    assert {(answer["label"], answer["leaning"]) for answer in answers} == {("unsure", "spam"), ("spam", "spam")}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"threshold": 0.5, "unsure": (0.6, 0.9)}, r"threshold 0\.5 is not between these bounds"),
        ({"labels": ("ham", "unsure")}, "unsure is the answer where no label is sure"),
        ({"labels": THREE, "replies": {"a": "No."}}, "replies: 'a' is not one of b, c, the labels that do not pass"),
        ({"labels": ("a", "a")}, "one stands there twice"),
    ],
)
def test_config_that_contradicts_itself_is_refused(values, reason):
    with pytest.raises(ValueError, match=reason):
        config_of(**values)


def test_classifier_refuses_more_tokens_than_the_context(make_classifier):
    with pytest.raises(ValueError, match="max_tokens 33 is more than the model's context of 32"):
        make_classifier(max_tokens=33)


def test_guard_replies_to_what_it_stops_and_its_folder_has_its_columns(make_ngram_classifier, tmp_path):
    guard = make_ngram_classifier(
        {"cat": [0.0, 9.0, 0.0], "dog": [0.0, 0.0, 9.0]},
        labels=("answer", "crisis", "decline"),
        columns=("request",),
        threshold=0.8,
        replies={"crisis": "Call somebody.", "decline": "I can't help with that."},
    )
    replies = guard_replies(guard, ["the cat", "the moon\nthe dog", "the moon the moon", " "])
    assert replies == ["Call somebody.", "I can't help with that.", None, None]
    assert guard_replies(guard, [""]) == [None]
    (answer,) = serve(guard, [{"request": "the cat"}])
    assert answer["label"] == "crisis"
    assert answer["answer_probability"] + answer["crisis_probability"] + answer["decline_probability"] == pytest.approx(
        1
    )
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
    interface = interface_of(tmp_path)
    assert interface.capabilities == (CLASSIFY,)
    assert interface.example == {"subject": "Meeting on Friday", "body": "Shall we say ten o'clock?"}


def test_loaded_classifier_decides_as_the_saved_one(make_ngram_classifier, tmp_path):
    saved = make_ngram_classifier({"cat": [1.0, -1.0]}, threshold=0.6, unsure=(0.5, 0.7))
    save_model(tmp_path, saved, "classifier")
    loaded = load(tmp_path)
    texts = ["the cat sat", "hat\n\nthe dog ate the hat", "moon"]
    assert loaded.model.config == saved.model.config
    assert np.array_equal(probabilities(loaded, texts), probabilities(saved, texts))


def test_serve_gives_mails_label_and_probability_and_names_what_is_wrong_with_others(make_classifier, classifier):
    chances = probabilities(classifier, ["the cat\n\nsat", "\n\nmoon"])
    is_spam = chances[:, 1] > chances[:, 1].mean()
    rows = [{"subject": "the cat", "body": "sat"}, {"subject": " ", "body": None}, {"body": "moon"}, {"body": 3.5}]
    cat, empty, moon, number = serve(make_classifier(threshold=float(chances[:, 1].mean())), rows)
    assert empty == {"error": "there is no text to classify"}
    assert number == {"error": "body: 3.5 is not text"}
    assert [cat["label"], moon["label"]] == [SPAM[int(spam)] for spam in is_spam]
    assert {*is_spam} == {False, True}
    assert [cat["ham_probability"], cat["spam_probability"]] == chances[0].tolist()
    assert [moon["ham_probability"], moon["spam_probability"]] == chances[1].tolist()


def test_explanation_names_the_phrases_that_make_a_mail_look_like_each_label(make_ngram_classifier):
    loaded = make_ngram_classifier({"cat": [9.0, -9.0], "moon": [-9.0, 9.0]})
    (answer,) = serve(loaded, [{"subject": "moon moon", "body": "a b moon. A cat, or hat."}], explain=9)
    assert answer["label"] == "spam"
    assert answer["moved_by"] == "like spam: “moon moon a b moon.”; like ham: “A cat, or hat.”"
    with pytest.raises(ValueError, match="explain -1"):
        serve(loaded, [{"body": "moon"}], explain=-1)


def test_window_of_a_long_text_is_read_closely_and_both_views_are_added(make_ngram_classifier, make_classifier):
    loaded = make_ngram_classifier({"moon": [-9.0, 9.0]})
    model = loaded.model
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    model.ngrams.search.copy_(model.ngrams.weight[:, 1])
    cover = "the cat sat " * 50
    texts = [f"{cover} moon moon {cover}", "a hat"]
    windows = model.windows(texts)
    assert "moon" in windows[0]
    assert len(windows[0].split()) == 100
    assert windows[1] == texts[1]
    states_NC = states_of(loaded, encode_windows(loaded, windows))
    logits = F.linear(states_NC, model.head.weight, model.head.bias).detach() + model.ngrams(texts, windows)
    chances = probabilities(loaded, texts)
    assert chances == pytest.approx(logits.double().softmax(dim=-1).numpy(), abs=1e-6)
    assert chances[0, 1] > probabilities(loaded, [cover])[0, 1]
    assert make_classifier(labels=THREE, ngram_buckets=64).model.windows(texts) == texts
    assert make_classifier().model.windows(texts) == texts


EMAILS = LabelledTexts(["the cat", "moon", "the dog ate", "hat"], torch.tensor([0, 1, 0, 1]), [1, 2, 3, 4])


def test_output_layer_of_the_gpt_is_not_trained(make_classifier, make_config):
    loaded = make_classifier(tied=False)
    emails = read_texts(loaded, EMAILS)
    goal = objective(loaded.model, make_config(batch_size=2), emails, validation=emails, compute=CPU)
    goal.loss(loaded.model, 0).backward()
    parameters = dict(loaded.model.named_parameters())
    assert [name for name, weight in parameters.items() if weight.grad is None] == ["gpt.output.weight"]
    assert not parameters["gpt.output.weight"].requires_grad


def test_loss_by_hand(classifier, make_config, encoding):
    labels = torch.tensor([0, 0, 0, 1])
    texts = encoding.encode_ordinary_batch(EMAILS.texts)
    config = make_config(batch_size=3)
    emails = read_texts(classifier, LabelledTexts(EMAILS.texts, labels, EMAILS.groups))
    goal = objective(classifier.model, config, emails, validation=emails, compute=CPU)
    logits = [classifier.model(torch.tensor([text]), torch.tensor([len(text)])) for text in texts]
    batches = BatchSampler(4, 3, config.seed, lengths=np.array([len(text) for text in texts]))
    for index in range(3):
        rows = batches[index]
        expected = F.cross_entropy(torch.cat(logits)[rows], labels[rows]).item()
        assert goal.loss(classifier.model, index).item() == pytest.approx(expected, rel=1e-4)


def test_evaluation_gives_loss_and_f1_on_validation_of_the_gpt_alone(classifier, make_config, encoding):
    emails = read_texts(classifier, EMAILS)
    metrics = objective(classifier.model, make_config(), emails, validation=emails, compute=CPU).evaluate()
    logits = classifier.model.head(states_of(classifier, encoding.encode_ordinary_batch(EMAILS.texts))).detach()
    f1 = sklearn.metrics.f1_score(EMAILS.labels.numpy(), np.argmax(logits.numpy(), axis=1))
    assert metrics["validation_loss"] == pytest.approx(F.cross_entropy(logits, EMAILS.labels).item())
    assert metrics["validation_f1"] == pytest.approx(f1)
