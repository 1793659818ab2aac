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
from llm.model.gpt import GPT
from llm.objectives import classifier, load
from llm.objectives.classifier import (
    Classifier,
    ClassifierConfig,
    email_text,
    f1_score,
    finish,
    gpt_logits,
    objective,
    predict,
    probabilities,
    serve,
)
from llm.objectives.classifier.text_selection import LabelledTexts

quick = settings(max_examples=25)
texts = st.lists(st.lists(st.integers(0, 250), min_size=1, max_size=32), min_size=1, max_size=7)
CPU = Compute(torch.device("cpu"), torch.float32, "a test")


def make_classifier(gpt: GPT, max_tokens: int = 32, **values) -> Classifier:
    torch.manual_seed(0)
    config = ClassifierConfig(**{"labels": ("ham", "spam"), "max_tokens": max_tokens} | values)
    return Classifier(gpt, config).eval()


@pytest.fixture(scope="module")
def model(make_gpt):
    return make_classifier(make_gpt())


@quick
@given(texts, st.integers(1, 4))
def test_neighbours_and_the_size_of_a_batch_change_no_bit_but_the_last(model, emails, batch_size):
    off = 0.0 if has_fast_bfloat16(CPU.device) else 1e-6  # in float32 torch adds one row's products in another order
    alone = torch.cat([gpt_logits(model, [email]) for email in emails])
    torch.testing.assert_close(gpt_logits(model, emails, batch_size), alone, atol=off, rtol=0.0)


@quick
@given(texts)
def test_padding_counts_nowhere(model, emails):
    alone = torch.cat([model(torch.tensor([email]), torch.tensor([len(email)])) for email in emails]).detach()
    torch.testing.assert_close(gpt_logits(model, emails), alone, atol=2e-2, rtol=2e-2)  # bfloat16, where it is fast


@quick
@given(texts, st.integers(0, 250))
def test_it_does_not_matter_what_the_padding_is(model, emails, filler):
    tokens, lengths = pad(emails, 0)
    others, _ = pad(emails, filler)
    assert torch.equal(model(tokens, lengths), model(others, lengths))


def test_the_last_real_token_and_the_mean_of_all_decide(model, make_gpt):
    email = [5, 6, 7, 8]
    hidden = make_gpt().hidden_states(torch.tensor([email]))[0]
    decisive = torch.cat([hidden[3], hidden.mean(dim=0)])
    with torch.inference_mode():
        (logits,) = model(torch.tensor([email + [1] * 9])[:, :4], torch.tensor([4]))
    assert torch.allclose(logits, model.head(decisive), atol=1e-5)


def test_an_email_is_subject_then_body_of_which_the_gpt_reads_so_many_tokens(model, make_gpt, encoding):
    text = email_text("the cat", "sat")
    assert text == "the cat\n\nsat"
    tokens = encoding.encode_ordinary(text)
    assert model.read([tokens]) == ([tokens], [], [])
    short = make_classifier(make_gpt(), max_tokens=3)
    assert short.read([tokens]) == ([tokens[:3]], [], [])
    assert torch.equal(predict(short, [tokens]), predict(short, [tokens[:3]]))


def test_what_somebody_types_is_no_special_token(make_gpt, encoding):
    model = make_classifier(make_gpt())
    plain = predict(model, [encoding.encode("<|endoftext|>", disallowed_special=())]).double().softmax(dim=-1)
    assert np.array_equal(probabilities(model, encoding, ["<|endoftext|>"]), plain.numpy())


TEXTS = ["the cat sat", "hat\n\nthe dog ate the hat", "moon"]


def test_probabilities_are_the_softmax_of_the_logits(model, encoding):
    logits = predict(model, encoding.encode_ordinary_batch(TEXTS)).double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert probabilities(model, encoding, TEXTS) == pytest.approx(expected, rel=1e-9)


