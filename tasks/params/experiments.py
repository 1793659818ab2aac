"""Queue an experiment for each combination of values, in DVC's queue: `threestage sweep`.

DVC queues the content of the workspace. Its own option `-S` would rewrite all of params.yaml, without its comments.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from llm.errors import UserError
from llm.files import write_atomic
from tasks.params.set_params import changed_text, parse_settings
from tasks.stages.names import PARAMS_FILE


def queue_experiments(stages: Sequence[str], settings: Sequence[str], path: Path = PARAMS_FILE) -> int:
    """Queue the experiments and return their number; params.yaml is afterwards as before.

    All values are checked before the first experiment is queued. Raises UserError for a wrong one, and if DVC refuses.
    """
    before = path.read_bytes()
    texts = [changed_text(changes, path) for changes in parse_settings(settings)]
    command = [sys.executable, "-m", "dvc", "exp", "run", "--queue", *stages]
    try:
        for text in texts:
            write_atomic(path, text)
            dvc = subprocess.run(command, stderr=subprocess.PIPE, text=True)  # it prints the name of the experiment
            if dvc.returncode:
                reason = dvc.stderr.strip().rpartition("\n")[2]
                raise UserError(f"dvc exp run --queue: {reason.removeprefix('ERROR: ')}")
    finally:
        write_atomic(path, before)
    return len(texts)
