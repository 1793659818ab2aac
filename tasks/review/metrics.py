"""The metrics of challenger, champion and baseline, and their differences with confidence intervals."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tasks.measures.description import Sample
from tasks.measures.intervals import interval
from tasks.registry.main_figures import BASELINE, is_own, lower_is_better

CHAMPION, BASE = "champion", "baseline"

Ends = tuple[float | None, float | None]
Samples = Mapping[str, Sample]


@dataclass(frozen=True)
class Difference:
    """Challenger minus the other, with its 95 % interval if there is one."""

    value: float
    low: float | None = None
    high: float | None = None
    lower_is_better: bool = False

    @property
    def is_none(self) -> bool:
        """Whether both are equal in every resample of the rows."""
        return self.value == self.low == self.high == 0

    @property
    def verdict(self) -> Literal["better", "worse", "no clear difference", "not known"]:
        """`no clear difference` if the interval includes zero."""
        if self.low is None or self.high is None:
            return "not known"
        if self.low <= 0 <= self.high:
            return "no clear difference"
        return "better" if (self.high < 0) == self.lower_is_better else "worse"


@dataclass(frozen=True)
class Metric:
    """A metric of challenger, champion and baseline; None if it is not known."""

    name: str
    value: float
    """The challenger's value from its evaluation."""
    low: float | None = None
    """`low` and `high` are its 95 % interval."""
    high: float | None = None
    baseline: float | None = None
    to_baseline: Difference | None = None
    champion: float | None = None
    paired: float | None = None
    """The challenger's value on the rows that both answered, measured as the champion's."""
    to_champion: Difference | None = None

    def difference(self, against: str) -> Difference | None:
        """The difference from the champion, or from the baseline."""
        return self.to_champion if against == CHAMPION else self.to_baseline


def _ends(mine: Sample, its: Sample | None = None) -> Ends:
    """The 95 % interval of a metric, or of its difference from another version's, paired by row; None if it is NaN.

    Equal answers to all rows mean no difference, however few rows there are. A metric of rows that are all alike has no
    interval.
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


def _to_baseline(name: str, logged: Mapping[str, float], own: Ends) -> Difference | None:
    """The lead over the baseline that the evaluation logged.

    A gain above zero means that the model is better; its interval is paired by row. Without a logged gain the baseline
    counts as certain, and the interval is the challenger's own.
    """
    if (baseline := logged.get(BASELINE + name)) is None:
        return None
    less, ends = lower_is_better(name), (logged.get(f"{name}_gain_low"), logged.get(f"{name}_gain_high"))
    if None in ends:
        ends = own if None in own else tuple(end - baseline for end in own)
    elif less:
        ends = -ends[1], -ends[0]
    return Difference(logged[name] - baseline, *ends, less)


def metrics_of(
    logged: Mapping[str, float],
    its_logged: Mapping[str, float] | None = None,
    own: Samples | None = None,
    pair: tuple[Samples, Samples] | None = None,
) -> dict[str, Metric]:
    """The metrics that the challenger's evaluation logged, next to the champion's.

    `its_logged` holds the champion's if they come from the same test rows. `own` holds resamples of all rows that the
    challenger answered, for intervals that its evaluation did not log. `pair` holds resamples of the rows that both
    answered; only equal statistics are compared: F1 of two labels is not F1 of three.
    """
    metrics, own, its_logged = {}, own or {}, its_logged or {}
    mine, its = pair or ({}, {})
    for name, value in logged.items():
        if not is_own(name, logged):
            continue
        less, ends = lower_is_better(name), (logged.get(f"{name}_low"), logged.get(f"{name}_high"))
        if None in ends and name in own:
            ends = _ends(own[name])
        metric = Metric(name, value, *ends, logged.get(BASELINE + name), _to_baseline(name, logged, ends))
        if name in mine and name in its and mine[name].statistic is its[name].statistic:
            one, other = mine[name].value, its[name].value
            difference = Difference(one - other, *_ends(mine[name], its[name]), less)
            metric = replace(metric, paired=one, champion=other, to_champion=difference)
        elif name in its_logged and name not in mine:
            difference = Difference(value - its_logged[name], lower_is_better=less)
            metric = replace(metric, champion=its_logged[name], to_champion=difference)
        metrics[name] = metric
    return metrics
