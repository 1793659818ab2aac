from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from llm.loaded_model import LoadedModel
from llm.objectives.classifier import Classifier, ClassifierConfig, probabilities
from llm.objectives.classifier.calibration import UnsureRates
from llm.objectives.classifier.fit import LabelledTexts, fit_head, fit_ngrams, read_texts

RATES = UnsureRates(false_positive_rate=0.02, false_negative_rate=0.1)
WORDS = ["the cat sat", "a dog ate", "hat", "moon", "on the mat", "ate the hat", "dog"]
SPAM = ("ham", "spam")
THREE = ("a", "b", "c")


def make_texts(count: int, seed: int, labels: int) -> LabelledTexts:
    """Texts of WORDS, whose labels go by how often some of them are there, and by chance."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(WORDS), size=(count, 8))
    odds = [(drawn == label).sum(axis=1) + generator.gumbel(size=count) / 3 for label in range(labels)]
    texts = [". ".join(words) for words in np.array(WORDS)[drawn]]
    return LabelledTexts(texts, torch.from_numpy(np.argmax(odds, axis=0)), list(range(count)))


@dataclass
class Fit:
    """A fitted classifier, its metrics, and its probabilities of the validation texts."""

    model: Classifier
    metrics: dict[str, float]
    predicted: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="module")
def fit(make_gpt, encoding):
    def make(names=SPAM, buckets=2**14, train=None, **bounds) -> Fit:
        torch.manual_seed(0)
        model = Classifier(make_gpt(), ClassifierConfig(labels=names, max_tokens=32, ngram_buckets=buckets)).eval()
        loaded = LoadedModel(model, encoding)
        train = train or make_texts(300, 1, len(names))
        validation = make_texts(1200, 2, len(names))
        fit_ngrams(model, train)
        options = {"false_positive_rate": 0.05, "unsure": RATES} | bounds
        metrics = fit_head(model, read_texts(loaded, train), read_texts(loaded, validation), **options)
        predicted = probabilities(loaded, validation.texts)
        return Fit(model=model, metrics=metrics, predicted=predicted, labels=validation.labels.numpy())

    return make


@pytest.fixture(scope="module")
def spam_fit(fit) -> Fit:
    return fit()


def test_fit_gives_probabilities_that_hold_on_texts_that_it_has_not_seen(spam_fit):
    spam = spam_fit.predicted[:, 1]
    loss = F.nll_loss(torch.from_numpy(spam_fit.predicted).log(), torch.from_numpy(spam_fit.labels)).item()
    assert spam_fit.metrics["validation_loss"] == pytest.approx(loss, rel=1e-3)
    assert loss < 0.45
    assert spam_fit.metrics["validation_f1"] > 0.75
    for low in (0.0, 0.25, 0.5, 0.75):
        is_chosen = (spam >= low) & (spam <= low + 0.25)
        assert spam[is_chosen].mean() == pytest.approx(spam_fit.labels[is_chosen].mean(), abs=0.12)


def test_fit_gives_bounds_that_keep_their_budgets(spam_fit):
    config = spam_fit.model.config
    assert config.false_positive_rate == 0.05  # as the evaluation's baseline gets it
    assert config.unsure_rates == RATES
    low, high = config.unsure
    assert 0 < low < config.threshold < high < 1
    spam = spam_fit.predicted[:, 1]
    is_spam = spam_fit.labels == 1
    assert (spam[~is_spam] > config.threshold).mean() < 0.12
    assert (spam[~is_spam] > high).mean() < 0.07
    assert (spam[is_spam] < low).mean() < 0.15


def test_fit_to_both_views_is_better_than_to_the_gpt_alone(fit, spam_fit):
    gpt_alone = fit(buckets=0)
    assert spam_fit.metrics["validation_loss"] < gpt_alone.metrics["validation_loss"] < 0.69


def test_fit_twice_gives_equal_weights(fit, spam_fit):
    second = fit()
    assert second.model.config == spam_fit.model.config
    weights = second.model.state_dict()
    for name, weight in spam_fit.model.state_dict().items():
        assert torch.equal(weights[name], weight)


def test_fit_without_a_budget_sets_no_threshold_and_is_never_unsure(fit):
    fitted = fit(THREE, false_positive_rate=None)
    config = fitted.model.config
    assert config.threshold is None
    assert config.unsure is None
    assert (config.decide(fitted.predicted) == fitted.labels).mean() > 0.7
    assert not config.is_unsure(fitted.predicted).any()
    assert fitted.metrics["validation_f1"] > 0.7


def test_threshold_for_three_labels_keeps_its_budget_and_then_gives_the_likeliest_other(fit):
    fitted = fit(THREE, unsure=None)
    predicted = fitted.predicted
    decided = fitted.model.config.decide(predicted)
    is_stopped = 1 - predicted[:, 0] > fitted.model.config.threshold
    assert (decided[fitted.labels == 0] > 0).mean() == pytest.approx(0.05, abs=0.003)
    assert np.array_equal(decided, np.where(is_stopped, 1 + predicted[:, 1:].argmax(axis=1), 0))
    assert {*decided} == {0, 1, 2}


def test_fit_to_a_few_texts_without_rates_is_finite_and_never_unsure(fit):
    texts = LabelledTexts(["moon", "the cat", "moon hat", "a dog"], torch.tensor([1, 0, 1, 0]), [1, 1, 2, 3])
    fitted = fit(train=texts, unsure=None)
    assert fitted.model.config.unsure is None
    assert np.isfinite(fitted.predicted).all()
