"""Pictures of evaluations as SVG: the same bytes for the same numbers."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

CURVES = (
    ("roc", RocCurveDisplay, {"xlim": (-0.002, 0.1), "ylim": (0.5, 1.01)}),
    ("precision_recall", PrecisionRecallDisplay, {"xlim": (0.5, 1.01), "ylim": (0.5, 1.01)}),
    ("reliability", CalibrationDisplay, {"xlim": (0.0, 1.0)}),
)
"""The curves of what is looked for, and the part of each that a filter works in."""


@contextmanager
def picture(path: Path, xlabel: str = "", ylabel: str = "") -> Generator[Axes]:
    """Axes that become an SVG."""
    with mpl.rc_context({"svg.hashsalt": "threestage", "font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(4.5, 3.5), layout="constrained")
        axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
        yield axes
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        figure.savefig(path, format="svg", metadata={"Date": None})


def draw_curves(curves: Path, path: Path) -> None:
    """Training and validation loss by step, from a training's curves.csv, as an SVG."""
    table = pd.read_csv(curves)
    with picture(path, "step", "loss (nats)") as axes:
        for name in ("train_loss", "validation_loss"):
            axes.plot(table["step"], table[name], marker=".", label=name.replace("_", " "))


def draw_decisions(actual: np.ndarray, chances: Mapping[str, pd.Series], folder: Path) -> None:
    """ROC, precision-recall and reliability curves of each model's probabilities of what is looked for."""
    for curve, display, shown in CURVES:
        with picture(folder / f"{curve}.svg") as axes:
            for name, probability in chances.items():
                display.from_predictions(actual, probability, name=name, ax=axes)
            axes.set(aspect="auto", **shown)


def draw_confusion(test: pd.DataFrame, labels: Sequence[str], path: Path) -> None:
    """How many texts of each label in `actual` were given which, `predicted`."""
    draw = ConfusionMatrixDisplay.from_predictions
    with picture(path) as axes:
        draw(test["actual"], test["predicted"], labels=labels, cmap="Blues", colorbar=False, ax=axes)
