import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch

from llm.device import Compute
from llm.generation.packed import pack_for_reading
from llm.loaded_model import LoadedModel
from llm.objectives.classifier import Classifier, ClassifierConfig, email_text, probabilities
from llm.objectives.classifier.calibration import UnsureRates
from tasks.applications.classifier.evasions import FORMS
from tasks.applications.classifier.measure import EVALUATION as CLASSIFIER
from tasks.applications.guard.measure import EVALUATION as GUARD
from tasks.measures.description import Subject
from tasks.measures.evaluate import measure_and_write
from tasks.measures.labels.measure import Evaluate

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


def make_classifier(make_gpt, **config) -> Classifier:
    config = ClassifierConfig(**{"labels": ("ham", "spam"), "max_tokens": 64, **config})
    return Classifier(make_gpt(context_length=64), config).eval()


def measured(loaded: LoadedModel, emails: Path, evidence: Path, evaluation=CLASSIFIER) -> dict[str, float]:
    """The metrics of a classifier, by the evaluation of the application that has it."""
    subject = Subject(
        loaded=loaded,
        data=emails,
        base=emails,
        params=Evaluate(batch_size=4),
        compute=CPU,
        evidence=evidence,
    )
    return measure_and_write(evaluation, subject)


@pytest.fixture
def emails(tmp_path):
    ham, spam = ["the cat sat", "the dog ate", "a bird sang"], ["buy the hat now", "buy the moon now"]
    for split, times in (("train", 4), ("validation", 2), ("test", 3)):
        texts = [*ham, *spam] * times
        table = {"id": [f"-{split}{n}" for n in range(len(texts))], "subject": texts, "body": [t[::-1] for t in texts]}
        table["source"] = [f"a/{text[:3]}" for text in texts]
        pd.DataFrame(table | {"label": (["ham"] * 3 + ["spam"] * 2) * times}).to_parquet(tmp_path / f"{split}.parquet")
    return tmp_path


def test_metrics_are_those_of_scikit_learn_beside_a_baseline(make_gpt, encoding, emails, tmp_path):
    model = make_classifier(make_gpt)
    as_served = deepcopy(model)
    as_served.gpt = pack_for_reading(as_served.gpt)
    test = pd.read_parquet(emails / "test.parquet")
    texts = [email_text(*row) for row in zip(test["subject"], test["body"], strict=True)]
    probability = probabilities(LoadedModel(as_served, encoding), texts)[:, 1]
    with torch.no_grad():  # so that it calls four of five texts spam: some of them are, and some not
        logit = float(np.log(1 / np.sort(probability)[2:4].mean() - 1))
        for classifier in (model, as_served):
            classifier.head.bias += torch.tensor([-logit / 2, logit / 2])
    metrics = measured(LoadedModel(model, encoding), emails, tmp_path)
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert table["id"].tolist() == [f"'{name}" for name in test["id"]]  # no formulas where it is opened
    assert table["actual"].tolist() == test["label"].tolist()
    actual, predicted = table["actual"] == "spam", table["predicted"] == "spam"
    assert predicted.nunique() == 2
    probability = probabilities(LoadedModel(as_served, encoding), texts)[:, 1]
    assert predicted.tolist() == (probability > 0.5).tolist()
    assert table["spam_probability"].to_numpy() == pytest.approx(probability, abs=1e-4)
    assert type(model.gpt) is type(as_served.gpt)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(actual, predicted),
        "precision": sklearn.metrics.precision_score(actual, predicted),
        "recall": sklearn.metrics.recall_score(actual, predicted),
        "f1": sklearn.metrics.f1_score(actual, predicted),
        "roc_auc": sklearn.metrics.roc_auc_score(actual, probability),
        "baseline_f1": 1.0,  # `buy` gives it away
        "baseline_roc_auc": 1.0,
        "baseline_recall_at_fpr_0.005": 1.0,
        "f1_gain": sklearn.metrics.f1_score(actual, predicted) - 1.0,
        "false_positive_rate": predicted[~actual].mean(),
        "baseline_false_positive_rate": 0.0,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert metrics["f1_low"] < metrics["f1"] < metrics["f1_high"]
    assert metrics["f1_gain_low"] < metrics["f1_gain_high"] < 0
    slices = pd.read_csv(tmp_path / "slices.csv").set_index(["by", "slice"])
    assert slices.loc[("source", "buy"), "rows"] == 6
    assert slices.loc[("label", "ham"), "right_of_ham"] == pytest.approx((~predicted)[~actual].mean(), abs=1e-4)
    assert slices["baseline_right"].tolist() == [1.0] * len(slices)
    wrong = table[table["actual"] != table["predicted"]]
    errors = (tmp_path / "errors.md").read_text()
    assert errors.count("labelled ") == min(6, len(wrong))
    for name in ("roc", "precision_recall", "reliability", "confusion"):
        assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")
    assert pd.read_csv(tmp_path / "roc.csv").iloc[-1].tolist() == [1.0, 1.0]
    assert pd.read_csv(tmp_path / "precision_recall.csv").iloc[-1].tolist() == [1.0, 0.0]


