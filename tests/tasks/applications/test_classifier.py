import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch

from llm.applications.classifier import Classifier, ClassifierConfig, email_text, probabilities
from llm.device import Compute
from tasks.applications import classifier
from tasks.applications.classifier import _thinned

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


def test_a_thinned_curve_keeps_its_ends():
    curve = pd.DataFrame({"x": range(1000)})
    assert len(_thinned(curve)) == 200
    assert _thinned(curve)["x"].iloc[[0, -1]].tolist() == [0, 999]
    assert _thinned(curve.head(3))["x"].tolist() == [0, 1, 2]


@pytest.fixture
def emails(tmp_path):
    ham, spam = ["the cat sat", "the dog ate", "a bird sang"], ["buy the hat now", "buy the moon now"]
    for split, times in (("train", 4), ("test", 3)):
        texts = [*ham, *spam] * times
        table = {"id": [f"{split}{n}" for n in range(len(texts))], "subject": texts, "body": [t[::-1] for t in texts]}
        pd.DataFrame(table | {"label": (["ham"] * 3 + ["spam"] * 2) * times}).to_parquet(tmp_path / f"{split}.parquet")
    return tmp_path


def test_the_classifier_has_the_metrics_of_scikit_learn_and_a_baseline_beside_them(
    make_gpt, encoding, emails, tmp_path
):
    model = Classifier(make_gpt(context_length=64), ClassifierConfig(labels=("ham", "spam"), max_tokens=64)).eval()
    test = pd.read_parquet(emails / "test.parquet")
    texts = [email_text(*row) for row in zip(test["subject"], test["body"], strict=True)]
    probability = probabilities(model, encoding, texts)
    with torch.no_grad():  # so that the model is right about some and wrong about others
        logit = float(np.log(1 / np.median(probability) - 1))
        model.head.bias += torch.tensor([-logit / 2, logit / 2])
    found = classifier.measure(model, encoding, emails, classifier.Evaluate(batch_size=4), CPU, tmp_path)
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert table["id"].tolist() == test["id"].tolist()
    assert table["actual"].tolist() == test["label"].tolist()
    actual, predicted = table["actual"] == "spam", table["predicted"] == "spam"
    assert predicted.nunique() == 2
    probability = probabilities(model, encoding, texts)
    assert predicted.tolist() == (probability > 0.5).tolist()
    assert table["spam_probability"].to_numpy() == pytest.approx(probability, abs=1e-4)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(actual, predicted),
        "precision": sklearn.metrics.precision_score(actual, predicted),
        "recall": sklearn.metrics.recall_score(actual, predicted),
        "f1": sklearn.metrics.f1_score(actual, predicted),
        "roc_auc": sklearn.metrics.roc_auc_score(actual, probability),
        "baseline_f1": 1.0,  # `buy` gives it away
    }
    assert found == pytest.approx(expected, abs=1e-6)
    assert pd.read_csv(tmp_path / "roc.csv").iloc[-1].tolist() == [1.0, 1.0]
    assert pd.read_csv(tmp_path / "precision_recall.csv").iloc[-1].tolist() == [0.0, 1.0]
