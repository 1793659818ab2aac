import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from llm.objectives.classifier.model import ClassifierConfig
from tasks.measures.baseline import fit_baseline, linear_pipeline, texts_of
from tasks.measures.label_metrics import calibration_error

COLUMNS = ("subject", "body")


def test_baseline_of_few_mails_and_of_a_script_without_spaces_goes_by_characters():
    texts = ["中奖了快点击", "今天开会吗", "免费领取奖金", "明天见面", "点击领奖", "会议改期"]
    labels = ["spam", "ham"] * 3
    assert linear_pipeline(len(texts)).fit(texts, labels).predict(texts).tolist() == labels


def mails(count: int, seed: int, labels: tuple[str, ...]) -> pd.DataFrame:
    """Mails whose words go by their label, and by chance."""
    generator = np.random.default_rng(seed)
    actual = np.minimum(np.arange(count) % 6, len(labels) - 1)
    by_chance = generator.integers(len(labels), size=(count, 8))
    signs = np.where(generator.random((count, 8)) < 0.4, actual[:, None], by_chance)
    bodies = []
    for row in signs:
        words = [f"word{sign} filler{generator.integers(30)}" for sign in row]
        bodies.append(" ".join(words))
    return pd.DataFrame({"subject": "s", "body": bodies, "label": [labels[number] for number in actual]})


@pytest.mark.parametrize("labels", [("ham", "spam"), ("bird", "ham", "spam")])
def test_baseline_learns_and_is_calibrated_on_validation(labels):
    config = ClassifierConfig(labels=labels, max_tokens=16)
    train, validation, test = [mails(600, seed, labels) for seed in (1, 2, 3)]
    reader = fit_baseline(train, validation, config)
    probability = reader.probabilities(texts_of(test, COLUMNS))
    actual = test["label"].map(labels.index).to_numpy()
    assert 0.6 < f1_score(actual, reader.config.decide(probability), average="macro") < 1
    assert calibration_error(actual, *probability.T) < 0.06
    shares = validation["label"].value_counts(normalize=True)[list(labels)].to_numpy()
    means = reader.probabilities(texts_of(validation, COLUMNS)).mean(axis=0)
    assert means == pytest.approx(shares, abs=0.01)  # although training weighs rare labels more


def test_baseline_has_its_threshold_by_the_same_budget_of_false_positives():
    labels = ("ham", "spam")
    config = ClassifierConfig(labels=labels, max_tokens=16, false_positive_rate=0.05)
    validation = mails(400, 2, labels)
    reader = fit_baseline(mails(400, 1, labels), validation, config)
    called = reader.config.decide(reader.probabilities(texts_of(validation, COLUMNS)))
    rate = called[(validation["label"] == "ham").to_numpy()].mean()
    assert 0.04 < rate <= 0.05
