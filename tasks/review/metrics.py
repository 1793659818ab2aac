"""The metrics of challenger, champion and baseline, and their differences with confidence intervals."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tasks.measures.intervals import Ends
from tasks.measures.metrics import Figure
from tasks.registry.main_figures import BASELINE, is_own, lower_is_better

CHAMPION, BASE = "champion", "baseline"


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


def metrics_of(
    logged: Mapping[str, float],
    champion_logged: Mapping[str, float] | None = None,
    own: Mapping[str, Figure] | None = None,
    paired: Mapping[str, Figure] | None = None,
) -> dict[str, Metric]:
    """The metrics that the challenger's evaluation logged, next to the champion's.

    `champion_logged` holds the champion's if they come from the same test rows. `own` holds figures of the challenger's
    score table, for intervals and leads that its evaluation did not log. `paired` holds figures of the rows that both
    answered, with the champion as their baseline.
    """
    metrics = {}
    for name, value in logged.items():
        if not is_own(name, logged):
            continue
        figure = (own or {}).get(name)
        low, high = logged.get(f"{name}_low"), logged.get(f"{name}_high")
        if figure is not None and (low is None or high is None):
            low, high = _of_unlike_rows(figure.ends)
        metric = Metric(
            name=name,
            value=value,
            low=low,
            high=high,
            baseline=logged.get(BASELINE + name),
            to_baseline=_to_baseline(name, logged, ends=(low, high), figure=figure),
        )
        is_other_statistic = bool(paired) and figure is not None  # such as F1 of another label
        metrics[name] = _beside_champion(metric, {} if is_other_statistic else champion_logged or {}, paired or {})
    return metrics


def _to_baseline(
    name: str, logged: Mapping[str, float], *, ends: tuple[float | None, float | None], figure: Figure | None
) -> Difference | None:
    """The lead over the baseline: as it was logged, or else that of the score table.

    Without either the baseline counts as certain, and the interval is the challenger's own.
    """
    baseline = logged.get(BASELINE + name)
    if baseline is None:
        return None
    is_turned = lower_is_better(name)
    low, high = logged.get(f"{name}_gain_low"), logged.get(f"{name}_gain_high")
    if low is not None and high is not None:
        low, high = (-high, -low) if is_turned else (low, high)
    elif figure is not None and figure.difference is not None:
        low, high = _of_numbers(figure.difference_ends)
    elif ends[0] is not None and ends[1] is not None:
        low, high = ends[0] - baseline, ends[1] - baseline
    return Difference(logged[name] - baseline, low, high, lower_is_better=is_turned)


def _beside_champion(metric: Metric, champion_logged: Mapping[str, float], paired: Mapping[str, Figure]) -> Metric:
    """The metric with the champion's: of the rows of both, or as evaluations logged them."""
    is_turned = lower_is_better(metric.name)
    figure = paired.get(metric.name)
    if figure is not None and figure.difference is not None:
        low, high = _of_numbers(figure.difference_ends)
        difference = Difference(figure.difference, low, high, lower_is_better=is_turned)
        return replace(metric, paired=figure.value, champion=figure.baseline, to_champion=difference)
    if metric.name not in champion_logged:
        return metric
    champion = champion_logged[metric.name]
    difference = Difference(metric.value - champion, lower_is_better=is_turned)
    return replace(metric, champion=champion, to_champion=difference)


def _of_numbers(ends: Ends) -> Ends:
    """The ends; none if a resample had no value."""
    return (None, None) if ends[0] is None or np.isnan(ends).any() else ends


def _of_unlike_rows(ends: Ends) -> Ends:
    """The ends; none of rows that are all alike: no resample knows what others would be."""
    return (None, None) if ends[0] == ends[1] else _of_numbers(ends)
