"""From a score table to metrics, each with its interval, the baseline's value, and the lead over the baseline."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from tasks.measures.intervals import Ends, Statistic, Wordings, interval, mean
from tasks.measures.scores import BASELINE, NEAREST, OURS, TEST, by_row, test_rows
from tasks.registry.main_figures import lower_is_better

NO_ENDS: Ends = (None, None)


@dataclass(frozen=True)
class Metric:
    """A statistic of measures over some rows of a score table."""

    name: str
    measures: tuple[str, ...]
    """The arguments of the statistic; it is over the rows that have them all."""
    statistic: Statistic = mean
    where: Mapping[str, str] = field(default_factory=lambda: {"part": TEST})
    """The rows that count: the values of columns."""
    over_wordings: bool = False
    """Whether wordings are resampled, and rows within them: the table then has the columns `kind` and `wording`."""
    resampled: bool = True
    """Whether it has an interval; a statistic that is slow, or fails on some resamples, has none."""
    logs: frozenset[str] = frozenset({"interval", BASELINE, "gain"})
    """What an evaluation logs besides the value."""


@dataclass(frozen=True)
class Figure:
    """A metric of a score table; None for what is not known."""

    value: float
    ends: Ends = NO_ENDS
    """Of its 95 % interval; equal where all rows are alike."""
    baseline: float | None = None
    difference: float | None = None
    """The value less the baseline's."""
    difference_ends: Ends = NO_ENDS
    nearest: float | None = None
    rows: int = field(default=0, compare=False)


def figure(metric: Metric, table: pd.DataFrame) -> Figure | None:
    """A metric of a table; None where no row has its measures."""
    is_meant = table["measure"].isin(metric.measures)
    for column, value in metric.where.items():
        is_meant &= table[column] == value
    chosen = table[is_meant]
    ours = by_row(chosen, OURS)
    if not set(metric.measures) <= set(ours):
        return None
    ours = ours[list(metric.measures)].dropna()
    if ours.empty:
        return None
    wordings = None
    if metric.over_wordings:
        slices = test_rows(chosen).loc[ours.index]
        wordings = Wordings(kinds=slices["kind"].to_numpy(), wordings=slices["wording"].to_numpy())
    columns = _columns(metric, ours)
    value = float(metric.statistic(*columns))
    ends = interval(metric.statistic, *columns, wordings=wordings) if metric.resampled else NO_ENDS
    nearest_columns = _columns_of(metric, chosen, contender=NEAREST, rows=ours.index)
    nearest = float(metric.statistic(*nearest_columns)) if nearest_columns else None
    baseline_columns = _columns_of(metric, chosen, contender=BASELINE, rows=ours.index)
    if not baseline_columns:
        return Figure(value=value, ends=ends, nearest=nearest, rows=len(ours))
    baseline = float(metric.statistic(*baseline_columns))
    return Figure(
        value=value,
        ends=ends,
        baseline=baseline,
        difference=value - baseline,
        difference_ends=_difference_ends(metric, columns, baseline_columns, wordings=wordings),
        nearest=nearest,
        rows=len(ours),
    )


def figures(metrics: Iterable[Metric], table: pd.DataFrame) -> dict[str, Figure]:
    """All metrics of a table of which a row has the measures, by name."""
    computed = {metric.name: figure(metric, table) for metric in metrics}
    return {name: value for name, value in computed.items() if value is not None}


def logged(metrics: Sequence[Metric], table: pd.DataFrame) -> dict[str, float]:
    """Metrics as an evaluation logs them.

    `<metric>_low` and `<metric>_high` are the ends of an interval, `baseline_<metric>` and `nearest_<metric>` the
    others' values. `<metric>_gain`, with ends of its own, is the lead over the baseline: above zero if the model is
    better.
    """
    values: dict[str, float] = {}
    by_name = figures(metrics, table)
    for metric in metrics:
        if metric.name not in by_name:
            continue
        computed = by_name[metric.name]
        values[metric.name] = computed.value
        if "interval" in metric.logs:
            values |= named_ends(metric.name, computed.ends)
        if "gain" in metric.logs and computed.difference is not None:
            values |= gain(metric.name, computed.difference, computed.difference_ends)
        if BASELINE in metric.logs and computed.baseline is not None:
            values[f"{BASELINE}_{metric.name}"] = computed.baseline
        if computed.nearest is not None:
            values[f"{NEAREST}_{metric.name}"] = computed.nearest
    return values


def gain(name: str, difference: float, ends: Ends) -> dict[str, float]:
    """The lead over a baseline as it is logged, from the difference: above zero is better."""
    low, high = ends
    if not lower_is_better(name):
        return {f"{name}_gain": difference} | named_ends(f"{name}_gain", ends)
    turned = NO_ENDS if low is None or high is None else (-high, -low)
    return {f"{name}_gain": -difference} | named_ends(f"{name}_gain", turned)


def named_ends(name: str, ends: Ends) -> dict[str, float]:
    """The ends of an interval under names of their own, where there are any.

    Rows that are all alike leave no interval: no resample knows what others would be.
    """
    low, high = ends
    return {} if low is None or high is None or low == high else {f"{name}_low": low, f"{name}_high": high}


def _columns(metric: Metric, scores: pd.DataFrame) -> list[np.ndarray]:
    return [scores[measure].to_numpy(float) for measure in metric.measures]


def _columns_of(metric: Metric, table: pd.DataFrame, *, contender: str, rows: pd.Index) -> list[np.ndarray]:
    """Another contender's scores of rows; none if it lacks one."""
    if contender not in table:
        return []
    scores = by_row(table, contender)[list(metric.measures)].loc[rows]
    return [] if scores.isna().any(axis=None) else _columns(metric, scores)


def _difference_ends(
    metric: Metric, ours: list[np.ndarray], baseline: list[np.ndarray], *, wordings: Wordings | None
) -> Ends:
    """The interval of the difference, paired by row. Equal scores of all rows differ in nothing, however few."""
    if all(map(np.array_equal, ours, baseline)):
        return 0.0, 0.0
    if not metric.resampled:
        return NO_ENDS
    count = len(ours)

    def difference(*columns: np.ndarray) -> np.ndarray | float:
        return metric.statistic(*columns[:count]) - metric.statistic(*columns[count:])

    return interval(difference, *ours, *baseline, wordings=wordings)
