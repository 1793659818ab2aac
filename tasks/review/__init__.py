"""Whether a challenger should be champion: both answer the same test rows, it is held against gates, a page says all.

How a model is reviewed is a module here with a `REVIEW`, of the application's name. One without such a file has its
own evaluation's metrics reviewed, and no rows are asked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from tasks.evaluation.statistics import Wordings


def no_options(evaluate: Any) -> dict[str, Any]:
    """A model is asked as it stands."""
    return {}


@dataclass(frozen=True)
class Sample:
    """A metric of one version as a statistic over test rows, so that it can be resampled."""

    statistic: Callable[..., np.ndarray]
    """Of arrays of one length, along `axis`; the same function wherever the metric is the same."""
    columns: tuple[np.ndarray, ...]
    """These arrays; of two versions each element is of the same row."""
    wordings: Wordings | None = None
    """Of the same rows, where they were put in wordings that are to be resampled, too."""

    @property
    def value(self) -> float:
        """The metric."""
        return float(self.statistic(*self.columns, axis=-1))


@dataclass(frozen=True)
class Review:
    """How two versions of a model are held against each other."""

    main: str
    """The metric that the verdict speaks of, or, where no row has it, the first that is measured; metrics are named as
    the evaluation names them."""
    unit: str
    """What a row is, in the plural."""
    columns: tuple[str, ...]
    """What of a row a version is asked with."""
    rows: Callable[[Path], pd.DataFrame]
    """`rows(data)`: the test rows of a dataset's folder, with the columns `id`, `text` and `expected` for people,
    `columns`, `slices`, and what scoring needs."""
    score: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame]
    """`score(rows, answers)`: a row each with `score`, `said` (the answer for people) and `surety`, the greater the
    worse an error is; of what has none it is 0."""
    measure: Callable[[pd.DataFrame, pd.DataFrame], Mapping[str, Sample]]
    """`measure(rows, answers)`: the metrics."""
    step: float = 1.0
    """By how much a row's score changes at least before people are shown it."""
    low_scores_are_good: bool = False
    slices: tuple[str, ...] = ()
    """Columns that say which slice a row is in; None is in none."""
    ask: Literal["predict", "bits"] = "predict"
    """What is asked of a version: its answers, or the bits in which it writes each `text`."""
    baseline: str = ""
    """What the baseline is, for people."""
    explained: Mapping[str, str] = field(default_factory=dict)
    """What a metric says, for people who know none, by its name."""
    tell: Callable[[pd.DataFrame, pd.DataFrame], str] | None = None
    """`tell(rows, answers)`: the errors of a version, counted, in a sentence."""
    options: Callable[[Any], dict[str, Any]] = no_options
    """`options(evaluate)`: what it is asked with besides, from the `evaluate` section in params.yaml."""


def find(name: str) -> Review:
    """The review in `tasks/review/<name>.py`. Raises ModuleNotFoundError without that file."""
    return import_module(f"{__name__}.{name}").REVIEW
