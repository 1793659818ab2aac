"""The metrics of a model, each with its interval and its baseline."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llm.files import read_text
from tasks.measures.metrics import lower_is_better
from tasks.registry.markup import number

BASELINE = "baseline_"
NEAREST = "nearest_"
"""Prefixes of metrics that belong to other contenders, not to the model."""
DERIVED = ("_low", "_high", "_gain")
MAIN_FIGURE = re.compile(r"^- `(\w[\w.]*)`: (.+)$", re.MULTILINE)
MAIN_FIGURES = re.compile(r"^## Main figures\n+(?:- .*\n?)*\n*", re.MULTILINE)
"""Their list, which the table of figures replaces on a card."""


@dataclass(frozen=True)
class Figure:
    """A metric of a model with its interval and baseline."""

    name: str
    value: float
    interval: str
    """The ends of its 95 % interval as text; empty without one."""
    baseline: float | None

    @property
    def title(self) -> str:
        """Its name for people, which says if a lower value is better."""
        return f"{self.name} (lower is better)" if lower_is_better(self.name) else self.name


def main_figures(model: str) -> dict[str, str]:
    """The metrics that people read first, with their meaning: the list in `tasks/applications/<model>/card.md`."""
    prose = Path("tasks/applications", model, "card.md")
    return dict(MAIN_FIGURE.findall(read_text(prose))) if prose.exists() else {}


def is_own(name: str, metrics: Mapping[str, float]) -> bool:
    """Whether a name is a metric of the model itself, not an interval's end, a gain, or a metric of a baseline or
    another contender."""
    derived = any(name.endswith(end) and name.removesuffix(end) in metrics for end in DERIVED)
    return not name.startswith((BASELINE, NEAREST)) and not derived and not name.endswith(("_gain_low", "_gain_high"))


def own_figures(metrics: Mapping[str, float]) -> list[Figure]:
    """The model's own metrics, each with its interval and baseline, which `metrics` holds under other names."""
    figures = []
    for name, value in metrics.items():
        if not is_own(name, metrics):
            continue
        low = metrics.get(f"{name}_low")
        high = metrics.get(f"{name}_high")
        interval = "" if low is None or high is None else f"{number(low)} to {number(high)}"
        figures.append(Figure(name=name, value=value, interval=interval, baseline=metrics.get(BASELINE + name)))
    return figures