def test_a_text_is_given_the_second_label_above_the_threshold_and_without_one_the_likeliest(make_gpt):
    second = np.array([0.2, 0.69, 0.7, 0.71])
    found = np.stack([1 - second, second], axis=1)
    assert make_classifier(make_gpt(), threshold=0.7).decide(found).tolist() == [0, 0, 0, 1]
    assert make_classifier(make_gpt()).decide(found).tolist() == [0, 1, 1, 1]
    three = make_classifier(make_gpt(), labels=("a", "b", "c"))
    assert three.decide(np.array([[0.4, 0.35, 0.25], [0.2, 0.3, 0.5]])).tolist() == [0, 2]


def test_between_two_bounds_around_its_threshold_it_is_unsure_and_says_where_it_leans_to(make_gpt, encoding):
    model = make_classifier(make_gpt(), threshold=0.7, unsure=(0.3, 0.9))
    second = np.array([0.3, 0.31, 0.9, 0.91])
    assert model.is_unsure(np.stack([1 - second, second], axis=1)).tolist() == [False, True, True, False]
    assert not make_classifier(make_gpt(), threshold=0.7).is_unsure(np.array([[0.3, 0.7]])).any()
    low, high = sorted(probabilities(model, encoding, ["\n\nmoon", "\n\nthe cat"])[:, 1])
    middle = (low + high) / 2
    unsure = make_classifier(make_gpt(), threshold=low - 1e-6, unsure=(low - 2e-6, middle))
    answers = serve(unsure, encoding, [{"body": "moon"}, {"body": "the cat"}])
    assert {(answer["label"], answer["leaning"]) for answer in answers} == {("unsure", "spam"), ("spam", "spam")}
    with pytest.raises(ValueError, match=r"threshold 0\.5 is not between these bounds"):
        ClassifierConfig(labels=("ham", "spam"), max_tokens=8, threshold=0.5, unsure=(0.6, 0.9))
    with pytest.raises(ValueError, match="unsure is the answer where no label is sure"):
        ClassifierConfig(labels=("ham", "unsure"), max_tokens=8)


def test_a_threshold_is_of_two_labels_and_no_label_stands_twice():
    with pytest.raises(ValueError, match=r"threshold 0\.5: there are 3 labels"):
        ClassifierConfig(labels=("a", "b", "c"), max_tokens=8, threshold=0.5)
    with pytest.raises(ValueError, match="one stands there twice"):
        ClassifierConfig(labels=("a", "a"), max_tokens=8)


def test_all_that_it_decides_by_comes_back_with_the_weights(make_gpt, encoding, tmp_path):
    made = make_classifier(make_gpt(), max_tokens=3, ngram_buckets=64)
    rows = LabelledTexts(encoding.encode_ordinary_batch(TEXTS * 4), torch.tensor([0, 1, 0] * 4))
    made.ngrams.fit(rows.tokens, rows.labels, torch.ones(2))
    finish(made, rows, false_positive_rate=0.1, seed=1)
    assert min(made.config.ngram_weights) > 0
    save_model(tmp_path, made, encoding, "classifier")
    model, encoding_again = load(tmp_path)
    assert model.config == made.config
    assert np.array_equal(probabilities(model, encoding_again, TEXTS), probabilities(made, encoding, TEXTS))


def test_served_mails_get_label_and_probability_and_an_empty_one_says_why_and_leaves_the_others_alone(
    make_gpt, encoding
):
    rows = [{"subject": "the cat", "body": "sat"}, {"subject": " ", "body": None}, {"body": "moon"}, {"body": 3.5}]
    found = probabilities(make_classifier(make_gpt()), encoding, ["the cat\n\nsat", "\n\nmoon"])
    assert found[0, 1] != found[1, 1]
    model = make_classifier(make_gpt(), threshold=float(found[:, 1].mean()))
    good, empty, other, number = serve(model, encoding, rows)
    assert empty == {"error": "there is no text to classify"}
    assert number == {"error": "body: 3.5 is not text"}
    labels = ("ham", "spam") if found[0, 1] < found[1, 1] else ("spam", "ham")
    assert (good["label"], other["label"]) == labels
    assert [[row["ham_probability"], row["spam_probability"]] for row in (good, other)] == found.tolist()


