"""The metrics of a model, each with its interval and its baseline."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from llm.files import read_text
from tasks.registry.markup import number, signed, table

BASELINE = "baseline_"
OTHERS = ("nearest_", "ngram_", "ppmd_")
"""Prefixes of metrics that belong to other contenders, not to the model."""
LOWER_IS_BETTER = (
    *("loss", "perplexity", "bits_per_byte", "error", "errors", "false_positive_rate"),
    *("unanswered", "unjudged", "unsure_share", "loops"),
)
"""Suffixes of such metrics."""
DERIVED = ("_low", "_high", "_gain")
FIGURE = re.compile(r"^- `(\w[\w.]*)`: (.+)$", re.MULTILINE)


class Compared(NamedTuple):
    """A metric with its interval and baseline."""

    name: str
    value: float
    interval: str
    """The ends of its 95 % interval as text; empty without one."""
    baseline: float | None


def main_figures(model: str) -> dict[str, str]:
    """The metrics that people read first, with their meaning: the list in `tasks/applications/<model>/card.md`."""
    prose = Path("tasks/applications", model, "card.md")
    return dict(FIGURE.findall(read_text(prose))) if prose.exists() else {}


def lower_is_better(metric: str) -> bool:
    """Whether a lower value of a metric is better."""
    return metric.endswith(LOWER_IS_BETTER)


def is_own(name: str, metrics: Mapping[str, float]) -> bool:
    """Whether a name is a metric of the model itself, not an interval's end, a gain, or a metric of a baseline or
    another contender."""
    derived = any(name.endswith(end) and name.removesuffix(end) in metrics for end in DERIVED)
    return not name.startswith((BASELINE, *OTHERS)) and not derived and not name.endswith(("_gain_low", "_gain_high"))


def compared(metrics: Mapping[str, float]) -> Iterator[Compared]:
    """The model's own metrics, each with its interval and baseline, which `metrics` holds under other names."""
    for name, value in metrics.items():
        if is_own(name, metrics):
            ends = [metrics[f"{name}{end}"] for end in ("_low", "_high") if f"{name}{end}" in metrics]
            interval = f"{number(ends[0])} to {number(ends[1])}" if len(ends) > 1 else ""
            yield Compared(name, value, interval, metrics.get(BASELINE + name))


def figures_table(metrics: Mapping[str, float]) -> list[str]:
    """The lines of a Markdown table of the metrics; it marks those that are better when lower."""
    rows = []
    for name, value, interval, baseline in compared(metrics):
        title = f"{name} (lower is better)" if lower_is_better(name) else name
        difference = "" if baseline is None else signed(value - baseline)
        rows.append((title, number(value), interval, number(baseline), difference))
    return table(("metric", "test", "95 % interval", "baseline", "difference"), rows, right=(1, 3, 4))
