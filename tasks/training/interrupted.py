"""Interrupted trainings: their checkpoints outlive a change of code or parameters, until somebody removes them.

    python -m tasks.training.interrupted                                   lists them
    python -m tasks.training.interrupted --remove --older-than 7 --keep 3  removes those older than a week, but not the
                                                                           3 newest of all

To continue a training, restore its parameters and code, and run the stage again.
"""

import argparse
import json
import logging
import shutil
import sys
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


def remove(found: list[Interrupted], older_than: float, keep: int) -> list[Interrupted]:
    """Remove those older than `days` days, except the `keep` newest of all and those of running stages.

    Returns the removed ones.
    """
    gone = []
    for each in found[keep:]:
        if each.age > older_than * DAY:
            with suppress(UserError), exclusive(f"stages/{each.stage}", patience=0):
                shutil.rmtree(each.folder)
                gone.append(each)
    return gone


def main() -> int:
    """List or remove the checkpoints of interrupted trainings."""
    parser = argparse.ArgumentParser(prog="python -m tasks.training.interrupted", description=main.__doc__)
    parser.add_argument("--remove", action="store_true", help="remove those that --older-than and --keep do not spare")
    parser.add_argument("--older-than", type=float, default=0, metavar="DAYS", help="spare younger ones (default 0)")
    parser.add_argument("--keep", type=int, default=0, metavar="N", help="spare the N newest (default 0)")
    options = parser.parse_args()
    found = interrupted()
    gone = remove(found, options.older_than, max(0, options.keep)) if options.remove else []
    for each in found:
        sys.stdout.write(f"{'removed: ' if each in gone else ''}{each}\n")
    if not found:
        sys.stdout.write("no training is interrupted\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
