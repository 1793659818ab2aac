"""A process that ends with its parent: `python -m tasks.stages.parent_death COMMAND …` runs COMMAND that way.

Without it, a stage would survive its killed dvc, and the next `dvc repro` would start a second one beside it. The
kernel sends the signal, on Linux alone, and COMMAND replaces this process.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
TIED = "THREESTAGE_TIED_TO"  # the process that was tied to its parent, by which a stage checks that its dvc still runs


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Have this process receive a signal when its parent ends.

    It gets one for each thread of a killed parent. The setting survives exec, so it also holds for a command that
    replaces this process. If the parent was killed before this call, the signal comes at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
        if (tied := os.environ.get(TIED)) and not Path("/proc", tied).exists():
            signal.raise_signal(number)


def tie_to_parent() -> None:
    """Have this process, or the command that replaces it, end with its parent, and its stages with it."""
    die_with_parent()
    os.environ[TIED] = str(os.getpid())


if __name__ == "__main__":
    tie_to_parent()
    os.execvp(sys.argv[1], sys.argv[1:])
