import json

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional as F

from llm.dataset import BatchSampler, pad
from llm.device import Compute
from llm.formats.model_folder import save_model
from llm.kernels.processor import has_fast_bfloat16
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives import CLASSIFY, GUARD, interface_of, load
from llm.objectives.classifier import (
    Classifier,
    ClassifierConfig,
    LabelledTexts,
    email_text,
    f1_score,
    guard_replies,
    objective,
    probabilities,
    read_texts,
    serve,
)
from llm.objectives.classifier.inputs import TokenInputs
from llm.objectives.classifier.model import encode_windows

quick = settings(max_examples=25)
texts = st.lists(st.lists(st.integers(0, 250), min_size=1, max_size=32), min_size=1, max_size=7)
CPU = Compute(torch.device("cpu"), torch.float32, "a test")


def make_classifier(gpt: GPT, max_tokens: int = 32, **values) -> Classifier:
    torch.manual_seed(0)
    config = ClassifierConfig(**{"labels": ("ham", "spam"), "max_tokens": max_tokens} | values)
    return Classifier(gpt, config).eval()


def states(model, texts, batch_size=8):
    return model.states_of(TokenInputs(texts), range(len(texts)), batch_size)


@pytest.fixture(scope="module")
def model(make_gpt):
    return make_classifier(make_gpt())


@quick
@given(texts, st.integers(1, 4))
def test_neighbours_and_the_size_of_a_batch_change_no_bit_but_the_last(model, emails, batch_size):
    off = 0.0 if has_fast_bfloat16(CPU.device) else 1e-6  # in float32 torch adds one row's products in another order
    alone = torch.cat([states(model, [email]) for email in emails])
    torch.testing.assert_close(states(model, emails, batch_size), alone, atol=off, rtol=0.0)


@quick
@given(texts)
def test_padding_counts_nowhere(model, emails):
    alone = torch.cat([model.mean_states(torch.tensor([email]), torch.tensor([len(email)])) for email in emails])
    torch.testing.assert_close(states(model, emails), alone.detach(), atol=2e-2, rtol=2e-2)  # bfloat16


@quick
@given(texts, st.integers(0, 250))
def test_it_does_not_matter_what_the_padding_is(model, emails, filler):
    tokens, lengths = pad(emails, 0)
    others, _ = pad(emails, filler)
    assert torch.equal(model(tokens, lengths), model(others, lengths))


def test_the_mean_of_all_real_tokens_decides(model, make_gpt):
    email = [5, 6, 7, 8]
    hidden = make_gpt().hidden_states(torch.tensor([email]))[0]
    with torch.inference_mode():
        (logits,) = model(torch.tensor([email + [1] * 9]), torch.tensor([4]))
    assert torch.allclose(logits, model.head(hidden.mean(dim=0)), atol=1e-5)


def test_an_email_is_subject_then_body_of_which_the_gpt_reads_so_many_tokens(make_gpt, encoding):
    text = email_text("the cat", "sat")
    assert text == "the cat\n\nsat"
    tokens = encoding.encode_ordinary(text)
    assert encode_windows(LoadedModel(make_classifier(make_gpt(), max_tokens=3), encoding), [text]) == [tokens[:3]]
    assert encode_windows(LoadedModel(make_classifier(make_gpt()), encoding), [text]) == [tokens]


def test_what_somebody_types_is_no_special_token(make_gpt, encoding):
    model, text = make_classifier(make_gpt()), ["<|endoftext|>"]
    states_NC = states(model, [encoding.encode("<|endoftext|>", disallowed_special=())])
    expected = model.logits(text, text, states_NC).double().softmax(dim=-1)
    assert np.array_equal(probabilities(LoadedModel(model, encoding), text), expected.numpy())


TEXTS = ["the cat sat", "hat\n\nthe dog ate the hat", "moon"]


