"""How an application is measured, and how two versions of it are compared: `EVALUATION` in its measure.py."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from llm.config import Config
from llm.device import Compute
from llm.loaded_model import LoadedModel
from tasks.measures.metrics import Metric


@dataclass(frozen=True)
class Subject:
    """What an evaluation measures, and with what."""

    loaded: LoadedModel[Any]
    data: Path
    """The folder of the processed dataset."""
    base: Path | None
    """The folder of the model that it started from; None for the foundation."""
    params: Any
    """The `evaluate` section of params.yaml."""
    compute: Compute
    evidence: Path
    """The folder for files that people read."""


@dataclass(frozen=True)
class Measured:
    """What an evaluation found."""

    scores: pd.DataFrame
    """The score table."""
    further: Mapping[str, float] = field(default_factory=dict)
    """Metrics that are no statistic of the table."""


@dataclass(frozen=True)
class Evaluation:
    """How an application is measured, and how two versions of it are compared."""

    params: type[Config]
    """Its `evaluate` section in params.yaml."""
    measure: Callable[[Subject], Measured]
    """Has the model and the usual baseline answer the test split, and scores the answers."""
    metrics: Callable[[pd.DataFrame], Sequence[Metric]]
    """`metrics(scores)`: the metrics of a score table."""
    main: str = ""
    """The metric that a review's verdict is about."""
    unit: str = "rows"
    """The plural noun for rows on the page, such as `mails`."""
    judged_by: tuple[str, ...] = ()
    """The measures that say how good one answer is: the first of these that a row has."""
    step: float = 1.0
    """A review shows a row if that measure changed by at least this much."""
    slices: tuple[str, ...] = ()
    """Columns of the score table that say which slice a row is in; None is in none."""
    explained: Mapping[str, str] = field(default_factory=dict)
    """The meanings of metrics that are not main figures in `tasks/applications/<model>/card.md`."""
    baseline: str = ""
    """A description of the baseline."""
