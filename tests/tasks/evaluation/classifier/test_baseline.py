import numpy as np
import pandas as pd

from tasks.evaluation.classifier.baseline import calibration, fit_regression, texts_of
from tasks.evaluation.classifier.measures import calibration_error


def test_the_baseline_of_few_mails_and_of_a_script_without_spaces_goes_by_characters():
    texts = ["中奖了快点击", "今天开会吗", "免费领取奖金", "明天见面", "点击领奖", "会议改期"]
    table = pd.DataFrame({"subject": texts, "body": "", "label": ["spam", "ham"] * 3})
    found = fit_regression(table)
    assert found.predict(texts_of(table)).tolist() == table["label"].tolist()


def test_the_baselines_probabilities_are_calibrated_on_validation_as_the_models_are():
    generator = np.random.default_rng(1)
    odds = generator.normal(size=(2, 4000))
    actual = (generator.random((2, 4000)) < 1 / (1 + np.exp(-odds))).astype(int)
    overconfident = 1 / (1 + np.exp(-3 * odds - 1))
    validation, test = (np.stack([1 - each, each], axis=1) for each in overconfident)
    calibrated = calibration(validation, actual[0])(test)
    assert calibration_error(actual[1], test) > 0.1
    assert calibration_error(actual[1], calibrated) < 0.02
    assert (np.argsort(calibrated[:, 1]) == np.argsort(test[:, 1])).all()