def with_ngrams(make_gpt, encoding, texts: list[str], labels: list[int], names=("ham", "spam")) -> Classifier:
    """A classifier whose linear model has learned these texts, and decides alone."""
    model = make_classifier(make_gpt(), ngram_buckets=4096, labels=names)
    model.ngrams.fit(encoding.encode_ordinary_batch(texts), torch.tensor(labels), torch.ones(len(names)))
    weights = (2.0, 0.0) if len(names) == 2 else (2.0,)
    model.config = model.config.model_copy(update={"gpt_weight": 1e-9, "ngram_weights": weights})
    return model


def test_an_explanation_names_the_phrases_that_make_it_look_like_each_label(make_gpt, encoding):
    model = with_ngrams(make_gpt, encoding, ["the cat", "the dog", "moon hat", "moon mat"] * 3, [0, 0, 1, 1] * 3)
    (answer,) = serve(model, encoding, [{"subject": "moon hat", "body": "moon mat, moon hat. The dog."}], explain=9)
    assert answer["label"] == "spam"
    assert answer["moved_by"].endswith("; like ham: “The dog.”")
    assert answer["moved_by"].startswith("like spam: “moon ")
    with pytest.raises(ValueError, match="explain -1 is no number of phrases"):
        serve(model, encoding, [{"body": "moon"}], explain=-1)


def test_what_the_linear_model_is_certain_of_is_not_read_by_the_gpt(make_gpt, encoding, monkeypatch):
    model = with_ngrams(make_gpt, encoding, ["the cat", "the dog", "moon hat", "moon mat"] * 3, [0, 0, 1, 1] * 3)
    found = {"gpt_weight": 1.0, "ngram_weights": (2.0, 0.0), "bias": (0.5, -0.5)}
    found |= {"alone_weights": (2.0, 1.0, 0.0), "alone_bias": (0.1, -0.1)}
    texts = encoding.encode_ordinary_batch(["the the cat", "sat on", "moon moon mat", "a"])
    linear, gpt = model.ngrams(texts), gpt_logits(model, texts)
    alone = 3 * linear + torch.tensor([0.1, -0.1])
    sure = alone.softmax(dim=-1).amax(dim=-1)
    assert sure[[0, 2]].min() > sure[[1, 3]].max()
    found["certain"] = float(sure[[0, 2]].min())
    model.config = model.config.model_copy(update=found)
    read = []
    monkeypatch.setattr(classifier, "gpt_logits", lambda _, texts, *rest: read.extend(texts) or gpt_logits(_, texts))
    logits = predict(model, texts)
    assert read == [texts[1], texts[3]]
    both = gpt + 2 * linear + torch.tensor([0.5, -0.5])
    assert torch.equal(logits[[0, 2]], alone[[0, 2]])
    assert torch.allclose(logits[[1, 3]], both[[1, 3]])
    assert torch.equal(predict(model, texts, as_the_first=True), alone)
    assert torch.allclose(predict(model, texts[::-1], as_the_first=True), both.flip(0))


def test_certain_is_somebody_who_is_there():
    with pytest.raises(ValueError, match=r"certain 0\.9: without ngram_buckets there is no linear model"):
        ClassifierConfig(labels=("ham", "spam"), max_tokens=8, certain=0.9)


