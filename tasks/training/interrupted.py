"""Checkpoints of interrupted trainings: they outlive changes of code or parameters, for a month.

To continue a training, restore its parameters and code, and run the stage again.
"""

import json
import logging
import shutil
import time
from pathlib import Path

from llm.training.checkpoint import Checkpoints
from tasks.stages.hashes import Hashes

INPUTS = "inputs.json"  # next to the checkpoints: their params and hashes
MONTH = 30 * 86_400  # seconds

logger = logging.getLogger(__name__)


def say_what_is_kept(own: Path, now: Hashes) -> None:
    """Before a training: remove the other checkpoints of its stage that are older than a month, and, if it starts from
    step 0, log the newer ones and what has changed since."""
    starts_afresh = Checkpoints(own).newest() is None
    for folder in own.parent.glob("*/"):
        if folder == own:
            continue
        if time.time() - folder.stat().st_mtime > MONTH:
            shutil.rmtree(folder)
            continue
        step, inputs = Checkpoints(folder).newest(), folder / INPUTS
        if starts_afresh and step is not None and inputs.exists():
            changed = ", ".join(now.differences(Hashes(**json.loads(inputs.read_text()))))
            logger.info(f"starting afresh, as {changed} changed; {folder} at step {step} stays")
