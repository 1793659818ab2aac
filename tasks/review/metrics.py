"""The metrics of challenger, champion and baseline, how they differ, and how sure that is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.evaluation.statistics import interval
from tasks.registry.figures import BASELINE, LOWER_IS_BETTER, OTHERS
from tasks.review import Sample

SPEED = "seconds_a_row"
ENDS = ("_low", "_high")
GAIN = "_gain"
CHAMPION, BASE = "champion", "baseline"

Verdict = Literal["better", "worse", "no difference", "not known"]


def lower_is_better(metric: str) -> bool:
    """Whether less of a metric is better."""
    return metric == SPEED or metric.endswith(LOWER_IS_BETTER)


@dataclass(frozen=True)
class Difference:
    """What the challenger has more than another, with the 95 % interval of that where there is one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def is_none(self) -> bool:
        """Whether both are the same however the rows are drawn."""
        return self.value == self.low == self.high == 0


def judged(found: Difference | None, *, less: bool) -> Verdict:
    """How a challenger stands by a difference: `no difference` where its interval has zero in it.

    `less` says that lower values are better.
    """
    if found is None or found.low is None or found.high is None:
        return "not known"
    if found.low <= 0 <= found.high:
        return "no difference"
    return "better" if (found.high < 0) == less else "worse"


@dataclass(frozen=True)
class Metric:
    """A metric of all that are compared; None where it is not known."""

    name: str
    challenger: float | None
    champion: float | None = None
    baseline: float | None = None
    low: float | None = None
    """With `high` the 95 % interval of the challenger's."""
    high: float | None = None
    evaluated: float | None = None
    """What the challenger's own evaluation found."""
    answered: bool = False
    """Whether it is from what the versions answered now; else it is what their evaluations logged."""
    to_champion: Difference | None = None
    to_baseline: Difference | None = None
    as_evaluated: bool = True
    """Whether what was answered now is of the same rows as the evaluation's value, and the baseline's."""

    def difference(self, against: str) -> Difference | None:
        """To the champion, or to the baseline."""
        return self.to_champion if against == CHAMPION else self.to_baseline

    def verdict(self, against: str) -> Verdict:
        """How the challenger stands against the champion, or against the baseline."""
        return judged(self.difference(against), less=lower_is_better(self.name))


def _interval(mine: Sample, its: Sample | None = None) -> tuple[float | None, float | None]:
    """The 95 % interval of a metric, or of its difference to another version's, paired by row; None for what is NaN.

    Where both say the same of each row there is no difference, however few rows there are. Rows that are all alike
    leave no interval of a metric alone.
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


def _to_baseline(name: str, logged: Mapping[str, float], sample: Sample | None = None) -> Difference | None:
    """The lead over the logged baseline of what it answers now, or of what its evaluation logged.

    The interval's ends lie from the lead as far as those that the evaluation logged of its pairs do, whose gain is
    above zero where the model is better. Where it logged none the baseline is taken for certain, and the interval is
    the challenger's own.
    """
    if name not in logged or BASELINE + name not in logged:
        return None
    value = logged[name] if sample is None else sample.value
    moved, lead = value - logged[name], value - logged[BASELINE + name]
    gain = [logged.get(f"{name}{GAIN}{end}") for end in ENDS]
    own = [logged.get(f"{name}{end}") for end in ENDS]
    if None not in gain:
        ends = [-end for end in reversed(gain)] if lower_is_better(name) else gain
        return Difference(lead, *(end + moved for end in ends))
    if None not in own:
        return Difference(lead, *(end + moved - logged[BASELINE + name] for end in own))
    if sample is not None and None not in (found := _interval(sample)):
        return Difference(lead, *(end - logged[BASELINE + name] for end in found))
    return Difference(lead)


def _of_versions(name: str, logged: Mapping[str, float]) -> bool:
    """Whether a logged value is a metric of the version: no end, no lead, and no baseline's."""
    stem = next((name.removesuffix(end) for end in (*ENDS, GAIN) if name.endswith(end)), None)
    return not (name.startswith((BASELINE, *OTHERS)) or stem in logged)


def metrics_of(
    mine: Mapping[str, Sample],
    its: Mapping[str, Sample],
    logged: Mapping[str, float],
    its_logged: Mapping[str, float],
    *,
    as_evaluated: bool = True,
) -> dict[str, Metric]:
    """Those that were answered, then those that the evaluations alone know.

    Of the champion's answers counts what is measured in the same way: F1 of two labels is none of three. Without
    `as_evaluated` answers are of other pieces of the rows than the evaluation's, and the baseline's: then the lead over
    the baseline is what the evaluation logged.
    """
    found = {}
    its = {name: other for name, other in its.items() if name in mine and other.statistic is mine[name].statistic}
    for name, sample in mine.items():
        low, high = _interval(sample)
        found[name] = Metric(
            name,
            sample.value,
            its[name].value if name in its else None,
            logged.get(BASELINE + name),
            low,
            high,
            logged.get(name),
            True,
            Difference(sample.value - its[name].value, *_interval(sample, its[name])) if name in its else None,
            _to_baseline(name, logged, sample if as_evaluated or name not in logged else None),
            as_evaluated,
        )
    for name, value in logged.items():
        if name in found or not _of_versions(name, logged):
            continue
        other = its_logged.get(name)
        found[name] = Metric(
            name,
            value,
            other,
            logged.get(BASELINE + name),
            *(logged.get(f"{name}{end}") for end in ENDS),
            evaluated=value,
            to_champion=None if other is None else Difference(value - other),
            to_baseline=_to_baseline(name, logged),
        )
    return found
