import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional as F

from llm.applications import load
from llm.applications.classifier import (
    Classifier,
    ClassifierConfig,
    LabelledTexts,
    best_threshold,
    calibrate,
    email_text,
    encode_texts,
    f1_score,
    objective,
    predict,
    probabilities,
    serve,
)
from llm.dataset import BatchSampler, pad
from llm.device import Compute
from llm.formats.model_folder import save_model
from llm.model.gpt import GPT

quick = settings(max_examples=25, deadline=None)
texts = st.lists(st.lists(st.integers(0, 250), min_size=1, max_size=32), min_size=1, max_size=7)
CPU = Compute(torch.device("cpu"), torch.float32, "a test")


def make_classifier(gpt: GPT, max_tokens: int = 32, threshold: float = 0.5) -> Classifier:
    torch.manual_seed(0)
    config = ClassifierConfig(labels=("ham", "spam"), max_tokens=max_tokens, threshold=threshold)
    return Classifier(gpt, config).eval()


@pytest.fixture(scope="module")
def model(make_gpt):
    return make_classifier(make_gpt())


@quick
@given(texts, st.integers(1, 4))
def test_padding_and_neighbours_change_nothing(model, emails, batch_size):
    alone = torch.cat([model(torch.tensor([email]), torch.tensor([len(email)])) for email in emails]).detach()
    torch.testing.assert_close(predict(model, emails, batch_size), alone, atol=1e-5, rtol=1e-4)


@quick
@given(texts, st.integers(0, 250))
def test_it_does_not_matter_what_the_padding_is(model, emails, filler):
    tokens, lengths = pad(emails, 0)
    others, _ = pad(emails, filler)
    assert torch.equal(model(tokens, lengths), model(others, lengths))


def test_the_last_real_token_and_the_mean_of_all_decide(model, make_gpt):
    email = [5, 6, 7, 8]
    features = make_gpt().features(torch.tensor([email]))[0]
    decisive = torch.cat([features[3], features.mean(dim=0)])
    (logits, _) = predict(model, [email, [1] * 9])
    assert torch.allclose(logits, model.head(decisive), atol=1e-5)


def test_an_email_is_subject_then_body_cut_after_so_many_tokens(encoding):
    text = email_text("the cat", "sat")
    assert text == "the cat\n\nsat"
    whole, typed = encode_texts(encoding, [text, "<|endoftext|>"], 32)
    assert encoding.decode(whole) == text
    assert encode_texts(encoding, [text], 3) == [whole[:3]]
    assert encoding.eot_token not in typed


TEXTS = ["the cat sat", "hat\n\nthe dog ate the hat", "moon"]


def test_the_probability_of_the_second_label_is_the_softmax_of_its_logit(model, encoding):
    logits = predict(model, encode_texts(encoding, TEXTS, 32))
    expected = 1 / (1 + (logits[:, 0] - logits[:, 1]).exp())
    assert probabilities(model, encoding, TEXTS) == pytest.approx(expected.numpy(), rel=1e-5)


def test_a_text_is_given_the_second_label_from_the_threshold_on(make_gpt):
    found = np.array([0.2, 0.69, 0.7, 0.71])
    assert make_classifier(make_gpt(), threshold=0.7).decide(found).tolist() == [False, False, True, True]
    assert make_classifier(make_gpt()).decide(found).tolist() == [False, True, True, True]


def test_labels_limit_and_threshold_come_back_with_the_weights(make_gpt, encoding, tmp_path):
    made = make_classifier(make_gpt(), max_tokens=3, threshold=0.7)
    save_model(tmp_path, made, encoding, "classifier")
    model, encoding_again = load(tmp_path)
    assert model.config == made.config == ClassifierConfig(labels=("ham", "spam"), max_tokens=3, threshold=0.7)
    assert np.array_equal(probabilities(model, encoding_again, TEXTS), probabilities(made, encoding, TEXTS))