def test_any_number_of_labels_is_learned_and_told(make_gpt, make_config, encoding):
    names = ("billing", "press", "sales")
    texts, labels = ["the cat", "moon hat", "a dog ate"] * 4, [0, 1, 2] * 4
    model = with_ngrams(make_gpt, encoding, texts, labels, names)
    rows = LabelledTexts(encoding.encode_ordinary_batch(texts), torch.tensor(labels))
    finish(model, rows, false_positive_rate=0.01, seed=1)
    assert (model.config.threshold, model.config.false_positive_rate) == (None, None)
    answers = serve(model, encoding, [{"body": text} for text in texts[:3]])
    assert [answer["label"] for answer in answers] == list(names)
    assert all(abs(sum(answer[f"{name}_probability"] for name in names) - 1) < 1e-9 for answer in answers)
    found = objective(model, make_config(batch_size=3), rows, rows, CPU, balanced=False).evaluate()
    guess = gpt_logits(model, rows.tokens).argmax(dim=1)
    assert found["validation_f1"] == pytest.approx(
        sklearn.metrics.f1_score(labels, guess, average="macro", zero_division=0)
    )


def test_an_unknown_option_is_refused(model, encoding):
    with pytest.raises(TypeError, match="temperature"):
        serve(model, encoding, [{"body": "moon"}], temperature=1.0)


@quick
@given(st.integers(1, 20).flatmap(lambda n: st.tuples(arrays(bool, n), arrays(bool, n))))
def test_f1_is_that_of_scikit_learn(pair):
    assert f1_score(*pair, 2) == pytest.approx(sklearn.metrics.f1_score(*pair, zero_division=0))
    numbers = [each.astype(int) + np.arange(len(each)) % 2 for each in pair]
    assert f1_score(*numbers, 3) == pytest.approx(
        sklearn.metrics.f1_score(*numbers, average="macro", zero_division=0)  # of the labels that are there
    )


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_frozen_layers_stay_and_the_rest_learns(make_gpt, make_config, layers):
    model = make_classifier(make_gpt())
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    model.freeze(layers)
    emails = LabelledTexts([[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]], torch.tensor([0, 1, 0, 1]))
    goal = objective(model, make_config(), emails, emails, CPU, balanced=False)
    goal.loss(0).backward()
    torch.optim.SGD([weight for weight in model.parameters() if weight.grad is not None], lr=1.0).step()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    frozen = tuple(f"gpt.blocks.{layer}." for layer in range(layers)) + (("gpt.embedding.",) if layers else ())
    assert moved == {name for name in before if not name.startswith(frozen)}


