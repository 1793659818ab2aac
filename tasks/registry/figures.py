"""The metrics of a model as people read them: each beside its interval and its baseline."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tasks.registry.markup import plain

BASELINE = "baseline_"
OTHERS = ("instructed_", "nearest_", "ngram_", "ppmd_")
"""How the names of other contenders' metrics begin, beside which none of the model's has to stand."""
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "error", "false_positive_rate", "unanswered", "unjudged")
"""How the names of such metrics end."""


class Compared(NamedTuple):
    """A metric with what stands beside it."""

    name: str
    value: float
    interval: str
    """The ends of its 95 % interval as text; empty without one."""
    baseline: float | None


def compared(metrics: Mapping[str, float]) -> Iterator[Compared]:
    """The metrics of a model, each with the interval and the baseline that other names of `metrics` hold."""
    for name, value in metrics.items():
        metric, _, end = name.rpartition("_")
        if name.startswith(BASELINE) or (end in ("low", "high") and metric in metrics):
            continue
        ends = [metrics[f"{name}_{end}"] for end in ("low", "high") if f"{name}_{end}" in metrics]
        interval = f"{ends[0]:.4f} to {ends[1]:.4f}" if len(ends) > 1 else ""
        yield Compared(name, value, interval, metrics.get(BASELINE + name))


def figures_table(metrics: Mapping[str, float]) -> list[str]:
    """The lines of a Markdown table of them; it says of which less is better."""
    rows = ["| metric | test | 95 % interval | baseline | difference |", "|---|---:|---|---:|---:|"]
    for name, value, interval, baseline in compared(metrics):
        beside = "| | |" if baseline is None else f"| {baseline:.4f} | {value - baseline:+.4f} |"
        lower = " (lower is better)" if name.endswith(LOWER_IS_BETTER) else ""
        rows.append(f"| {plain(name)}{lower} | {value:.4f} | {interval} {beside}")
    return rows
