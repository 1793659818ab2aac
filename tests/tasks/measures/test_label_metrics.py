import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llm.objectives.classifier import ClassifierConfig
from tasks.measures.baseline import Reader
from tasks.measures.label_metrics import calibration_error, f1_of, label_metrics
from tasks.measures.labels import score_labels
from tasks.measures.metrics import figures
from tasks.measures.scores import join, score_table

TWO, THREE = ("ham", "spam"), ("a", "b", "c")


def rows_of(labels):
    """Rows with these labels, whose text is their number."""
    numbers = list(map(str, range(len(labels))))
    rows = pd.DataFrame({"part": "test", "id": numbers, "question": numbers, "text": numbers, "expected": labels})
    return rows.assign(label=None, source=None, words=None, behavioural=None)


def chances_of(rows, labels):
    """Probabilities of the labels, mostly highest for the expected one, N x K."""
    generator = np.random.default_rng(1)
    odds = [(rows["expected"] == label) + generator.normal(size=len(rows)) for label in labels]
    odds = np.exp(np.stack(odds, axis=1))
    return odds / odds.sum(axis=1, keepdims=True)


def table_of(rows, chances, labels, **config):
    """The score table of a model that gives these probabilities."""
    config = ClassifierConfig(labels=labels, columns=("text",), max_tokens=8, **config)
    reader = Reader(config=config, probabilities=lambda texts: chances[[int(text) for text in texts]])
    return score_table(rows.drop(columns="text"), ours=score_labels(rows, reader))


def values_of(table):
    return {name: figure.value for name, figure in figures(label_metrics(table), table).items()}


@pytest.fixture
def rows():
    return rows_of(["spam", "ham", "ham"] * 300)


def test_metrics_are_those_of_scikit_learn(rows):
    chances = chances_of(rows, TWO)
    actual = (rows["expected"] == "spam").to_numpy(int)
    called = chances.argmax(axis=1)
    values = values_of(table_of(rows, chances, TWO))
    assert values.pop("calibration_error") < 0.1
    rates, recalls, _ = sklearn.metrics.roc_curve(actual, chances[:, 1], drop_intermediate=False)
    assert values == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(actual, called),
            "f1": sklearn.metrics.f1_score(actual, called),
            "false_positive_rate": called[actual == 0].mean(),
            "precision": sklearn.metrics.precision_score(actual, called),
            "recall": sklearn.metrics.recall_score(actual, called),
            "roc_auc": sklearn.metrics.roc_auc_score(actual, chances[:, 1]),
            "recall_at_fpr_0.005": recalls[rates <= 0.005].max(),
        }
    )


def test_behavioural_metrics_are_shares_right_and_the_balanced_accuracy_of_scikit_learn(rows):
    rows = rows.assign(part="everyday", behavioural="everyday: a")
    chances = chances_of(rows, TWO)
    called = np.array(TWO)[chances.argmax(axis=1)]
    values = values_of(table_of(rows, chances, TWO))
    recalls = sklearn.metrics.recall_score(rows["expected"], called, average=None)
    balanced = sklearn.metrics.balanced_accuracy_score(rows["expected"], called)
    names = ("everyday_ham", "everyday_spam", "everyday_balanced_accuracy")
    assert [values[name] for name in names] == pytest.approx([*recalls, balanced])


def test_f1_of_three_labels_is_the_mean_of_those_that_occur():
    rows = rows_of([*THREE] * 30)
    chances = chances_of(rows, THREE)
    values = values_of(table_of(rows, chances, THREE))
    called = np.array(THREE)[chances.argmax(axis=1)]
    assert values["f1"] == pytest.approx(sklearn.metrics.f1_score(rows["expected"], called, average="macro"))
    assert values.keys() == {"accuracy", "f1", "calibration_error"}


def test_recall_of_three_labels_is_of_what_is_stopped_where_one_passes():
    rows = rows_of([*THREE] * 30)
    chances = chances_of(rows, THREE)
    values = values_of(table_of(rows, chances, THREE, threshold=0.7))
    is_stopped, passes = chances[:, 0] < 0.3, rows["expected"] == "a"
    assert values["recall"] == pytest.approx(sklearn.metrics.recall_score(~passes, is_stopped))
    assert values["false_positive_rate"] == pytest.approx(is_stopped[passes].mean())


def test_metrics_of_one_label_are_not_compared_with_those_of_another(rows):
    chances = chances_of(rows, TWO)
    turned = table_of(rows, chances[:, ::-1], ("spam", "ham"))
    joined = join(table_of(rows, chances, TWO), turned)
    by_name = figures(label_metrics(joined), joined)
    assert not {"f1", "recall", "precision"} & by_name.keys()
    assert by_name["accuracy"].difference == 0


def test_unsure_answer_counts_as_what_it_leans_to(rows):
    chances = chances_of(rows, TWO)
    values = values_of(table_of(rows, chances, TWO, threshold=0.5, unsure=(0.4, 0.6)))
    is_unsure = (chances[:, 1] > 0.4) & (chances[:, 1] <= 0.6)
    is_wrong = chances.argmax(axis=1) != (rows["expected"] == "spam")
    assert values["unsure_share"] == pytest.approx(is_unsure.mean())
    assert values["sure_errors"] == pytest.approx(is_wrong[~is_unsure].mean())
    assert values["f1"] == values_of(table_of(rows, chances, TWO, threshold=0.5))["f1"]


@pytest.mark.parametrize(("probability", "error"), [([0.9, 0.1], 0.1), ([0.9, 0.9], 0.4), ([1.0, 0.0], 0.0)])
def test_calibration_error_is_that_computed_by_hand(probability, error):
    chances = np.array(probability)
    assert calibration_error(np.array([1, 0]), 1 - chances, chances) == pytest.approx(error)


@settings(max_examples=25)
@given(arrays(bool, st.tuples(st.just(2), st.integers(1, 20))))
def test_f1_is_that_of_scikit_learn(labels_and_guesses):
    labels, guesses = labels_and_guesses
    assert f1_of(labels, guesses, 2) == pytest.approx(sklearn.metrics.f1_score(labels, guesses, zero_division=0))
    parity = np.arange(len(labels)) % 2
    macro = sklearn.metrics.f1_score(labels + parity, guesses + parity, average="macro", zero_division=0)
    assert f1_of(labels + parity, guesses + parity, 3) == pytest.approx(macro)  # of the labels that are there
