"""A process that ends with its parent: `python -m tasks.stages.lifeline COMMAND …` becomes COMMAND, so tied.

When dvc is killed, the stage that it started would go on, and the next `dvc repro` would start a second one beside it.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
TIED = "THREESTAGE_LIFELINE"  # the process that a lifeline became: dvc, to its stage


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the parent ends. Linux only; elsewhere nothing happens.

    One comes for each thread of a parent that is killed. The wish survives exec, so it also holds for a command that
    takes this process's place. It comes too late where the parent was killed before, while this process still imported
    what it needs: then the signal comes at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
        if (tied := os.environ.get(TIED)) and not Path("/proc", tied).exists():
            signal.raise_signal(number)


if __name__ == "__main__":
    die_with_parent()
    os.environ[TIED] = str(os.getpid())
    os.execvp(sys.argv[1], sys.argv[1:])
