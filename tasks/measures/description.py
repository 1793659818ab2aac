"""How an application is measured, and how two versions of it are compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from llm.config import Config
from tasks.measures.intervals import Wordings

Evidence = tuple[pd.DataFrame, Mapping[tuple[str, str], float]]
"""The answers of a version, and the baseline's mean score in each slice: `("kind", "counting")`."""


@dataclass(frozen=True)
class Evaluation:
    """How an application is measured."""

    params: type[Config]
    """Its `evaluate` section in params.yaml."""
    measure: Callable[..., Mapping[str, float]]
    """`measure(model, encoding, data, base, params, compute, evidence)`: metrics on the test split, by the `evaluate`
    section. `base` is the folder of the model that it started from (None for the foundation); files for reviewers go
    to the folder `evidence`. `baseline_<metric>` is the usual baseline's; `<metric>_low` and `<metric>_high` are the
    ends of an interval. `<metric>_gain`, with ends of its own, is the lead over the baseline, paired by row, above zero
    if the model is better."""


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
    """`score(rows, answers)`: for each row its `score`, the `answer` as people read it, and `confidence`: the greater,
    the worse an error is."""
    measure: Callable[[pd.DataFrame, pd.DataFrame], Mapping[str, Sample]]
    """`measure(rows, answers)`: metrics that the evaluation logged, by its names."""
    evidence: Callable[[pd.DataFrame, Path], Evidence | None] | None = None
    """`evidence(rows, folder)`: the answers that the evaluation wrote there, indexed as the rows; None without any."""
    explained: Mapping[str, str] = field(default_factory=dict)
    """The meanings of metrics that are not main figures in `tasks/applications/<model>/card.md`."""
    baseline: str = ""
    """A description of the baseline."""
    slices: tuple[str, ...] = ()
    """Columns that say which slice a row is in; None is in none."""
    step: float = 1.0
    """The page shows a row whose score changed by at least this much."""
    ask: Literal["predict", "bits"] = "predict"
    """The question to a version: its answers, or the bits that it needs for each `text`."""
    options: Callable[[Any], dict[str, Any]] = field(default=lambda evaluate: {})
    """`options(evaluate)`: further options of an answer, from the `evaluate` section in params.yaml."""
