"""Signs that a training has diverged: a loss that is no number, or that explodes."""

import math
from statistics import fmean

from llm.errors import UserError
from llm.training.checkpoint import Checkpoints
from llm.training.objective import Row

WINDOW, EXPLODED = 10, 3.0  # steps whose mean loss may not be above the first ones' and so many times the lowest


class DivergedError(UserError):
    """The loss is no number, or explodes."""


class DivergenceCheck:
    """Raises DivergedError, naming the newest of `checkpoints` from before."""

    def __init__(self, checkpoints: Checkpoints | None) -> None:
        self.checkpoints = checkpoints
        self.losses: list[float] = []  # since the last whole window
        self.first = math.inf
        self.lowest = math.inf

    def finite(self, step: int, **values: float) -> None:
        """Check that these values of a step are finite."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise self._error(step, f"{name} {value}", last_sound_step=step - 1)

    def growth(self, row: Row) -> None:
        """Take in the next row. Every WINDOW steps, check that the loss did not lose all that it had learned."""
        step = row["step"]
        if step == 0:  # before the first update
            return
        self.losses.append(row["train_loss"])
        if step % WINDOW:
            return
        mean = fmean(self.losses)
        self.losses.clear()
        if step == WINDOW:
            self.first = mean
        self.lowest = min(self.lowest, mean)
        if mean > max(self.first, EXPLODED * self.lowest):
            growth = f"the loss has grown from {self.lowest:.3g} to {mean:.3g}"
            raise self._error(step, growth, last_sound_step=step - WINDOW)

    def _error(self, step: int, reason: str, last_sound_step: int) -> DivergedError:
        newest = self.checkpoints.newest(last_sound_step) if self.checkpoints else None
        before = "" if newest is None else f"; the last checkpoint before that is of step {newest}"
        return DivergedError(f"step {step}: {reason}: try a lower learning_rate{before}")
