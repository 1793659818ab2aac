import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from tasks.measures.labels.evidence import draw_confusion
from tasks.measures.labels.scores import calibration_error, label_metrics, recall_at, recall_at_rate, score_labels
from tasks.measures.metrics import figures
from tasks.measures.scores import join, score_table


@pytest.fixture
def rows() -> pd.DataFrame:
    return rows_of(["spam", "ham", "ham"] * 300)


def rows_of(labels: list[str]) -> pd.DataFrame:
    """Rows with these labels."""
    numbers = [str(number) for number in range(len(labels))]
    slices = dict.fromkeys(("label", "source", "words", "behavioural"))
    return pd.DataFrame({"part": "test", "id": numbers, "question": numbers, "expected": labels, **slices})


def answers_to(rows: pd.DataFrame, names: tuple[str, ...] = ("ham", "spam")) -> pd.DataFrame:
    """Answers that are mostly right, with probabilities that go with them."""
    generator = np.random.default_rng(1)
    odds = np.stack([(rows["expected"] == name) + generator.normal(size=len(rows)) for name in names], axis=1)
    chances = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    answers = pd.DataFrame(chances, columns=[f"{name}_probability" for name in names])
    return answers.assign(label=np.array(names)[chances.argmax(axis=1)], error=None)


def table_of(rows: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    return score_table(rows, ours=score_labels(rows, answers))


def values_of(table: pd.DataFrame) -> dict[str, float]:
    return {name: figure.value for name, figure in figures(label_metrics(table), table).items()}


def test_metrics_are_those_of_scikit_learn(rows):
    answers = answers_to(rows)
    actual = (rows["expected"] == "spam").to_numpy(int)
    called = (answers["label"] == "spam").to_numpy(int)
    chances = answers["spam_probability"]
    values = values_of(table_of(rows, answers))
    assert values.pop("calibration_error") < 0.1
    assert values == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(actual, called),
            "f1": sklearn.metrics.f1_score(actual, called),
            "false_positive_rate": called[actual == 0].mean(),
            "precision": sklearn.metrics.precision_score(actual, called),
            "recall": sklearn.metrics.recall_score(actual, called),
            "roc_auc": sklearn.metrics.roc_auc_score(actual, chances),
            "recall_at_fpr_0.005": recall_at(actual, chances.to_numpy()),
        }
    )


def test_mean_f1_of_three_labels_is_of_those_that_occur():
    labels = [("a", "b", "c")[number % 3] for number in range(90)]
    rows = rows_of(labels)
    answers = answers_to(rows, ("a", "b", "c"))
    values = values_of(table_of(rows, answers))
    assert values["f1"] == pytest.approx(sklearn.metrics.f1_score(labels, answers["label"], average="macro"))
    assert values.keys() == {"accuracy", "f1", "calibration_error"}
    two = rows[rows["expected"] != "c"]
    assert values_of(table_of(two, answers.assign(label=labels).loc[two.index]))["f1"] == 1


def test_metrics_of_one_label_are_not_compared_with_those_of_another(rows):
    answers = answers_to(rows)
    turned = answers[["label", "spam_probability", "ham_probability", "error"]]
    joined = join(table_of(rows, answers), table_of(rows, turned))
    by_name = figures(label_metrics(joined), joined)
    assert not {"f1", "recall", "precision"} & by_name.keys()
    assert by_name["accuracy"].difference == 0


def test_statistics_of_many_resamples_are_those_of_each(rows):
    table = table_of(rows, answers_to(rows))
    scores = table.pivot(index="id", columns="measure", values="ours")
    resamples = np.random.default_rng(2).integers(0, len(rows), size=(5, len(rows)))
    for metric in label_metrics(table):
        if metric.resampled:
            columns = [scores[measure].to_numpy() for measure in metric.measures]
            resampled = [column[resamples] for column in columns]
            values = []
            for numbers in resamples:
                draw = [column[numbers] for column in columns]
                values.append(metric.statistic(*draw))
            assert metric.statistic(*resampled) == pytest.approx(np.array(values))


def test_row_without_an_answer_is_wrong_and_says_why(rows):
    answers = answers_to(rows)
    answers.loc[0, ["label", "ham_probability", "spam_probability"]] = None
    answers.loc[0, "error"] = "there is no text to classify"
    scored = score_labels(rows, answers)
    assert scored.loc[0, ["right", "confidence", "answer"]].tolist() == [
        0,
        0,
        "no answer: there is no text to classify",
    ]
    assert values_of(table_of(rows, answers))["accuracy"] == scored["right"].mean()


def test_unsure_answer_counts_as_what_it_leans_to(rows):
    sure = answers_to(rows)
    answers = sure.assign(leaning=sure["label"], label=sure["label"].where(rows.index > 0, "unsure"))
    scored = score_labels(rows, answers)
    assert scored["right"].equals(score_labels(rows, sure)["right"])
    assert scored["answer"][0].startswith("unsure (spam 0.")
    assert scored["unsure"].sum() == 1
    assert values_of(table_of(rows, answers))["f1"] == values_of(table_of(rows, sure))["f1"]


def test_recall_at_rate_of_two_rows_of_columns_is_that_of_each():
    generator = np.random.default_rng(1)
    actual = generator.integers(0, 2, (2, 400))
    chances = generator.random((2, 400)) + 0.5 * actual
    alone = [recall_at(*columns) for columns in zip(actual, chances, strict=True)]
    assert recall_at_rate(actual, chances).tolist() == alone


@pytest.mark.parametrize(("probability", "error"), [([0.9, 0.1], 0.1), ([0.9, 0.9], 0.4), ([1.0, 0.0], 0.0)])
def test_calibration_error_is_that_computed_by_hand(probability, error):
    chances = np.array(probability)
    assert calibration_error(np.array([1, 0]), 1 - chances, chances) == pytest.approx(error)


def test_label_with_signs_of_formulas_is_drawn_as_it_is(tmp_path):
    rows = rows_of(["$a_{$", "ham"])
    scored = score_labels(rows, answers_to(rows, ("$a_{$", "ham")))
    draw_confusion(score_table(rows, ours=scored, baseline=scored), tmp_path / "confusion.svg")
    assert (tmp_path / "confusion.svg").read_text().startswith("<?xml")
