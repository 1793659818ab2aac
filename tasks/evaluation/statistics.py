"""What evaluations share: intervals, paired comparisons and pictures, the same bytes for the same numbers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import bootstrap

RESAMPLES, SEED = 2000, 1


def interval(statistic: Callable[..., np.ndarray], *rows: Sequence | np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a statistic over test rows, by percentile bootstrap (Efron 1979).

    `statistic` takes arrays of one length and gives a number; with a parameter `axis` it is called for many resamples
    at once, which is faster. Of a difference between two models that answered the same rows it is the interval of the
    paired test: they differ where it leaves out zero. One row alone has no interval: both ends are its value.
    """
    arrays = [np.asarray(each) for each in rows]
    if len(arrays[0]) < 2:
        value = float(statistic(*arrays))
        return value, value
    found = bootstrap(
        arrays, statistic, n_resamples=RESAMPLES, batch=100, paired=True, method="percentile", axis=-1, rng=SEED
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def with_interval(name: str, value: float, ends: tuple[float, float]) -> dict[str, float]:
    """A metric and the ends of its interval, under names of their own."""
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}


@contextmanager
def picture(path: Path, xlabel: str, ylabel: str) -> Iterator[Axes]:
    """Axes that become an SVG."""
    with mpl.rc_context({"svg.hashsalt": "threestage", "font.size": 9}):
        figure = Figure(figsize=(4.5, 3.5), layout="constrained")
        axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
        yield axes
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        figure.savefig(path, format="svg", metadata={"Date": None})
