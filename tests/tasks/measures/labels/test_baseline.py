import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import f1_score

from llm.objectives.classifier.model import ClassifierConfig
from tasks.measures.labels.baseline import LEARNERS, calibration, fit_baseline, fit_features
from tasks.measures.labels.rows import texts_of
from tasks.measures.labels.scores import calibration_error


def test_baseline_of_few_mails_and_of_a_script_without_spaces_goes_by_characters():
    texts = ["中奖了快点击", "今天开会吗", "免费领取奖金", "明天见面", "点击领奖", "会议改期"]
    table = pd.DataFrame({"subject": texts, "body": "", "label": ["spam", "ham"] * 3})
    _, features = fit_features(table)
    for learner in LEARNERS.values():
        assert learner().fit(features, table["label"]).predict(features).tolist() == table["label"].tolist()


def mails(count: int, seed: int, labels: tuple[str, ...]) -> pd.DataFrame:
    """Mails whose words go by their label, and by chance."""
    generator = np.random.default_rng(seed)
    actual = np.arange(count) % len(labels)
    signs = np.where(
        generator.random((count, 8)) < 0.4, actual[:, None], generator.integers(len(labels), size=(count, 8))
    )
    bodies = []
    for row in signs:
        words = [f"word{sign} filler{generator.integers(30)}" for sign in row]
        bodies.append(" ".join(words))
    return pd.DataFrame({"subject": "s", "body": bodies, "label": [labels[number] for number in actual]})


@pytest.mark.parametrize("labels", [("ham", "spam"), ("bird", "ham", "spam")])
def test_baseline_is_the_stronger_learner_on_validation_and_its_evidence_names_it(labels, tmp_path):
    budget = 0.02 if len(labels) == 2 else None
    config = ClassifierConfig(labels=labels, max_tokens=16, false_positive_rate=budget)
    validation = mails(300, 2, labels)
    reader = fit_baseline(mails(300, 1, labels), validation, config=config, evidence=tmp_path)
    table = pd.read_csv(tmp_path / "baseline.csv")
    assert table["learner"].tolist() == list(LEARNERS)
    chosen = table[table["chosen"]]
    assert chosen["score"].tolist() == [table["score"].max()]
    probability = reader.probabilities(texts_of(validation))
    predicted = [labels[number] for number in reader.config.decide(probability)]
    only = {"pos_label": "spam"} if len(labels) == 2 else {"average": "macro"}
    assert chosen["f1"].item() == pytest.approx(f1_score(validation["label"], predicted, **only), abs=1e-4)
    assert 0.6 < chosen["f1"].item() < 1
    if budget is not None:
        score = (chosen["f1"] + chosen["recall_at_fpr_0.005"]) / 2
        assert chosen["score"].item() == pytest.approx(score.item(), abs=1e-4)


def test_baselines_probabilities_are_calibrated_on_validation_as_the_models_are():
    generator = np.random.default_rng(1)
    odds = generator.normal(size=(2, 4000))
    actual = (generator.random((2, 4000)) < 1 / (1 + np.exp(-odds))).astype(int)
    validation = np.stack([np.zeros(4000), 3 * odds[0] + 1], axis=1)  # overconfident
    test = np.stack([np.zeros(4000), 3 * odds[1] + 1], axis=1)
    calibrated = calibration(validation, actual[0])(test)
    assert calibration_error(actual[1], *softmax(test, axis=1).T) > 0.1
    assert calibration_error(actual[1], *calibrated.T) < 0.02
    assert (np.argsort(calibrated[:, 1]) == np.argsort(test[:, 1])).all()
