"""Queue an experiment for each combination of values, in DVC's queue.

python -m flows.sweep pretrain --set foundation.train.learning_rate=0.02,0.03

DVC queues what the workspace holds. Its own option `-S` would rewrite all of params.yaml, without its comments.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from llm.errors import UserError
from llm.files import write_atomic
from tasks.params.set_params import changed_text, parse_settings
from tasks.stages.names import PARAMS_FILE


def queue(stages: Sequence[str], settings: Sequence[str], path: Path = PARAMS_FILE) -> int:
    """Queue the experiments and return their number; params.yaml is afterwards as before.

    All values are checked before the first experiment is queued. Raises UserError for a wrong one, and if DVC refuses.
    """
    before = path.read_bytes()
    texts = [changed_text(changes, path) for changes in parse_settings(settings)]
    try:
        for text in texts:
            write_atomic(path, text)
            command = [sys.executable, "-m", "dvc", "exp", "run", "--queue", *stages]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                *_, reason = ["", *done.stderr.strip().splitlines()]
                raise UserError(f"dvc exp run --queue: {reason.removeprefix('ERROR: ')}")
            sys.stdout.write(done.stdout)
    finally:
        write_atomic(path, before)
    return len(texts)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description="Queue a grid of experiments.")
    parser.add_argument("stages", nargs="+", metavar="STAGE", help="such as pretrain or finetune@assistant")
    parser.add_argument(
        "--set",
        action="append",
        required=True,
        metavar="KEY=VALUE,…",
        help="values of a key of params.yaml; repeat it for a grid",
    )
    options = parser.parse_args()
    try:
        number = queue(options.stages, options.set)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"queued experiments: {number}; `dvc queue start` runs them\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
