"""The metrics of challenger, champion and baseline, their differences, and how certain those are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tasks.applications import Sample
from tasks.evaluation.statistics import interval
from tasks.registry.figures import BASELINE, is_own, lower_is_better

ENDS = ("_low", "_high")
CHAMPION, BASE = "champion", "baseline"

Verdict = Literal["better", "worse", "no clear difference", "not known"]


@dataclass(frozen=True)
class Difference:
    """Challenger minus another, with the 95 % interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def is_none(self) -> bool:
        """Whether both are the same however the rows are drawn."""
        return self.value == self.low == self.high == 0


def judged(found: Difference | None, *, less: bool) -> Verdict:
    """The verdict on a difference: `no clear difference` where its interval includes zero.

    `less` says that lower values are better.
    """
    if found is None or found.low is None or found.high is None:
        return "not known"
    if found.low <= 0 <= found.high:
        return "no clear difference"
    return "better" if (found.high < 0) == less else "worse"


@dataclass(frozen=True)
class Metric:
    """A metric of all that are compared; None where it is not known."""

    name: str
    value: float
    """The challenger's, as its evaluation measured it."""
    low: float | None = None
    """With `high` its 95 % interval."""
    high: float | None = None
    baseline: float | None = None
    to_baseline: Difference | None = None
    champion: float | None = None
    paired: float | None = None
    """The challenger's on the rows that both answered, in the way in which the champion's was measured."""
    to_champion: Difference | None = None

    def difference(self, against: str) -> Difference | None:
        """To the champion, or to the baseline."""
        return self.to_champion if against == CHAMPION else self.to_baseline

    def verdict(self, against: str) -> Verdict:
        """The verdict on that difference."""
        return judged(self.difference(against), less=lower_is_better(self.name))


def _interval(mine: Sample, its: Sample | None = None) -> tuple[float | None, float | None]:
    """The 95 % interval of a metric, or of its difference to another version's, paired by row; None where it is NaN.

    Equal answers to all rows leave no difference, however few rows there are. Rows that are all alike leave no interval
    of a metric.
    """
    if its is not None and all(map(np.array_equal, mine.columns, its.columns)):
        return 0.0, 0.0
    count = len(mine.columns)

    def statistic(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        value = mine.statistic(*columns[:count], axis=axis)
        return value if its is None else value - its.statistic(*columns[count:], axis=axis)

    ends = interval(statistic, *mine.columns, *(its.columns if its else ()), wordings=mine.wordings)
    unknown = ends[0] is None or np.isnan(ends).any() or (its is None and ends[0] == ends[1])
    return (None, None) if unknown else ends


def _to_baseline(name: str, logged: Mapping[str, float]) -> Difference | None:
    """The lead over the baseline that the evaluation logged.

    A gain is above zero where the model is better, and its interval is paired by row. Without a logged gain the
    baseline counts as certain, and the interval is the challenger's own.
    """
    if BASELINE + name not in logged:
        return None
    lead = logged[name] - logged[BASELINE + name]
    gain, own = ([logged.get(f"{stem}{end}") for end in ENDS] for stem in (f"{name}_gain", name))
    if None not in gain:
        return Difference(lead, *([-end for end in reversed(gain)] if lower_is_better(name) else gain))
    return Difference(lead) if None in own else Difference(lead, *(end - logged[BASELINE + name] for end in own))


def metrics_of(
    logged: Mapping[str, float],
    its_logged: Mapping[str, float] | None = None,
    mine: Mapping[str, Sample] | None = None,
    its: Mapping[str, Sample] | None = None,
    own: Mapping[str, Sample] | None = None,
) -> dict[str, Metric]:
    """The metrics that the challenger's evaluation logged, next to the champion's.

    `its_logged` are the champion's, where they are of the same test rows. `mine` and `its` are samples of the same
    rows; only equal statistics are compared: F1 of two labels is not F1 of three. `own` are samples of all rows that
    the challenger answered, where `mine` lacks some.
    """
    found, mine, its = {}, mine or {}, its or {}
    own = own or mine
    for name, value in logged.items():
        if is_own(name, logged):
            ends = (logged.get(f"{name}{end}") for end in ENDS)
            found[name] = Metric(name, value, *ends, logged.get(BASELINE + name), _to_baseline(name, logged))
            if (other := (its_logged or {}).get(name)) is not None:
                found[name] = replace(found[name], champion=other, to_champion=Difference(value - other))
    for name, sample in mine.items():
        metric = found.get(name, Metric(name, own[name].value))
        if metric.low is None:
            metric = replace(metric, **dict(zip(("low", "high"), _interval(own[name]), strict=True)))
        if metric.to_baseline and metric.to_baseline.low is None and metric.low is not None:
            ends = (end - metric.baseline for end in (metric.low, metric.high))
            metric = replace(metric, to_baseline=Difference(metric.to_baseline.value, *ends))
        if name in its and its[name].statistic is sample.statistic:
            difference = Difference(sample.value - its[name].value, *_interval(sample, its[name]))
            metric = replace(metric, champion=its[name].value, paired=sample.value, to_champion=difference)
        elif its:
            metric = replace(metric, champion=None, to_champion=None)
        found[name] = metric
    return found