def test_an_output_layer_of_its_own_is_not_trained_for_no_text_is_predicted(make_gpt, make_config):
    model = make_classifier(make_gpt(tied=False))
    emails = LabelledTexts([[1, 2, 3], [4, 5]], torch.tensor([0, 1]))
    objective(model, make_config(batch_size=2), emails, emails, CPU, balanced=False).loss(0).backward()
    idle = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert idle == {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert idle == {"gpt.output.weight"}


def test_more_frozen_layers_than_blocks_and_more_tokens_than_the_context_are_refused(make_gpt):
    with pytest.raises(ValueError, match="frozen_layers 3 is more than the model's 2 blocks"):
        make_classifier(make_gpt()).freeze(3)
    with pytest.raises(ValueError, match="max_tokens 33 is more than the model's context of 32"):
        make_classifier(make_gpt(), max_tokens=33)


@pytest.mark.parametrize("balanced", [True, False])
def test_the_loss_by_hand_with_and_without_class_weights(model, make_config, balanced):
    emails = LabelledTexts([[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]], torch.tensor([0, 0, 0, 1]))
    config = make_config(batch_size=3)
    goal = objective(model, config, emails, emails, CPU, balanced=balanced)
    for index in range(3):
        rows = BatchSampler(4, 3, config.seed, np.array([3, 2, 4, 1]))[index]
        logits = torch.cat(
            [model(torch.tensor([emails.tokens[row]]), torch.tensor([len(emails.tokens[row])])) for row in rows]
        )
        losses = F.cross_entropy(logits, emails.labels[rows], reduction="none")
        weights = torch.tensor([4 / 6, 4 / 2])[emails.labels[rows]] if balanced else torch.ones(3)
        assert goal.loss(index).item() == pytest.approx(((losses * weights).sum() / weights.sum()).item(), rel=1e-4)


def test_an_evaluation_says_loss_and_f1_on_validation(model, make_config):
    emails = LabelledTexts([[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]], torch.tensor([0, 1, 1, 1]))
    found = objective(model, make_config(), emails, emails, CPU, balanced=True).evaluate()
    logits = gpt_logits(model, emails.tokens)
    assert found["validation_loss"] == pytest.approx(F.cross_entropy(logits, emails.labels).item())
    guess = np.argmax(logits.numpy(), axis=1)
    assert found["validation_f1"] == pytest.approx(sklearn.metrics.f1_score(emails.labels.numpy(), guess))


def test_of_a_long_text_the_gpt_reads_the_window_that_is_most_like_the_second_label(make_gpt, encoding):
    ham, spam = encoding.encode_ordinary("the cat sat on the mat"), encoding.encode_ordinary("moon hat moon")
    size = len(spam)
    model = make_classifier(make_gpt(), max_tokens=size, ngram_buckets=4096)
    model.ngrams.fit([ham, ham, spam, spam], torch.tensor([0, 0, 1, 1]), torch.ones(2))
    cover = (ham * 5)[: size // 2 * 5]
    for text, windows in (([*cover, *spam, *cover], None), (spam, 1), ([*spam, *cover], None), (ham[:2], 1)):
        (window,), (whole, strongest, count), beside = model.read([text])
        assert window == (spam if spam[0] in text else text)
        assert torch.equal(strongest, model.ngrams([window]))
        assert torch.equal(whole, model.ngrams([text]))
        assert [each.tolist() for each in beside] == [strongest.tolist(), count.tolist()]
        many = len(range(0, max(1, len(text) - size + size // 2), size // 2))
        assert many == (windows or many)
        assert count.tolist() == [[pytest.approx(np.log(many)), 0]]
    assert strongest[0, 1] < model.ngrams([spam])[0, 1]


def test_what_both_models_count_is_chosen_on_validation_and_the_threshold_keeps_its_budget(make_gpt):
    model = make_classifier(make_gpt(), ngram_buckets=256)
    texts = [[n % 250 + 1, n % 7 + 1, n % 11 + 1] for n in range(60)]
    with torch.no_grad():
        model.head.weight.mul_(40)  # far too sure
    noise = 2 * torch.randn(60, generator=torch.Generator().manual_seed(1))
    rows = LabelledTexts(texts, (gpt_logits(model, texts)[:, 1] + noise > 0).long())
    before = F.cross_entropy(gpt_logits(model, texts), rows.labels)
    model.ngrams.fit(rows.tokens, rows.labels, torch.ones(2))
    finish(model, rows, false_positive_rate=0.1, seed=1)
    assert F.cross_entropy(predict(model, texts), rows.labels) < before
    mixed = model.config.gpt_weight * gpt_logits(model, texts) + model.config.ngram_weights[0] * model.ngrams(texts)
    assert torch.allclose(predict(model, texts), mixed + torch.tensor(model.config.bias))
    with_cascade = make_classifier(make_gpt(), ngram_buckets=256, certain=0.9)
    with_cascade.load_state_dict(model.state_dict())
    said = finish(with_cascade, rows, false_positive_rate=0.1, seed=1)
    assert with_cascade.config.false_positive_rate == 0.1  # as the evaluation's baseline is given it
    logits = predict(with_cascade, texts)
    assert said["calibrated_validation_loss"] == pytest.approx(F.cross_entropy(logits, rows.labels).item(), rel=1e-5)
    config = with_cascade.config
    alone = sum(config.alone_weights[:2]) * with_cascade.ngrams(texts) + torch.tensor(config.alone_bias)
    unsure = alone.softmax(dim=-1).amax(dim=-1) < 0.9
    assert said["read_by_gpt"] == int(unsure.sum()) / len(texts)
    assert 0 < unsure.sum() < len(texts)
    wrong = model.decide(predict(model, texts).double().softmax(dim=-1).numpy()) & (rows.labels.numpy() == 0)
    assert wrong.sum() <= 0.1 * (rows.labels == 0).sum()
