"""A registered version answers rows with the code that it ships, and its time is measured.

The version runs in a process of its own without the environment of this one: it sees no credentials. It runs as the
same user and may read files.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from llm.errors import UserError
from llm.kernels.c_library import cache_folder
from tasks.registry.server import is_missing, server_errors
from tasks.stages import parent_death

ASK = Path(__file__).with_name("ask.py")
WITHIN = 3600.0  # seconds for all rows
REASON = 300  # characters of a failed version's last message
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CC", "CUDA_VISIBLE_DEVICES")
THREADS = ("OMP_", "MKL_")  # prefixes of their names


class NoAnswerError(UserError):
    """A version that can't be loaded, fails, or takes too long."""


def environment(folder: Path) -> dict[str, str]:
    """The variables that a version's process sees: an allow-list. `folder` is its home and its temporary folder."""
    kept = {name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith(THREADS)}
    own = dict.fromkeys(("HOME", "TMPDIR"), str(folder)) | {"XDG_CACHE_HOME": str(cache_folder().parent)}
    return kept | own | {"MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(), "MLFLOW_DISABLE_TELEMETRY": "true"}


def _downloaded(uri: str, folder: Path) -> str:
    with server_errors():
        try:
            return mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))
        except (MlflowException, FileNotFoundError) as error:
            if isinstance(error, MlflowException) and not is_missing(error):
                raise
            raise NoAnswerError(f"{uri} gives no answers: {' '.join(str(error).split())[:REASON]}") from None


def answers(
    name: str,
    version: str,
    rows: pd.DataFrame,
    *,
    ask: str = "predict",
    options: Mapping[str, Any] | None = None,
    within: float = WITHIN,
) -> tuple[pd.DataFrame, float]:
    """The answers of a registered version to rows, in their order, and the seconds for each, without loading.

    A row without an answer has the reason in `error`. This process downloads the version with its own credentials;
    another runs it. Raises NoAnswerError if the version can't be loaded, fails, needs code that it does not ship, or
    takes more than `within` seconds. Raises another UserError for other failures: the store is away, or the process was
    killed from outside.
    """
    uri = f"models:/{name}/{version}"
    objects = rows.astype(object)
    listed = objects.where(rows.notna(), None).to_dict("records")  # pyrefly: ignore[bad-argument-type] - stubs lack None
    with tempfile.TemporaryDirectory(prefix="threestage-review-") as temporary:
        folder = Path(temporary)
        model = _downloaded(uri, folder / "model")
        request, reply = folder / "request.json", folder / "reply.json"
        request.write_text(json.dumps({"rows": listed, "ask": ask, "options": dict(options or {})}))
        _run([str(ASK), model, str(request), str(reply)], uri, folder=folder, within=within)
        answered = json.loads(reply.read_text())
    table = pd.DataFrame(answered["rows"])
    if len(table) != len(rows):
        raise NoAnswerError(f"{uri} gave {len(table)} answers to {len(rows)} rows")
    return table.set_index(rows.index), answered["seconds"] / len(rows)


def _run(program: list[str], uri: str, *, folder: Path, within: float) -> None:
    """Run `ask.py` in an environment of its own; it ends with this process."""
    python = [sys.executable, "-P"]
    try:
        done = subprocess.run(
            [*python, parent_death.__file__, *python, *program],
            cwd=folder,
            env=environment(folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=within,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoAnswerError(f"{uri} did not answer within {within:g} seconds") from None
    if done.returncode < 0:
        from_outside = -done.returncode in (signal.SIGKILL, signal.SIGTERM)
        failure = UserError if from_outside else NoAnswerError
        raise failure(f"{uri} gives no answers: signal {-done.returncode} ended its process")
    if done.returncode:
        *_, last = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise NoAnswerError(f"{uri} gives no answers: {last.strip()[:REASON]}")