def test_served_mails_get_label_and_probability_and_an_empty_one_says_why_and_leaves_the_others_alone(
    make_gpt, encoding
):
    rows = [{"subject": "the cat", "body": "sat"}, {"subject": " ", "body": None}, {"body": "moon"}, {"body": 3.5}]
    found = probabilities(make_classifier(make_gpt()), encoding, ["the cat\n\nsat", "\n\nmoon"])
    assert found[0] != found[1]
    model = make_classifier(make_gpt(), threshold=float(found.mean()))
    good, empty, other, number = serve(model, encoding, rows)
    assert empty == {"error": "there is no text to classify"}
    assert number == {"error": "body: 3.5 is not text"}
    labels = ("ham", "spam") if found[0] < found[1] else ("spam", "ham")
    assert (good["label"], other["label"]) == labels
    assert [good["spam_probability"], other["spam_probability"]] == pytest.approx(found.tolist(), rel=1e-5)


def test_an_option_is_refused_for_there_are_none(model, encoding):
    with pytest.raises(TypeError, match="temperature"):
        serve(model, encoding, [{"body": "moon"}], temperature=1.0)


@quick
@given(st.integers(1, 20).flatmap(lambda n: st.tuples(arrays(bool, n), arrays(bool, n))))
def test_f1_is_that_of_scikit_learn(pair):
    assert f1_score(*pair) == pytest.approx(sklearn.metrics.f1_score(*pair, zero_division=0))


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
    logits = predict(model, emails.tokens)
    assert found["validation_loss"] == pytest.approx(F.cross_entropy(logits, emails.labels).item())
    guess = np.argmax(logits.numpy(), axis=1)
    assert found["validation_f1"] == pytest.approx(sklearn.metrics.f1_score(emails.labels.numpy(), guess))


def test_a_long_text_is_read_from_both_ends(encoding):
    whole = encoding.encode_ordinary("the cat sat on the mat the dog ate")
    (cut,) = encode_texts(encoding, ["the cat sat on the mat the dog ate"], 5, tail=2)
    assert cut == whole[:3] + whole[-2:]
    assert encode_texts(encoding, ["the cat"], 5, tail=2) == [encoding.encode_ordinary("the cat")]


def test_a_tail_is_shorter_than_what_is_read():
    with pytest.raises(ValueError, match="tail 8 is not less than max_tokens 8"):
        ClassifierConfig(labels=("ham", "spam"), max_tokens=8, tail=8)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.0, 0.85), (0.25, 0.6), (0.5, 0.45), (1.0, 0.05)],
)
def test_the_threshold_is_the_lowest_that_keeps_the_budget_of_false_positives(rate, expected):
    probability = np.array([0.9, 0.3, 0.8, 0.5, 0.4, 0.1, 0.7])
    second = np.array([True, True, False, False, False, False, True])
    assert best_threshold(probability, second, rate) == pytest.approx(expected)


def test_calibration_finds_the_temperature_that_the_validation_loss_is_lowest_at_and_a_threshold_of_the_budget(
    make_gpt,
):
    model = make_classifier(make_gpt())
    texts = [[n % 250 + 1, n % 7 + 1, n % 11 + 1] for n in range(60)]
    with torch.no_grad():
        model.head.weight.mul_(40)  # far too sure
    labels = (predict(model, texts)[:, 1] + 2 * torch.randn(60, generator=torch.Generator().manual_seed(1)) > 0).long()
    calibrate(model, LabelledTexts(texts, labels), 0.1)
    logits = predict(model, texts)

    def loss(temperature: float) -> float:
        return torch.nn.functional.cross_entropy(logits / temperature, labels).item()

    best = model.config.temperature
    assert loss(best) <= min(loss(best * 1.05), loss(best / 1.05), loss(1.0))
    probability = (logits / best).softmax(dim=-1)[:, 1].numpy()
    wrong = model.decide(probability) & (labels.numpy() == 0)
    assert wrong.sum() <= 0.1 * (labels == 0).sum()