def test_a_text_is_given_the_second_label_above_the_threshold_and_without_one_the_likeliest(make_gpt):
    second = np.array([0.2, 0.69, 0.7, 0.71])
    found = np.stack([1 - second, second], axis=1)
    assert make_classifier(make_gpt(), threshold=0.7).config.decide(found).tolist() == [0, 0, 0, 1]
    assert make_classifier(make_gpt()).config.decide(found).tolist() == [0, 1, 1, 1]
    three = make_classifier(make_gpt(), labels=("a", "b", "c"))
    chances = np.array([[0.4, 0.35, 0.25], [0.2, 0.3, 0.5]])
    assert three.config.decide(chances).tolist() == [0, 2]
    assert make_classifier(make_gpt(), labels=("a", "b", "c"), threshold=0.5).config.decide(chances).tolist() == [1, 2]
    assert make_classifier(make_gpt(), labels=("a", "b", "c"), threshold=0.7).config.decide(chances).tolist() == [0, 2]


def test_between_two_bounds_around_its_threshold_it_is_unsure_and_says_where_it_leans_to(make_gpt, encoding):
    model = make_classifier(make_gpt(), threshold=0.7, unsure=(0.3, 0.9))
    second = np.array([0.3, 0.31, 0.9, 0.91])
    assert model.config.is_unsure(np.stack([1 - second, second], axis=1)).tolist() == [False, True, True, False]
    assert not make_classifier(make_gpt(), threshold=0.7).config.is_unsure(np.array([[0.3, 0.7]])).any()
    low, high = sorted(probabilities(LoadedModel(model, encoding), ["\n\nmoon", "\n\nthe cat"])[:, 1])
    middle = (low + high) / 2
    unsure = make_classifier(make_gpt(), threshold=low - 1e-6, unsure=(low - 2e-6, middle))
    answers = serve(LoadedModel(unsure, encoding), [{"body": "moon"}, {"body": "the cat"}])
    assert {(answer["label"], answer["leaning"]) for answer in answers} == {("unsure", "spam"), ("spam", "spam")}
    with pytest.raises(ValueError, match=r"threshold 0\.5 is not between these bounds"):
        ClassifierConfig(labels=("ham", "spam"), max_tokens=8, threshold=0.5, unsure=(0.6, 0.9))
    with pytest.raises(ValueError, match="unsure is the answer where no label is sure"):
        ClassifierConfig(labels=("ham", "unsure"), max_tokens=8)


def test_no_label_stands_twice_and_what_passes_has_no_reply():
    with pytest.raises(ValueError, match="replies: 'a' is not one of b, c, the labels that do not pass"):
        ClassifierConfig(labels=("a", "b", "c"), max_tokens=8, replies={"a": "No."})
    with pytest.raises(ValueError, match="one stands there twice"):
        ClassifierConfig(labels=("a", "a"), max_tokens=8)


def with_ngrams(make_gpt, weights: dict[str, list[float]], **values) -> Classifier:
    """A classifier by n-grams alone, whose texts get these logits for each word that they have."""
    model = make_classifier(make_gpt(), ngram_buckets=2**16, **values)
    model.head.weight.data.zero_()
    model.ngrams.idf.fill_(1.0)
    for word, logits in weights.items():
        model.ngrams.weight[model.ngrams.features([word], [word])[0][:1]] = torch.tensor(logits)
    return model


def test_a_guard_replies_to_what_it_stops_and_its_folder_says_what_it_reads(make_gpt, encoding, tmp_path):
    values = {"labels": ("answer", "crisis", "decline"), "columns": ("request",), "threshold": 0.8}
    values |= {"replies": {"crisis": "Call somebody.", "decline": "I can't help with that."}}
    guard = with_ngrams(make_gpt, {"cat": [0.0, 9.0, 0.0], "dog": [0.0, 0.0, 9.0]}, **values)
    replies = guard_replies(LoadedModel(guard, encoding), ["the cat", "the moon\nthe dog", "the moon the moon", " "])
    assert replies == ["Call somebody.", "I can't help with that.", None, None]
    assert guard_replies(LoadedModel(guard, encoding), [""]) == [None]
    assert serve(LoadedModel(guard, encoding), [{"request": "the cat"}])[0]["label"] == "crisis"
    save_model(tmp_path, LoadedModel(guard, encoding), "classifier")
    assert interface_of(tmp_path).capabilities == (GUARD,)
    assert {*interface_of(tmp_path).inputs} == {*interface_of(tmp_path).example} == {"request"}


