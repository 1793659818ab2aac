"""From a score table to metrics, each with its interval, the baseline's value, and the lead over the baseline."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from tasks.measures.intervals import Ends, Statistic, Wordings, interval, mean
from tasks.measures.scores import BASELINE, NEAREST, OURS, TEST, by_row, test_rows

LOWER_IS_BETTER = (
    "loss",
    "perplexity",
    "bits_per_byte",
    "error",
    "errors",
    "false_positive_rate",
    "unanswered",
    "unsure_share",
    "loops",
)
"""Suffixes of such metrics."""
NO_ENDS: Ends = (None, None)


def lower_is_better(metric: str) -> bool:
    """Whether a lower value of a metric is better."""
    return metric.endswith(LOWER_IS_BETTER)


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


def figures(metrics: Iterable[Metric], table: pd.DataFrame) -> dict[str, Figure]:
    """All metrics of a table of which a row has the measures, by name."""
    computed = {metric.name: figure(metric, table) for metric in metrics}
    return {name: value for name, value in computed.items() if value is not None}


def figure(metric: Metric, table: pd.DataFrame) -> Figure | None:
    """A metric of a table; None where no row has its measures."""
    chosen = table[table["measure"].isin(metric.measures)]
    for column, value in metric.where.items():
        chosen = chosen[chosen[column] == value]
    measures = list(metric.measures)
    scores = by_row(chosen, OURS).reindex(columns=measures).dropna()
    if scores.empty:
        return None
    wordings = None
    if metric.over_wordings:
        slices = test_rows(chosen).loc[scores.index]
        wordings = Wordings(kinds=slices["kind"].to_numpy(), wordings=slices["wording"].to_numpy())
    columns = {OURS: list(scores.to_numpy(float).T)}
    for contender in (BASELINE, NEAREST):
        if contender in chosen:
            others = by_row(chosen, contender).loc[scores.index, measures].to_numpy(float)
            if not np.isnan(others).any():
                columns[contender] = list(others.T)
    values = {contender: float(metric.statistic(*scored)) for contender, scored in columns.items()}
    computed = Figure(
        value=values[OURS],
        ends=interval(metric.statistic, *columns[OURS], wordings=wordings) if metric.resampled else NO_ENDS,
        nearest=values.get(NEAREST),
        rows=len(scores),
    )
    if BASELINE not in columns:
        return computed
    return replace(
        computed,
        baseline=values[BASELINE],
        difference=values[OURS] - values[BASELINE],
        difference_ends=_difference_ends(metric, columns[OURS], columns[BASELINE], wordings=wordings),
    )


def _difference_ends(
    metric: Metric, ours: list[np.ndarray], baseline: list[np.ndarray], *, wordings: Wordings | None
) -> Ends:
    """The interval of the difference, paired by row. Equal scores of all rows differ in nothing, however few."""
    if all(map(np.array_equal, ours, baseline)):
        return 0.0, 0.0
    if not metric.resampled:
        return NO_ENDS
    count = len(ours)

    def difference(*columns: np.ndarray) -> float:
        return metric.statistic(*columns[:count]) - metric.statistic(*columns[count:])

    return interval(difference, *ours, *baseline, wordings=wordings)


def logged(metrics: Sequence[Metric], table: pd.DataFrame) -> dict[str, float]:
    """Metrics as an evaluation logs them.

    `<metric>_low` and `<metric>_high` are the ends of an interval, `baseline_<metric>` and `nearest_<metric>` the
    others' values. `<metric>_gain`, with ends of its own, is the lead over the baseline: above zero if the model is
    better. Rows that are all alike leave no interval: no resample knows what others would be.
    """
    values: dict[str, float] = {}
    logs = {metric.name: metric.logs for metric in metrics}
    for name, computed in figures(metrics, table).items():
        values[name] = computed.value
        if "interval" in logs[name]:
            values |= _named_ends(name, computed.ends)
        if "gain" in logs[name] and computed.difference is not None:
            sign = -1.0 if lower_is_better(name) else 1.0
            values[f"{name}_gain"] = sign * computed.difference
            values |= _named_ends(f"{name}_gain", computed.difference_ends, sign)
        if BASELINE in logs[name] and computed.baseline is not None:
            values[f"{BASELINE}_{name}"] = computed.baseline
        if computed.nearest is not None:
            values[f"{NEAREST}_{name}"] = computed.nearest
    return values


def _named_ends(name: str, ends: Ends, sign: float = 1.0) -> dict[str, float]:
    """The ends of an interval, or of its negative, under names of their own; none of equal ends."""
    low, high = ends
    if low is None or high is None or low == high:
        return {}
    low, high = sorted([sign * low, sign * high])
    return {f"{name}_low": low, f"{name}_high": high}
