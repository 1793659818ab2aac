"""The models that people use: one folder each, with the same files.

- `train.py` says how it is prepared for training: a `TRAINING`;
- `evaluate.py` measures it on the test split, next to a baseline: an `EVALUATION`. It stands apart from training, so
  that a new metric trains nothing again;
- `review.py` says how two versions of it are compared: a `REVIEW`. Without that file a review compares the metrics
  that the evaluations logged;
- `check.py` checks what its block in params.yaml says about its dataset and its base, within a moment: it imports no
  library. Without that file nothing of the kind is checked;
- `card.md` says in words what it is for, what it is not for, which figures matter, and its limits.

An application is such a folder, a block under `applications` in params.yaml, and a test. Only if it learns something
new, it also needs a folder in llm/objectives and one of the same name in tasks/evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # only for type checkers: this package stays light
    import numpy as np
    import pandas as pd

    from llm.config import Config, TrainConfig
    from tasks.evaluation.statistics import Wordings
    from tasks.training.setup import TrainingSetup

Evidence = tuple["pd.DataFrame", Mapping[tuple[str, str], float]]
"""The answers of a version, and the baseline's mean score in each slice: `("kind", "counting")`."""


def no_identity(params: TrainConfig) -> dict[str, str]:
    """Nothing beyond parameters and deps."""
    return {}


def no_samples(setup: TrainingSetup, data: Path, evaluate: Mapping[str, Any]) -> list[str]:
    """No texts."""
    return []


@dataclass(frozen=True)
class Training:
    """How an application is trained."""

    objective: str
    """The folder of llm/objectives with its loss and its answers; its block in params.yaml repeats the name for DVC."""
    train: type[TrainConfig]
    """Its `train` section in params.yaml."""
    prepare: Callable[..., TrainingSetup]
    """`prepare(params, files, workers)` returns what is trained, from the `train` section, the `TrainingFiles` and the
    workers that share the batches."""
    samples: Callable[[TrainingSetup, Path, Mapping[str, Any]], list[str]] = no_samples
    """`samples(setup, data, evaluate)` returns texts to show at each evaluation of a training, from the dataset's
    folder and the `evaluate` section as it is written. They are only logged: no out contains them."""
    cleaning: str | None = None
    """The package whose `clean_row` turns what people send into what the model reads, or raises its `RowError`; it has
    `INPUTS` and `REQUIREMENTS`, and ships with every version."""
    identity: Callable[[Any], dict[str, str]] = no_identity
    """Anything else on which the trained weights depend, from the `train` section: names and hashes."""


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


Check = Callable[[Mapping[str, Any], Mapping[str, Any]], Iterator[tuple[str, str]]]
"""`check(block, values)`: each mistake as a key of the block, and the reason with the way out. `values` are those of
params.yaml as they are written, and `block` is the application's, whose dataset exists."""
