"""What a reviewer reads of a classifier beside its figures: pictures, slices and the worst errors."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.calibration import calibration_curve
from sklearn.metrics import ConfusionMatrixDisplay, precision_recall_curve, roc_curve

from llm.loaded_model import LoadedModel
from llm.objectives.classifier import Classifier, probabilities
from llm.objectives.classifier.explanations import in_words, moved_by
from tasks.measures.labels.baseline import texts_of
from tasks.measures.pictures import picture
from tasks.measures.tables import short_paths

LENGTHS = {"to 50": 50, "51 to 200": 200, "201 to 500": 500, "over 500": np.inf}


def lengths(texts: pd.Series) -> pd.Series:
    """In which of LENGTHS, of words, each text is."""
    return pd.cut(texts.str.split().map(len), [-1, *LENGTHS.values()], labels=list(LENGTHS)).astype(str)


def slices(test: pd.DataFrame, labels: Sequence[str], longest: str) -> pd.DataFrame:
    """Rows, the share of each label, and how many of its rows are right, by label, by source and by the length of the
    column `longest`."""
    parts = {"label": test["label"], "source": short_paths(test["source"]), "words": lengths(test[longest])}
    tables = []
    for name, values in parts.items():
        rows, columns = test.assign(slice=values), {"rows": ("right", "size")}
        for label in labels:
            rows[f"share_of_{label}"] = rows["label"] == label
            rows[f"right_of_{label}"] = rows["right"].where(rows["label"] == label)
            columns |= {each: (each, "mean") for each in (f"share_of_{label}", f"right_of_{label}")}
        columns["baseline_right"] = ("baseline_right", "mean")
        tables.append(rows.groupby("slice").agg(**columns).astype(float).reset_index().assign(by=name))
    return pd.concat(tables).set_index(["by", "slice"]).reset_index()


def worst(test: pd.DataFrame, loaded: LoadedModel[Classifier], count: int = 6) -> str:
    """The texts that were got wrong with the greatest confidence, to read, and the phrases that moved them most."""
    config = loaded.model.config
    wrong, columns = test[~test["right"]], list(config.columns)
    read = partial(probabilities, loaded)
    lines = ["# The worst errors of the classifier"]
    for row in wrong.sort_values("probability", ascending=False, kind="stable").head(count).itertuples():
        text = " ".join(" | ".join(wrong.loc[row.Index, columns]).split())[:400]
        moved = in_words(moved_by(read, config.labels, *texts_of(wrong.loc[[row.Index]], columns))[:8])
        verdict = f"labelled {row.label}; the classifier says {row.predicted}, with probability {row.probability:.3f}"
        lines.append(f"**{row.id}**: {verdict}\n\n> {text}\n\nIt looks {moved}")
    return "\n\n".join(lines) + "\n"


def draw_curves(actual: np.ndarray, found: Mapping[str, np.ndarray], folder: Path) -> None:
    """ROC, precision-recall and reliability curves of the classifier and its baseline: 0 is what passes.

    The classifier's points are also written as tables for `dvc plots`.
    """
    with picture(folder / "roc.svg", "false positive rate", "true positive rate") as axes:
        for name, probability in found.items():
            axes.plot(*roc_curve(actual, probability)[:2], label=name)
        axes.set(xlim=(-0.002, 0.1), ylim=(0.5, 1.01))
    with picture(folder / "precision_recall.svg", "recall", "precision") as axes:
        for name, probability in found.items():
            precision, recall, _ = precision_recall_curve(actual, probability)
            axes.plot(recall, precision, label=name)
        axes.set(xlim=(0.5, 1.01), ylim=(0.5, 1.01))
    with picture(folder / "reliability.svg", "probability", "share that is so") as axes:
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        for name, probability in found.items():
            share, mean = calibration_curve(actual, probability, n_bins=10)
            axes.plot(mean, share, marker="o", label=name)
    roc = roc_curve(actual, found["classifier"])[:2]
    curve = precision_recall_curve(actual, found["classifier"], drop_intermediate=True)[:2]
    for name, columns, points in (
        ("roc", ("false_positive_rate", "true_positive_rate"), roc),
        ("precision_recall", ("precision", "recall"), curve),
    ):
        table = pd.DataFrame(dict(zip(columns, points, strict=True)))
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.5f")


def draw_confusion(actual: np.ndarray, predicted: np.ndarray, labels: Sequence[str], path: Path) -> None:
    """How many texts of each label were given which."""
    counted = {"labels": range(len(labels)), "display_labels": labels}
    with picture(path, "", "") as axes:
        ConfusionMatrixDisplay.from_predictions(actual, predicted, **counted, cmap="Blues", colorbar=False, ax=axes)
