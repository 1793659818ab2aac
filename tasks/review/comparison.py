"""The results of a review: the metrics, slices and answers of challenger, champion and baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from llm.errors import UserError
from tasks.registry.server import if_there
from tasks.review.metrics import BASE, CHAMPION, Difference, Metric

EVIDENCE = "evaluation/evidence"  # among the artifacts of a version's run


class Row(NamedTuple):
    """A row with its answers."""

    id: str
    text: str
    expected: str
    challenger: str
    champion: str | None


@dataclass(frozen=True)
class Slice:
    """The mean score of a slice of the rows."""

    by: str
    name: str
    rows: int
    challenger: float
    champion: float | None = None
    difference: Difference | None = None
    baseline: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The results of a review. Without a champion the challenger is compared with the baseline."""

    model: str
    challenger: ModelVersion
    champion: ModelVersion | None
    metrics: Mapping[str, Metric]
    main: str = ""
    """The metric that the verdict is about; empty if none is named."""
    explained: Mapping[str, str] = field(default_factory=dict)
    """The meanings of metrics."""
    baseline: str = ""
    """A description of the baseline."""
    unit: str = "rows"
    rows: int = 0
    """The number of rows that were compared."""
    checked: int = 0
    """The number of rows that the challenger answered again, with the code that it ships."""
    agreed: int | None = None
    """How many of them score as in its evaluation; None if that wrote no answers."""
    failed: str = ""
    """Why the challenger gave no answers."""
    incomparable: str = ""
    """Why there is no comparison with the champion."""
    learned: int | None = 0
    """The number of test rows that the champion trained on, which are left out; None if it is not known."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """The seconds for an answer, by version, if it answered again."""
    lost: Sequence[Row] = ()
    """Rows on which the champion is better, largest loss first."""
    won: Sequence[Row] = ()
    errors: Sequence[Row] = ()
    """The challenger's errors, worst first."""
    slices: Sequence[Slice] = ()

    @property
    def against(self) -> str:
        """`champion` or `baseline`: what the challenger is compared with."""
        return CHAMPION if self.champion else BASE

    @property
    def opponent(self) -> str:
        """The same as a phrase, with the version."""
        return f"champion {self.champion.version}" if self.champion else "the baseline"

    @property
    def answered(self) -> bool:
        """Whether both versions answered the same rows."""
        return bool(self.champion and self.rows and not self.incomparable)

    @property
    def left_out(self) -> str:
        """A sentence on the test rows that the champion trained on; empty if there are none."""
        if self.learned is None:
            return f"Which of the {self.unit} the champion learned is not known, so all are compared."
        return f"Test {self.unit} left out because the champion learned them: {self.learned}." if self.learned else ""


def version_of(name: str, number: str) -> ModelVersion:
    """A version of a registered model. Raises UserError if there is none."""
    if (version := if_there(MlflowClient().get_model_version, name, number)) is None:
        raise UserError(f"{name} has no version {number}, or no longer: look at its versions in MLflow")
    return version
