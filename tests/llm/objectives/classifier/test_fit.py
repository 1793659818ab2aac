from typing import NamedTuple

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


class Fit(NamedTuple):
    """The config of a fitted classifier, its metrics, its probabilities of the validation texts, and their labels."""

    config: ClassifierConfig
    metrics: dict[str, float]
    predicted: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="module")
def fit(make_gpt, encoding):
    def make(names=SPAM, buckets=2**14, train=None, false_positive_rate=0.05, unsure=RATES) -> Fit:
        torch.manual_seed(0)
        gpt = make_gpt()
        model = Classifier(gpt, ClassifierConfig(labels=names, max_tokens=32, ngram_buckets=buckets)).eval()
        loaded = LoadedModel(model, encoding)
        train = train or make_texts(300, 1, len(names))
        validation = make_texts(1200, 2, len(names))
        fit_ngrams(model, train)
        splits = [read_texts(loaded, texts) for texts in (train, validation)]
        metrics = fit_head(model, *splits, false_positive_rate=false_positive_rate, unsure=unsure)
        assert model.gpt is gpt
        return Fit(model.config, metrics, probabilities(loaded, validation.texts), validation.labels.numpy())

    return make


def test_fit_gives_probabilities_and_bounds_that_hold_on_texts_that_it_has_not_seen(fit):
    config, metrics, predicted, labels = fit()
    spam, is_spam = predicted[:, 1], labels == 1
    loss = F.nll_loss(torch.from_numpy(predicted).log(), torch.from_numpy(labels)).item()
    assert metrics["validation_loss"] == pytest.approx(loss, rel=1e-3)
    assert metrics["validation_f1"] > 0.75
    gpt_alone = fit(buckets=0).metrics["validation_loss"]
    assert loss < 0.45 < gpt_alone < 0.69
    for low in (0.0, 0.25, 0.5, 0.75):
        is_chosen = (spam >= low) & (spam <= low + 0.25)
        assert spam[is_chosen].mean() == pytest.approx(is_spam[is_chosen].mean(), abs=0.12)
    assert (config.false_positive_rate, config.unsure_rates) == (0.05, RATES)  # as the evaluation's baseline gets it
    low, high = config.unsure
    assert 0 < low < config.threshold < high < 1
    assert (spam[~is_spam] > config.threshold).mean() < 0.12
    assert (spam[~is_spam] > high).mean() < 0.07
    assert (spam[is_spam] < low).mean() < 0.15


def test_fit_to_labels_by_chance_is_sure_of_no_text(fit):
    """How sure it is comes from heads that have not learned from the texts that they judge."""
    texts = make_texts(300, 1, 2)
    labels = torch.randint(2, (300,), generator=torch.Generator().manual_seed(0))
    fitted = fit(train=LabelledTexts(texts.texts, labels, texts.groups))
    assert 0.3 < fitted.predicted[:, 1].min() < fitted.predicted[:, 1].max() < 0.7


def test_fit_without_a_budget_sets_no_threshold_and_is_never_unsure(fit):
    config, metrics, predicted, labels = fit(THREE, false_positive_rate=None)
    assert (config.threshold, config.unsure) == (None, None)
    assert (config.decide(predicted) == labels).mean() > 0.7
    assert not config.is_unsure(predicted).any()
    assert metrics["validation_f1"] > 0.7


def test_threshold_for_three_labels_keeps_its_budget(fit):
    config, _, predicted, labels = fit(THREE, unsure=None)
    decided = config.decide(predicted)
    assert (decided[labels == 0] > 0).mean() == pytest.approx(0.05, abs=0.003)
    assert {*decided} == {0, 1, 2}


def test_fit_to_a_few_texts_without_rates_is_finite_and_never_unsure(fit):
    texts = LabelledTexts(["moon", "the cat", "moon hat", "a dog"], torch.tensor([1, 0, 1, 0]), [1, 1, 2, 3])
    fitted = fit(train=texts, unsure=None)
    assert fitted.config.unsure is None
    assert np.isfinite(fitted.predicted).all()
