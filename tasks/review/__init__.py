"""Whether a challenger should be champion: both are compared on the same test rows, gates are checked, a page shows it.

How a model is reviewed is a module here with a `REVIEW`, named after the application. Without that file a review
compares the metrics that the evaluations logged.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from tasks.evaluation.statistics import Wordings

Evidence = tuple[pd.DataFrame, Mapping[tuple[str, str], float]]
"""The answers of a version, and the baseline's mean score in each slice: `("kind", "counting")`."""


@dataclass(frozen=True)
class Sample:
    """A metric of one version as a statistic over test rows, so that it can be resampled."""

    statistic: Callable[..., np.ndarray]
    """Takes arrays of one length and an `axis`; the same function wherever the metric is the same."""
    columns: tuple[np.ndarray, ...]
    """These arrays; element n is of row n."""
    wordings: Wordings | None = None
    """The wording of each row, where wordings are resampled, too."""

    @property
    def value(self) -> float:
        """The metric."""
        return float(self.statistic(*self.columns, axis=-1))


@dataclass(frozen=True)
class Review:
    """How two versions of a model are compared."""

    main: str
    """The metric that the verdict is about."""
    unit: str
    """The plural noun for rows on the page, such as `mails`."""
    columns: tuple[str, ...]
    """The columns that a version is asked with."""
    rows: Callable[[Path], pd.DataFrame]
    """`rows(data)`: the test rows of a dataset's folder, with `id`, `text` and `expected` for people, `columns`,
    `slices`, and what scoring needs."""
    score: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame]
    """`score(rows, answers)`: for each row its `score`, `said` (the answer as people read it) and `confidence`: the
    greater, the worse an error is."""
    measure: Callable[[pd.DataFrame, pd.DataFrame], Mapping[str, Sample]]
    """`measure(rows, answers)`: the metrics, named as the evaluation names them."""
    evidence: Callable[[pd.DataFrame, Path], Evidence | None] | None = None
    """`evidence(rows, folder)`: the answers that the evaluation wrote there, indexed as the rows; None without any."""
    explained: Mapping[str, str] = field(default_factory=dict)
    """What metrics mean that are no main figures in `tasks/applications/<model>.md`."""
    baseline: str = ""
    """What the baseline is."""
    slices: tuple[str, ...] = ()
    """Columns that say which slice a row is in; None is in none."""
    step: float = 1.0
    """The page shows a row whose score changed by at least this much."""
    ask: Literal["predict", "bits"] = "predict"
    """What a version is asked for: its answers, or the bits in which it writes each `text`."""
    options: Callable[[Any], dict[str, Any]] = field(default=lambda evaluate: {})
    """`options(evaluate)`: further options of an answer, from the `evaluate` section in params.yaml."""


def find(name: str) -> Review:
    """The review in `tasks/review/<name>.py`. Raises ModuleNotFoundError without that file."""
    return import_module(f"{__name__}.{name}").REVIEW
