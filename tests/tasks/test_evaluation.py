import math

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from torch.nn import functional as F

from llm.classifier import Classifier, spam_probability
from llm.device import Compute
from tasks.evaluation import _same, _thinned, evaluate_assistant, evaluate_classifier, evaluate_foundation
from tasks.params import EvaluateAssistant, EvaluateClassifier, EvaluateFoundation

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("A feline mammal.", "a  feline\nmammal", True),
        ("large", "Large.", True),
        ("large", "larger", False),
        ("", ".", True),
        ("a.b", "ab", False),
        ("Why?", "why", False),
    ],
)
def test_answers_are_the_same_but_for_case_spaces_and_a_final_full_stop(answer, expected, same):
    assert _same(answer, expected) is same


def test_a_thinned_curve_keeps_its_ends():
    curve = pd.DataFrame({"x": range(1000)})
    assert len(_thinned(curve)) == 200
    assert _thinned(curve)["x"].iloc[[0, -1]].tolist() == [0, 999]
    assert _thinned(curve.head(3))["x"].tolist() == [0, 1, 2]


def test_the_foundation_is_measured_on_every_window_of_the_test_file(make_gpt, encoding, token_files, tmp_path):
    gpt = make_gpt(context_length=64)
    params = EvaluateFoundation(batch_size=3, sample_prompts=("the cat",), sample_tokens=8, seed=1)
    found = evaluate_foundation.fn(gpt, encoding, token_files, params, CPU, tmp_path)
    tokens = np.fromfile(token_files / "test.bin", "<u2").astype("int64")
    count = (len(tokens) - 1) // 64
    losses = [
        F.cross_entropy(gpt(row[None, :-1])[0], row[1:]).item()
        for row in (torch.tensor(tokens[64 * i : 64 * i + 65]) for i in range(count))
    ]
    assert count == 3
    assert found["test_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["test_loss"]))
    text = (tmp_path / "samples.md").read_text()
    assert text.startswith("# Samples of the foundation\n\n> the cat")
    evaluate_foundation.fn(gpt, encoding, token_files, params, CPU, tmp_path)
    assert (tmp_path / "samples.md").read_text() == text


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
    model = Classifier(make_gpt(context_length=64), 64).eval()
    test = pd.read_parquet(emails / "test.parquet")
    probability = spam_probability(model, encoding, test["subject"], test["body"])
    with torch.no_grad():  # so that the model is right about some and wrong about others
        logit = float(np.log(1 / np.median(probability) - 1))
        model.head.bias += torch.tensor([-logit / 2, logit / 2])
    found = evaluate_classifier.fn(model, encoding, emails, EvaluateClassifier(batch_size=4), CPU, tmp_path)
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert table["id"].tolist() == test["id"].tolist()
    assert table["actual"].tolist() == test["label"].tolist()
    actual, predicted = table["actual"] == "spam", table["predicted"] == "spam"
    assert predicted.nunique() == 2
    probability = spam_probability(model, encoding, test["subject"], test["body"])
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


def test_the_assistant_is_measured_on_checkable_rows_and_on_all(make_gpt, encoding, tmp_path):
    gpt, (cat,) = make_gpt(context_length=64), encoding.encode(" cat")
    with torch.no_grad():  # whatever it reads, it says "cat"
        gpt.embedding.token.weight[cat] *= 5
        gpt.norm.weight.zero_()
        gpt.norm.bias.copy_(gpt.embedding.token.weight[cat])
    rows = {"id": list("abc"), "kind": ["k"] * 3, "instruction": ["sat", "cat", "hat"], "input": ["", "mat", ""]}
    outputs = ["Cat  cat cat cat.", "the dog", "cat and cat or"]
    table = pd.DataFrame(rows | {"output": outputs, "checkable": [True, True, False]})
    table.to_parquet(tmp_path / "test.parquet")
    params = EvaluateAssistant(batch_size=2, max_new_tokens=4, samples=2)
    found = evaluate_assistant.fn(gpt, encoding, tmp_path, params, CPU, tmp_path)
    answers = pd.read_csv(tmp_path / "answers.csv")
    assert answers["answer"].tolist() == ["cat cat cat cat"] * 3
    assert answers["correct"].tolist() == [True, False, False]
    assert answers["rouge_l"].tolist() == [1.0, 0.0, 0.5]
    logits = gpt(torch.zeros(1, 1, dtype=torch.int64))[0, 0].log_softmax(dim=0)
    losses = [-logits[[*encoding.encode_ordinary(text), encoding.eot_token]] for text in outputs]
    assert found == pytest.approx(
        {"response_loss": torch.cat(losses).mean().item(), "exact_match": 0.5, "rouge_l": 0.5}, rel=1e-5
    )
    assert (tmp_path / "samples.md").read_text().count("- expected: ") == 2


def test_a_row_too_long_for_the_context_is_answered_with_nothing_and_does_not_stop_the_evaluation(
    make_gpt, encoding, tmp_path
):
    rows = {"id": ["a", "b"], "kind": ["k"] * 2, "instruction": ["sat", "the moon " * 90], "input": ["", ""]}
    table = pd.DataFrame(rows | {"output": ["the cat", "the dog"], "checkable": [True, True]})
    table.to_parquet(tmp_path / "test.parquet")
    params = EvaluateAssistant(batch_size=2, max_new_tokens=6, samples=2)
    evaluate_assistant.fn(make_gpt(context_length=64), encoding, tmp_path, params, CPU, tmp_path)
    answers = pd.read_csv(tmp_path / "answers.csv", keep_default_na=False)
    assert answers["id"].tolist() == ["a", "b"]
    assert answers["answer"][1] == ""
