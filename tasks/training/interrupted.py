"""Checkpoints of interrupted trainings: they outlive changes of code or parameters; `make tidy YES=1` removes them.

To continue a training, restore its parameters and code, and run the stage again.
"""

import json
import logging
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llm.errors import UserError
from llm.training.checkpoint import Checkpoints
from tasks.stages.hashes import Hashes
from tasks.stages.lock import FINISHED, STATE, exclusive

INPUTS = "inputs.json"  # next to the checkpoints: their params and hashes
DAY = 86_400
KEPT = 3  # trainings that stay, however old they are

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Interrupted:
    """A training that did not finish, or whose outs dvc did not store."""

    folder: Path
    stage: str
    step: int
    """The step of its newest checkpoint."""
    age: float
    """Seconds since its newest checkpoint was written."""
    bytes: int
    made_from: Hashes | None
    """None if it is not known."""

    def __str__(self) -> str:
        how = ", finished, but dvc has not kept it" if (self.folder / FINISHED).exists() else ""
        size = f"{self.bytes / 1e6:.1f} MB"
        return f"{self.stage} at step {self.step}{how}, {self.age / DAY:.1f} days old, {size}, {self.folder}"

    def remove(self) -> None:
        """Remove its checkpoints, unless its stage runs."""
        with suppress(UserError), exclusive(f"stages/{self.stage}", patience=0):
            shutil.rmtree(self.folder)


def interrupted(stage: str = "*") -> list[Interrupted]:
    """Every unfinished training, or those of one stage, newest first."""
    trainings = []
    for folder in sorted((STATE / "stages").glob(f"{stage}/*/")):
        with suppress(FileNotFoundError):  # a training that runs drops its oldest
            step = Checkpoints(folder).newest()
            if step is None:
                continue
            stats = [file.stat() for file in folder.glob("step-*")]
            inputs = folder / INPUTS
            training = Interrupted(
                folder=folder,
                stage=folder.parent.name,
                step=step,
                age=time.time() - max(stat.st_mtime for stat in stats),
                bytes=sum(stat.st_size for stat in stats),
                made_from=Hashes(**json.loads(inputs.read_text())) if inputs.exists() else None,
            )
            trainings.append(training)
    return sorted(trainings, key=lambda training: training.age)


def old_trainings(days: float) -> list[Interrupted]:
    """The unfinished trainings that are older than `days` days, without the newest KEPT."""
    return [training for training in interrupted()[KEPT:] if training.age > days * DAY]


def say_what_is_kept(own: Path, now: Hashes) -> None:
    """If a training starts from step 0, log its stage's interrupted ones and what has changed since."""
    if Checkpoints(own).newest() is not None:
        return
    for training in interrupted(own.parent.name):
        changed = ", ".join(now.differences(training.made_from)) if training.made_from else ""
        reason = changed or "its inputs"
        logger.info("starting afresh, as %s changed; an interrupted training is kept: %s", reason, training)
