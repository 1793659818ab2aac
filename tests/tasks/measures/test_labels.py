from copy import deepcopy

import pandas as pd
import pytest
import sklearn.metrics
import torch

from llm.device import Compute
from llm.generation.packed import pack_for_reading
from llm.loaded_model import LoadedModel
from llm.objectives.classifier import Classifier, ClassifierConfig, email_text, probabilities
from tasks.applications.classifier.measure import EVALUATION as CLASSIFIER
from tasks.applications.classifier.measure import compare_with_plain
from tasks.measures.description import Subject
from tasks.measures.evaluate import measure_and_write
from tasks.measures.labels import Evaluate
from tasks.measures.pictures import draw_confusion

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


def make_classifier(make_gpt, **config):
    config = ClassifierConfig(**{"labels": ("ham", "spam"), "max_tokens": 64, **config})
    return Classifier(make_gpt(context_length=64), config).eval()


def measured(loaded, emails, evidence):
    """The metrics of a classifier."""
    params = Evaluate(batch_size=4)
    subject = Subject(loaded=loaded, data=emails, base=emails, params=params, compute=CPU, evidence=evidence)
    return measure_and_write(CLASSIFIER, subject)


@pytest.fixture
def emails(tmp_path):
    """A dataset whose spam says `buy`."""
    data = tmp_path / "mails"
    data.mkdir()
    ham, spam = ["the cat sat", "the dog ate", "a bird sang"], ["buy the hat now", "buy the moon now"]
    for split, times in (("train", 4), ("validation", 2), ("test", 3)):
        texts = [*ham, *spam] * times
        table = {"id": [f"{split}{n}" for n in range(len(texts))], "subject": texts, "body": [t[::-1] for t in texts]}
        table["source"] = [f"a/{text[:3]}" for text in texts]
        pd.DataFrame(table | {"label": (["ham"] * 3 + ["spam"] * 2) * times}).to_parquet(data / f"{split}.parquet")
    return data


def test_classifier_is_measured_as_it_is_served_beside_its_baseline(make_gpt, encoding, emails, tmp_path):
    model = make_classifier(make_gpt)
    as_served = deepcopy(model)
    as_served.gpt = pack_for_reading(as_served.gpt)
    test = pd.read_parquet(emails / "test.parquet")
    texts = [email_text(*row) for row in zip(test["subject"], test["body"], strict=True)]
    probability = probabilities(LoadedModel(as_served, encoding), texts)[:, 1]
    metrics = measured(LoadedModel(model, encoding), emails, tmp_path)
    assert type(model.gpt) is type(as_served.gpt)
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert table[["id", "actual"]].to_numpy().tolist() == test[["id", "label"]].to_numpy().tolist()
    assert table["spam_probability"].to_numpy() == pytest.approx(probability, abs=1e-4)
    actual, predicted = table["actual"] == "spam", table["predicted"] == "spam"
    assert predicted.tolist() == (probability > 0.5).tolist()
    assert metrics["roc_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(actual, probability))
    assert metrics["f1"] == pytest.approx(sklearn.metrics.f1_score(actual, predicted))
    assert metrics["baseline_f1"] == metrics["baseline_roc_auc"] == 1.0  # `buy` gives it away
    slices = pd.read_csv(tmp_path / "slices.csv").set_index(["by", "slice", "actual"])
    assert slices.loc[("source", "a/buy", "spam"), "rows"] == 6
    right = (~predicted)[~actual].mean()
    assert slices.loc[("label", "ham", "ham"), "right"] == pytest.approx(right, abs=1e-4)


def test_evidence_has_the_worst_errors_and_pictures_with_the_same_bytes_each_time(make_gpt, encoding, emails, tmp_path):
    loaded = LoadedModel(make_classifier(make_gpt), encoding)
    files = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        measured(loaded, emails, folder)
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert files[0] == files[1]
    table = pd.read_csv(tmp_path / "one/predictions.csv")
    wrong = (table["actual"] != table["predicted"]).sum()
    assert files[0]["errors.md"].count(b"labelled ") == min(6, wrong)
    assert files[0].keys() >= {f"{name}.svg" for name in ("roc", "precision_recall", "reliability", "confusion")}
    assert pd.read_csv(tmp_path / "one/roc.csv").iloc[-1].tolist() == [1.0, 1.0]
    assert pd.read_csv(tmp_path / "one/precision_recall.csv").iloc[-1].tolist() == [1.0, 0.0]


def test_label_with_signs_of_formulas_is_drawn_as_it_is(tmp_path):
    test = pd.DataFrame({"actual": ["$a_{$", "ham"], "predicted": ["$a_{$", "ham"]})
    draw_confusion(test, ["$a_{$", "ham"], tmp_path / "confusion.svg")
    assert "$a_{$" in (tmp_path / "confusion.svg").read_text()


def test_evasions_are_measured_beside_the_same_spam_without_a_disguise(
    make_gpt, encoding, emails, tmp_path, monkeypatch
):
    folder = tmp_path / "data/behavioural" / emails.name
    folder.mkdir(parents=True)
    plain = pd.DataFrame({"id": ["one", "two", "three"], "slice": "s", "body": ["buy", "buy", "sang"]})
    ids = ["one: capitals", "one: other words", "two: capitals", "two: other words"]
    disguised = pd.DataFrame({"id": ids, "slice": ["capitals", "other words"] * 2, "body": ["BUY", "a bird sang"] * 2})
    for name, mails in (("test", plain), ("evasions", disguised)):
        mails.assign(label="spam", subject="").to_json(folder / f"{name}.jsonl", orient="records", lines=True)
    monkeypatch.chdir(tmp_path)
    metrics = measured(LoadedModel(make_classifier(make_gpt), encoding), emails, tmp_path)
    assert metrics["baseline_everyday_spam"] == pytest.approx(2 / 3)
    assert metrics["baseline_evasion_recall"] == 0.5
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    compared = compare_with_plain(scores.assign(ours=scores["baseline"]))
    assert compared == {"evasion_loss": 0.5, "evasion_worst": 0.0}