def test_behavioural_mails_are_measured_if_the_dataset_has_some(make_gpt, encoding, emails, tmp_path, monkeypatch):
    folder = tmp_path / "data/behavioural" / emails.name
    folder.mkdir(parents=True)
    rows = [("ham", "sat"), ("ham", "ate"), ("spam", "buy"), ("spam", "sang")]
    mails = [{"id": f"={n}", "label": a, "slice": "s", "subject": "", "body": b} for n, (a, b) in enumerate(rows)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, mails)))
    monkeypatch.chdir(tmp_path)
    model = make_classifier(make_gpt)
    metrics = measured(LoadedModel(model, encoding), emails, tmp_path)
    assert (metrics["baseline_everyday_ham"], metrics["baseline_everyday_spam"]) == (1.0, 0.5)
    table = pd.read_parquet(tmp_path / "scores.parquet").query("part == 'everyday' and measure == 'right'")
    assert table["id"].tolist() == ["=0", "=1", "=2", "=3"]
    assert metrics["everyday_spam"] == table["ours"][2:].mean()
    actual = np.array([0, 0, 1, 1])
    predicted = np.where(table["ours"] == 1, actual, 1 - actual)
    balanced = sklearn.metrics.balanced_accuracy_score(actual, predicted)
    assert metrics["everyday_balanced_accuracy"] == pytest.approx(balanced)
    assert metrics["baseline_everyday_balanced_accuracy"] == 0.75
    assert table["baseline"].tolist() == [1, 1, 1, 0]


def test_unsure_answers_and_sure_errors_are_counted_for_both_by_the_same_rule(make_gpt, encoding, emails, tmp_path):
    rates = UnsureRates(false_positive_rate=0.0, false_negative_rate=0.0)
    values = {"threshold": 0.5, "false_positive_rate": 0.1, "unsure": (0.5, 0.5), "unsure_rates": rates}
    model = make_classifier(make_gpt, **values)
    metrics = measured(LoadedModel(model, encoding), emails, tmp_path)
    assert metrics["unsure_share"] == 0
    assert metrics["sure_errors"] == pytest.approx(1 - metrics["accuracy"])
    assert metrics["baseline_sure_errors"] == 0
    second, wanted = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7]), np.array([0, 0, 1, 0, 1, 1])
    bounds = model.config.with_bounds(
        np.stack([1 - second, second], axis=1), wanted, false_positive_rate=0.1, rates=rates
    )
    assert bounds.unsure == pytest.approx((0.25, 0.5))
    assert bounds.threshold == pytest.approx(0.5)


def test_evasions_are_measured_by_form(make_gpt, encoding, emails, tmp_path):
    for split in ("train", "validation", "test"):
        table = pd.read_parquet(emails / f"{split}.parquet")
        words = {"ham": "cats sleep near warm doors " * 20, "spam": "purchase cheap hats today here " * 6}
        table.assign(body=table["label"].map(words)).to_parquet(emails / f"{split}.parquet")
    model = make_classifier(make_gpt)
    metrics = measured(LoadedModel(model, encoding), emails, tmp_path)
    table = pd.read_csv(tmp_path / "evasions.csv").set_index("form")
    assert table.index.tolist() == ["as it was", *FORMS]
    assert table["mails"].tolist() == [6] * len(table)
    assert table.loc["as it was", "baseline_caught"] == 1
    assert table.loc["homoglyphs", "baseline_caught"] == 1
    plain = table["caught"].iloc[0]
    evaded = table["caught"].iloc[1:]
    assert metrics["evasion_recall"] == pytest.approx(evaded.mean(), abs=1e-3)
    assert metrics["evasion_loss"] == pytest.approx(plain - evaded.mean(), abs=1e-3)
    assert metrics["baseline_evasion_recall"] == pytest.approx(table["baseline_caught"].iloc[1:].mean(), abs=1e-3)


