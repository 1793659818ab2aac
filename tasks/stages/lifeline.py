"""A process that ends with its parent: `python -m tasks.stages.lifeline COMMAND …` becomes COMMAND, so tied.

When dvc is killed, the stage that it started would go on, and the next `dvc repro` would start a second one beside it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def die_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the parent ends. Linux only; elsewhere nothing happens.

    The wish survives exec, so it also holds for a command that takes this process's place.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    die_with_parent()
    os.execvp(sys.argv[1], sys.argv[1:])
