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


def interrupted(stage: str = "*") -> list[Interrupted]:
    """Every unfinished training, or those of one stage, newest first."""
    found = []
    for folder in sorted((STATE / "stages").glob(f"{stage}/*/")):
        with suppress(FileNotFoundError):  # a training that runs drops its oldest
            if (step := Checkpoints(folder).newest()) is None:
                continue
            files = list(folder.glob("step-*"))
            inputs = folder / INPUTS
            found.append(
                Interrupted(
                    folder,
                    folder.parent.name,
                    step,
                    time.time() - max(file.stat().st_mtime for file in files),
                    sum(file.stat().st_size for file in files),
                    Hashes(**json.loads(inputs.read_text())) if inputs.exists() else None,
                )
            )
    return sorted(found, key=lambda each: each.age)


def say_what_is_kept(own: Path, now: Hashes) -> None:
    """If a training starts from step 0, log its stage's interrupted ones and what has changed since."""
    for each in interrupted(own.parent.name) if Checkpoints(own).newest() is None else []:
        changed = now.differences(each.made_from) if each.made_from else []
        logger.info(
            "starting afresh, as %s changed; an interrupted training is kept: %s",
            ", ".join(changed) or "its inputs",
            each,
        )


def remove(each: Interrupted) -> None:
    """Remove one, unless its stage runs."""
    with suppress(UserError), exclusive(f"stages/{each.stage}", patience=0):
        shutil.rmtree(each.folder)