def test_f1_of_three_labels_is_their_mean(make_gpt, encoding, emails, tmp_path):
    for split in ("train", "validation", "test"):
        table = pd.read_parquet(emails / f"{split}.parquet")
        table.loc[table["subject"] == "a bird sang", "label"] = "bird"
        table.to_parquet(emails / f"{split}.parquet")
    model = make_classifier(make_gpt, labels=("bird", "ham", "spam"))
    metrics = measured(LoadedModel(model, encoding), emails, tmp_path)
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert metrics["f1"] == pytest.approx(
        sklearn.metrics.f1_score(table["actual"], table["predicted"], average="macro", zero_division=0)
    )
    assert metrics["baseline_f1"] == 1.0
    assert not {"roc_auc", "evasion_recall"} & metrics.keys()
    slices = pd.read_csv(tmp_path / "slices.csv").set_index(["by", "slice"])
    assert slices.loc[("source", "a b"), "share_of_bird"] == 1.0
    assert (tmp_path / "confusion.svg").read_text().startswith("<?xml")


def test_recall_of_three_labels_is_of_what_is_stopped_where_one_passes(make_gpt, encoding, emails, tmp_path):
    for split in ("train", "validation", "test"):
        table = pd.read_parquet(emails / f"{split}.parquet")
        table.loc[table["subject"] == "buy the hat now", "label"] = "hats"
        table[["id", "source", "label"]].assign(request=table["subject"]).to_parquet(emails / f"{split}.parquet")
    labels, columns = ("ham", "hats", "spam"), ("request",)
    model = make_classifier(make_gpt, labels=labels, columns=columns, threshold=0.6, false_positive_rate=0.0)
    metrics = measured(LoadedModel(model, encoding), emails, tmp_path, evaluation=GUARD)
    table = pd.read_csv(tmp_path / "predictions.csv")
    passes, is_stopped = table["actual"] == "ham", table["predicted"] != "ham"
    assert is_stopped.tolist() == (table["ham_probability"] < 0.4).tolist()
    assert metrics["recall"] == pytest.approx(sklearn.metrics.recall_score(~passes, is_stopped))
    assert metrics["false_positive_rate"] == is_stopped[passes].mean()
    assert (metrics["baseline_recall_at_fpr_0.005"], metrics["baseline_false_positive_rate"]) == (1.0, 0.0)
    assert (tmp_path / "roc.svg").read_text().startswith("<?xml")


def test_evidence_of_the_same_predictions_has_the_same_bytes(make_gpt, encoding, emails, tmp_path):
    model = make_classifier(make_gpt)
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        metrics = measured(LoadedModel(model, encoding), emails, tmp_path / name)
        contents.append((metrics, {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}))
    assert contents[0] == contents[1]


def test_baseline_has_a_threshold_by_the_same_budget_of_false_positives(make_gpt, encoding, emails, tmp_path):
    model = make_classifier(make_gpt, threshold=0.5, false_positive_rate=0.7)
    metrics = measured(LoadedModel(model, encoding), emails, tmp_path)
    # Of three texts of ham the two that begin as spam does are equally likely to be called so, and both may be.
    assert metrics["baseline_false_positive_rate"] == pytest.approx(2 / 3, abs=1e-4)
    assert metrics["baseline_f1"] == pytest.approx(2 * 6 / (2 * 6 + 6))
    assert metrics["baseline_accuracy"] == pytest.approx(9 / 15)
    ham = pd.read_csv(tmp_path / "slices.csv").set_index(["by", "slice"]).loc[("label", "ham")]
    assert ham["baseline_right"] == pytest.approx(1 / 3, abs=1e-4)
