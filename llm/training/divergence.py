"""Signs that a training has diverged: a loss that is no number, or that explodes."""

import math
from statistics import fmean

from llm.errors import UserError
from llm.training.objective import Row

WINDOW, EXPLODED = 10, 3.0  # steps whose mean loss may not be above the first ones' and so many times the lowest
LOWER = "try a lower learning_rate"


class DivergedError(UserError):
    """The loss is no number, or explodes."""


class UnsoundError(Exception):
    """The same, with the last step after which all was well."""

    def __init__(self, reason: str, last_sound_step: int) -> None:
        super().__init__(reason)
        self.last_sound_step = last_sound_step


def check_update(step: int, loss: float, norm: float, rate: float) -> None:
    """Raises UnsoundError where the loss of an update or the norm of its gradient is no number."""
    if not math.isfinite(loss) or not math.isfinite(norm):
        reason = f"step {step}: loss {loss}, gradient norm {norm}: {LOWER} than {rate:.2g}"
        raise UnsoundError(reason, step - 1)


def check_metric(step: int, name: str, value: float) -> None:
    """Raises UnsoundError where a metric of an evaluation is no number."""
    if not math.isfinite(value):
        raise UnsoundError(f"step {step}: {name} {value}: {LOWER}", step - 1)


class ExplosionCheck:
    """Compares the mean loss of each WINDOW steps with the first such mean and the lowest."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.lowest = math.inf
        self.losses: list[float] = []

    def add(self, row: Row) -> None:
        """Take in the next row.

        Raises UnsoundError, every WINDOW steps, where the loss lost all that it had learned, and that was much.
        """
        step = row["step"]
        if step == 0:  # before the first update
            return
        self.losses.append(row["train_loss"])
        if step % WINDOW:
            return
        mean = fmean(self.losses)
        self.losses.clear()
        if self.first is None:
            self.first = mean
        self.lowest = min(self.lowest, mean)
        if mean > max(self.first, EXPLODED * self.lowest):
            growth = f"the loss has grown from {self.lowest:.3g} to {mean:.3g}"
            raise UnsoundError(f"step {step}: {growth}: {LOWER}", step - WINDOW)
