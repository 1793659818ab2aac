"""What a reviewer reads of a model of labels beside its figures: tables, pictures and the worst errors."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PrecisionRecallDisplay,
    RocCurveDisplay,
    precision_recall_curve,
    roc_curve,
)

from llm.loaded_model import LoadedModel
from llm.objectives.classifier import Classifier, probabilities
from llm.objectives.classifier.explanations import in_words, moved_by
from tasks.measures.labels.rows import texts_of
from tasks.measures.labels.scores import PROBABILITY, labels_of
from tasks.measures.pictures import picture
from tasks.measures.scores import BASELINE, OURS, ROW, TEST, by_row, test_rows
from tasks.measures.tables import for_spreadsheets

ERRORS = 6  # that are shown
SHOWN = 400  # characters of one
PHRASES = 8  # that moved it
SLICES = ("label", "source", "words")
CURVES = {
    "roc": RocCurveDisplay.from_predictions,
    "precision_recall": PrecisionRecallDisplay.from_predictions,
    "reliability": partial(CalibrationDisplay.from_predictions, n_bins=10),
}
"""How each picture of curves draws one."""
SHOWN_PART = {
    "roc": {"xlim": (-0.002, 0.1), "ylim": (0.5, 1.01)},
    "precision_recall": {"xlim": (0.5, 1.01), "ylim": (0.5, 1.01)},
}
"""The part that a filter works in."""


def verdicts(scores: pd.DataFrame) -> pd.DataFrame:
    """A line for each test row: its slices, what the model says, whether that is right, and whether its baseline is."""
    labels = labels_of(scores["measure"].unique())
    ours = by_row(scores, OURS)
    numbers = ours[f"predicted {', '.join(labels)}"].astype(int)
    slices = test_rows(scores)[["expected", *SLICES]]
    table = slices.join(ours[[f"{label}{PROBABILITY}" for label in labels]])
    return table.assign(
        predicted=np.array(labels)[numbers],
        confidence=ours["confidence"],
        right=ours["right"] == 1,
        baseline_right=by_row(scores, BASELINE)["right"] == 1,
    ).reset_index()


def write_tables(scores: pd.DataFrame, evidence: Path) -> None:
    """`predictions.csv` and `slices.csv` of the test split."""
    labels = labels_of(scores["measure"].unique())
    table = verdicts(scores)
    test = table[table["part"] == TEST]
    predictions = test.rename(columns={"expected": "actual"})
    predictions = predictions[["id", "actual", "predicted", *(f"{label}{PROBABILITY}" for label in labels)]]
    for_spreadsheets(predictions.round(4)).to_csv(evidence / "predictions.csv", index=False)
    slices_of(test, labels).to_csv(evidence / "slices.csv", index=False, float_format="%.4f")


def slices_of(test: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Rows, the share of each label, and how many of its rows are right, by label, by source and by length."""
    tables = []
    for name in SLICES:
        rows = test.assign(slice=test[name])
        columns = {"rows": ("right", "size")}
        for label in labels:
            rows[f"share_of_{label}"] = rows["expected"] == label
            rows[f"right_of_{label}"] = rows["right"].where(rows["expected"] == label)
            for column in (f"share_of_{label}", f"right_of_{label}"):
                columns[column] = (column, "mean")
        columns["baseline_right"] = ("baseline_right", "mean")
        tables.append(rows.groupby("slice").agg(**columns).astype(float).reset_index().assign(by=name))
    return pd.concat(tables).set_index(["by", "slice"]).reset_index()


def worst(rows: pd.DataFrame, scores: pd.DataFrame, loaded: LoadedModel[Classifier]) -> str:
    """The texts of the test split that were got wrong with the greatest confidence, and the phrases that moved them."""
    read = partial(probabilities, loaded)
    config = loaded.model.config
    columns = list(config.columns)
    table = verdicts(scores).merge(rows[[*ROW, *columns]], on=ROW)
    wrong = table[(table["part"] == TEST) & ~table["right"]]
    lines = ["# The worst errors of the classifier"]
    for number, row in wrong.sort_values("confidence", ascending=False, kind="stable").head(ERRORS).iterrows():
        text = " ".join(" | ".join(row[columns]).split())[:SHOWN]
        whole = texts_of(wrong.loc[[number]], columns)[0]
        moved = in_words(moved_by(read, config.labels, whole)[:PHRASES])
        verdict = f"the classifier says {row['predicted']}, with probability {row['confidence']:.3f}"
        lines.append(f"**{row['id']}**: labelled {row['expected']}; {verdict}\n\n> {text}\n\nIt looks {moved}")
    return "\n\n".join(lines) + "\n"


def draw_curves(scores: pd.DataFrame, folder: Path) -> None:
    """ROC, precision-recall and reliability curves of classifier and baseline, of what is looked for on the test split.

    The classifier's points are also tables for `dvc plots`.
    """
    test = scores[scores["part"] == TEST]
    labels = labels_of(test["measure"].unique())
    actual = by_row(test, OURS)[f"is {', '.join(labels[1:])}"].to_numpy(int)
    looked_for = [f"{label}{PROBABILITY}" for label in labels[1:]]
    contenders = {"classifier": OURS, "baseline": BASELINE}
    chances = {name: by_row(test, column)[looked_for].sum(axis=1) for name, column in contenders.items()}
    for curve, draw in CURVES.items():
        with picture(folder / f"{curve}.svg", "", "") as axes:
            for name, probability in chances.items():
                draw(actual, probability, name=name, ax=axes)
            axes.set(aspect="auto", **SHOWN_PART.get(curve, {}))
    false_positive_rate, true_positive_rate, _ = roc_curve(actual, chances["classifier"])
    roc = pd.DataFrame({"false_positive_rate": false_positive_rate, "true_positive_rate": true_positive_rate})
    roc.to_csv(folder / "roc.csv", index=False, float_format="%.5f")
    precision, recall, _ = precision_recall_curve(
        actual,
        chances["classifier"],
        drop_intermediate=True,  # pyrefly: ignore[unexpected-keyword] - newer than scikit-learn's stubs
    )
    points = pd.DataFrame({"precision": precision, "recall": recall})
    points.to_csv(folder / "precision_recall.csv", index=False, float_format="%.5f")


def draw_confusion(scores: pd.DataFrame, path: Path) -> None:
    """How many texts of each label were given which."""
    labels = labels_of(scores["measure"].unique())
    test = verdicts(scores).query(f"part == '{TEST}'")
    with picture(path, "", "") as axes:
        ConfusionMatrixDisplay.from_predictions(
            test["expected"], test["predicted"], labels=labels, cmap="Blues", colorbar=False, ax=axes
        )
