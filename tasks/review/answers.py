"""What a registered version answers to rows, by the code that it ships, and how long it takes."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from llm.errors import UserError
from tasks.registry.server import without_secret
from tasks.review import Sample
from tasks.review.ask import AWAY
from tasks.stages import lifeline

ASK = Path(__file__).with_name("ask.py")
WITHIN = 3600.0  # seconds that a version has for all rows
SAID = 300  # characters of what a version that failed said last
OURS = ("PYTHONPATH", "DVC_STAGE")  # variables by which a process would find this project


class NoAnswerError(UserError):
    """A version that can't be loaded, fails, or takes too long."""


def _seconds_a_row(seconds: np.ndarray, sizes: np.ndarray, axis: int) -> np.ndarray:
    return seconds.sum(axis) / sizes.sum(axis)


@dataclass(frozen=True)
class Answers:
    """What a version answers, a row each and in their order."""

    table: pd.DataFrame
    """The served columns; `error` says why a row has no answer."""
    seconds: np.ndarray
    """Of each chunk of rows, after the version was loaded."""
    sizes: np.ndarray
    """The rows of each chunk."""

    @property
    def speed(self) -> Sample:
        """Seconds a row."""
        return Sample(_seconds_a_row, (self.seconds, self.sizes))


def answers(
    name: str,
    version: str,
    rows: pd.DataFrame,
    *,
    ask: str = "predict",
    options: Mapping[str, Any] | None = None,
    within: float = WITHIN,
) -> Answers:
    """The answers of a registered version to rows, in a process of its own that knows nothing of this project.

    Raises NoAnswerError where it can't be loaded, fails, needs code that it does not ship, or takes more than `within`
    seconds, and another UserError where that says nothing about the version: its store does not give it, or something
    outside ended its process, as for want of memory.
    """
    uri = f"models:/{name}/{version}"
    kept = {key: value for key, value in os.environ.items() if key not in OURS}
    places = {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(), "MLFLOW_REGISTRY_URI": mlflow.get_registry_uri()}
    listed = rows.astype(object).where(rows.notna(), None).to_dict("records")
    with tempfile.TemporaryDirectory(prefix="threestage-review-") as folder:
        request, answered = Path(folder, "request.json"), Path(folder, "answers.json")
        request.write_text(json.dumps({"rows": listed, "ask": ask, "options": dict(options or {})}))
        command = [sys.executable, "-P", lifeline.__file__, sys.executable, "-P", str(ASK), uri]
        try:
            done = subprocess.run(
                [*command, str(request), str(answered)],
                cwd=folder,
                env=kept | places | {"TMPDIR": folder, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=within,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NoAnswerError(f"{uri} did not answer {len(rows)} rows within {within:g} seconds") from None
        if done.returncode < 0:
            outside = -done.returncode in (signal.SIGKILL, signal.SIGTERM)
            failure = UserError if outside else NoAnswerError
            raise failure(f"{uri} gives no answers: signal {-done.returncode} ended its process")
        if done.returncode:
            *_, last = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
            failure = UserError if done.returncode == AWAY else NoAnswerError
            last = without_secret(last, places["MLFLOW_TRACKING_URI"])
            raise failure(f"{uri} gives no answers: {last.strip()[:SAID]}")
        found = json.loads(answered.read_text())
    table = pd.DataFrame(found["rows"], index=rows.index)
    if len(table) != len(rows):
        raise NoAnswerError(f"{uri} gave {len(table)} answers to {len(rows)} rows")
    seconds = np.array(found["seconds"])
    starts = np.arange(len(seconds)) * found["chunk"]
    return Answers(table, seconds, np.minimum(found["chunk"], len(rows) - starts).astype(float))