def test_a_folder_from_before_columns_and_replies_reads_mails(make_gpt, encoding, tmp_path):
    save_model(tmp_path, LoadedModel(make_classifier(make_gpt()), encoding), "classifier")
    written = json.loads((tmp_path / "config.json").read_text())
    del written["classifier"]["columns"], written["classifier"]["replies"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert load(tmp_path)[0].config.columns == ("subject", "body")
    assert interface_of(tmp_path).capabilities == (CLASSIFY,)
    assert interface_of(tmp_path).example == {"subject": "Meeting on Friday", "body": "Shall we say ten o'clock?"}


def test_all_that_it_decides_by_comes_back_with_the_weights(make_gpt, encoding, tmp_path):
    values = {"threshold": 0.6, "unsure": (0.5, 0.7)}
    made = with_ngrams(make_gpt, {"cat": [1.0, -1.0]}, **values)
    save_model(tmp_path, LoadedModel(made, encoding), "classifier")
    model, encoding_again = load(tmp_path)
    assert model.config == made.config
    assert np.array_equal(
        probabilities(LoadedModel(model, encoding_again), TEXTS), probabilities(LoadedModel(made, encoding), TEXTS)
    )


def test_served_mails_get_label_and_probability_and_an_empty_one_says_why_and_leaves_the_others_alone(
    make_gpt, encoding
):
    rows = [{"subject": "the cat", "body": "sat"}, {"subject": " ", "body": None}, {"body": "moon"}, {"body": 3.5}]
    found = probabilities(LoadedModel(make_classifier(make_gpt()), encoding), ["the cat\n\nsat", "\n\nmoon"])
    assert found[0, 1] != found[1, 1]
    model = make_classifier(make_gpt(), threshold=float(found[:, 1].mean()))
    good, empty, other, number = serve(LoadedModel(model, encoding), rows)
    assert empty == {"error": "there is no text to classify"}
    assert number == {"error": "body: 3.5 is not text"}
    labels = ("ham", "spam") if found[0, 1] < found[1, 1] else ("spam", "ham")
    assert (good["label"], other["label"]) == labels
    assert [[row["ham_probability"], row["spam_probability"]] for row in (good, other)] == found.tolist()


def test_an_explanation_names_the_phrases_that_make_it_look_like_each_label(make_gpt, encoding):
    model = with_ngrams(make_gpt, {"cat": [9.0, -9.0], "moon": [-9.0, 9.0]})
    (answer,) = serve(
        LoadedModel(model, encoding), [{"subject": "moon moon", "body": "A cat. No moon, or hat."}], explain=9
    )
    assert answer["label"] == "spam"
    assert answer["moved_by"] == "like ham: “A cat.”, “or hat.”; like spam: “moon moon”, “No moon,”"
    with pytest.raises(ValueError, match="explain -1 is no number of phrases"):
        serve(LoadedModel(model, encoding), [{"body": "moon"}], explain=-1)


def test_any_number_of_labels_is_told_apart(make_gpt, encoding):
    names = ("billing", "press", "sales")
    words = {"cat": [9.0, 0.0, 0.0], "moon": [0.0, 9.0, 0.0], "dog": [0.0, 0.0, 9.0]}
    model = with_ngrams(make_gpt, words, labels=names)
    answers = serve(LoadedModel(model, encoding), [{"body": text} for text in ("the cat", "a moon", "dog")])
    assert [answer["label"] for answer in answers] == list(names)
    assert all(abs(sum(answer[f"{name}_probability"] for name in names) - 1) < 1e-9 for answer in answers)


def test_of_a_long_text_the_window_is_read_closely_and_both_views_are_added(make_gpt, encoding):
    model = with_ngrams(make_gpt, {"moon": [-9.0, 9.0]})
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    model.ngrams.search.copy_(model.ngrams.weight[:, 1])
    cover = "the cat sat " * 50
    texts = [f"{cover} moon moon {cover}", "a hat"]
    windows = model.windows(texts)
    assert "moon" in windows[0]
    assert len(windows[0].split()) == 100
    assert windows[1] == texts[1]
    states_NC = states(model, encode_windows(LoadedModel(model, encoding), windows))
    logits = F.linear(states_NC, model.head.weight, model.head.bias).detach() + model.ngrams(texts, windows)
    assert probabilities(LoadedModel(model, encoding), texts) == pytest.approx(
        logits.double().softmax(dim=-1).numpy(), abs=1e-6
    )
    assert (
        probabilities(LoadedModel(model, encoding), texts)[0, 1]
        > probabilities(LoadedModel(model, encoding), [cover])[0, 1]
    )
    three = make_classifier(make_gpt(), labels=("a", "b", "c"), ngram_buckets=64)
    assert three.windows(texts) == make_classifier(make_gpt()).windows(texts) == texts


def test_an_unknown_option_is_refused(model, encoding):
    with pytest.raises(TypeError, match="temperature"):
        serve(LoadedModel(model, encoding), [{"body": "moon"}], temperature=1.0)


@quick
@given(st.integers(1, 20).flatmap(lambda n: st.tuples(arrays(bool, n), arrays(bool, n))))
def test_f1_is_that_of_scikit_learn(pair):
    assert f1_score(*pair, 2) == pytest.approx(sklearn.metrics.f1_score(*pair, zero_division=0))
    numbers = [each.astype(int) + np.arange(len(each)) % 2 for each in pair]
    assert f1_score(*numbers, 3) == pytest.approx(
        sklearn.metrics.f1_score(*numbers, average="macro", zero_division=0)  # of the labels that are there
    )


EMAILS = LabelledTexts(["the cat", "moon", "the dog ate", "hat"], torch.tensor([0, 1, 0, 1]), [1, 2, 3, 4])


def test_an_output_layer_of_its_own_is_not_trained_for_no_text_is_predicted(make_gpt, make_config, encoding):
    model = make_classifier(make_gpt(tied=False))
    emails = read_texts(LoadedModel(model, encoding), EMAILS)
    objective(model, make_config(batch_size=2), emails, validation=emails, compute=CPU).loss(model, 0).backward()
    idle = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert idle == {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert idle == {"gpt.output.weight"}


def test_more_tokens_than_the_context_are_refused(make_gpt):
    with pytest.raises(ValueError, match="max_tokens 33 is more than the model's context of 32"):
        make_classifier(make_gpt(), max_tokens=33)


def test_the_loss_by_hand(model, make_config, encoding):
    emails = LabelledTexts(EMAILS.texts, torch.tensor([0, 0, 0, 1]), EMAILS.groups)
    tokens = encoding.encode_ordinary_batch(emails.texts)
    config = make_config(batch_size=3)
    read = read_texts(LoadedModel(model, encoding), emails)
    goal = objective(model, config, read, validation=read, compute=CPU)
    for index in range(3):
        rows = BatchSampler(4, 3, config.seed, lengths=np.array(list(map(len, tokens))))[index]
        logits = torch.cat([model(torch.tensor([tokens[row]]), torch.tensor([len(tokens[row])])) for row in rows])
        assert goal.loss(model, index).item() == pytest.approx(
            F.cross_entropy(logits, emails.labels[rows]).item(), rel=1e-4
        )


def test_an_evaluation_says_loss_and_f1_on_validation_of_the_gpt_alone(model, make_config, encoding):
    emails = read_texts(LoadedModel(model, encoding), EMAILS)
    found = objective(model, make_config(), emails, validation=emails, compute=CPU).evaluate()
    logits = model.head(states(model, encoding.encode_ordinary_batch(EMAILS.texts))).detach()
    assert found["validation_loss"] == pytest.approx(F.cross_entropy(logits, EMAILS.labels).item())
    guess = np.argmax(logits.numpy(), axis=1)
    assert found["validation_f1"] == pytest.approx(sklearn.metrics.f1_score(EMAILS.labels.numpy(), guess))
