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


def texts_of(count: int, seed: int, labels: int = 2) -> LabelledTexts:
    """Texts of WORDS, whose labels go by how often some of them are there, and by chance."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(WORDS), size=(count, 8))
    odds = np.stack([(drawn == n).sum(axis=1) + generator.gumbel(size=count) / 3 for n in range(labels)], axis=1)
    texts = [". ".join(WORDS[n] for n in row) for row in drawn]
    return LabelledTexts(texts, torch.from_numpy(odds.argmax(axis=1)), list(range(count)))


def fitted(make_gpt, encoding, *, names=("ham", "spam"), buckets=2**14, train=None, unsure=RATES, rate=0.05):
    torch.manual_seed(0)
    model = Classifier(make_gpt(), ClassifierConfig(labels=names, max_tokens=32, ngram_buckets=buckets)).eval()
    validation = texts_of(1200, 2, len(names))
    train = train or texts_of(300, 1, len(names))
    chosen = {"false_positive_rate": rate, "unsure": unsure}
    fit_ngrams(model, train)
    read, read_validation = (
        read_texts(LoadedModel(model, encoding), train),
        read_texts(LoadedModel(model, encoding), validation),
    )
    return model, fit_head(model, read, read_validation, **chosen), validation


def test_its_probabilities_hold_on_texts_that_it_has_not_seen_where_its_bounds_keep_their_budgets(make_gpt, encoding):
    model, said, validation = fitted(make_gpt, encoding)
    found, labels = probabilities(LoadedModel(model, encoding), validation.texts), validation.labels.numpy()
    assert said["validation_loss"] == pytest.approx(
        F.nll_loss(torch.from_numpy(found).log(), validation.labels).item(), rel=1e-3
    )
    assert said["validation_loss"] < 0.45
    assert said["validation_f1"] > 0.75
    for low in (0.0, 0.25, 0.5, 0.75):
        chosen = (found[:, 1] >= low) & (found[:, 1] <= low + 0.25)
        assert found[chosen, 1].mean() == pytest.approx(labels[chosen].mean(), abs=0.12)
    config = model.config
    assert (config.false_positive_rate, config.unsure_rates) == (0.05, RATES)  # as the evaluation's baseline gets them
    low, high = config.unsure
    assert 0 < low < config.threshold < high < 1
    assert (found[labels == 0, 1] > config.threshold).mean() < 0.12
    assert (found[labels == 0, 1] > high).mean() < 0.07
    assert (found[labels == 1, 1] < low).mean() < 0.15


def test_both_views_together_are_better_than_the_gpt_alone_and_no_bit_changes_from_fit_to_fit(make_gpt, encoding):
    both, alone = fitted(make_gpt, encoding), fitted(make_gpt, encoding, buckets=0)
    assert both[1]["validation_loss"] < alone[1]["validation_loss"] < 0.69
    again = fitted(make_gpt, encoding)[0]
    assert again.config == both[0].config
    assert all(
        torch.equal(one, other)
        for one, other in zip(again.state_dict().values(), both[0].state_dict().values(), strict=True)
    )


def test_without_a_budget_there_is_no_threshold_and_nothing_is_unsure(make_gpt, encoding):
    model, said, validation = fitted(make_gpt, encoding, names=("a", "b", "c"), rate=None)
    assert (model.config.threshold, model.config.unsure) == (None, None)
    found = probabilities(LoadedModel(model, encoding), validation.texts)
    assert (model.config.decide(found) == validation.labels.numpy()).mean() > 0.7
    assert not model.config.is_unsure(found).any()
    assert said["validation_f1"] > 0.7


def test_a_threshold_for_three_labels_keeps_its_budget_and_then_gives_the_likeliest_other(make_gpt, encoding):
    model, _, validation = fitted(make_gpt, encoding, names=("a", "b", "c"), unsure=None)
    found, labels = probabilities(LoadedModel(model, encoding), validation.texts), validation.labels.numpy()
    decided, is_stopped = model.config.decide(found), 1 - found[:, 0] > model.config.threshold
    assert (decided[labels == 0] > 0).mean() == pytest.approx(0.05, abs=0.003)
    assert decided[~is_stopped].tolist() == [0] * (~is_stopped).sum()
    assert decided[is_stopped].tolist() == (1 + found[is_stopped, 1:].argmax(axis=1)).tolist()
    assert {*decided} == {0, 1, 2}


def test_a_few_texts_are_enough_and_without_rates_it_is_never_unsure(make_gpt, encoding):
    few = LabelledTexts(["moon", "the cat", "moon hat", "a dog"], torch.tensor([1, 0, 1, 0]), [1, 1, 2, 3])
    model, _, _ = fitted(make_gpt, encoding, train=few, unsure=None)
    assert model.config.unsure is None
    assert np.isfinite(probabilities(LoadedModel(model, encoding), ["moon"])).all()
