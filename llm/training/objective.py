"""What a training learns and how it is judged: the form that llm/objectives fills in and the loop minimises."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

ModelT = TypeVar("ModelT", bound=nn.Module)

Row = dict[str, Any]
"""The metrics of an update, and of the evaluation after it where there is one."""


@dataclass(frozen=True)
class Objective(Generic[ModelT]):
    """What a training run learns and how it is judged."""

    loss: Callable[[ModelT, int], Tensor]
    """The mean loss of a model on batch number i, under autocast; i counts forward passes from 0."""
    evaluate: Callable[[], Row]
    """Metrics on the validation split."""
    best: str
    """The metric that chooses the weights to keep."""
    lower_is_better: bool = True
    tie: str | None = None
    """Ties in `best` are broken by the smaller value of this metric; None keeps the first."""
    start_counts: bool = False
    """Whether the weights before the first step, published ones, may be the best; row 0 is their evaluation."""
    weight: Callable[[int], float] = lambda index: 1.0
    """How much batch number i counts among those of one update: what its mean was divided by, such as tokens."""
    samples: Callable[[], list[str]] = list
    """Texts for people to read, made at each evaluation and only reported."""


def best_evaluation(rows: Sequence[Row], objective: Objective[Any]) -> int:
    """The index of the evaluation whose weights are kept, among those of a training so far."""
    sign = 1 if objective.lower_is_better else -1

    def rank(index: int) -> tuple[float, float]:
        row = rows[index]
        return sign * row[objective.best], row[objective.tie] if objective.tie else 0.0

    return min(range(len(rows)), key=rank)
