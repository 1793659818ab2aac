"""Pictures of evaluations as SVG: the same bytes for the same numbers."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure


@contextmanager
def picture(path: Path, xlabel: str, ylabel: str) -> Generator[Axes]:
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
