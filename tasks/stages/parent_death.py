"""A process that ends with its parent: `python -m tasks.stages.parent_death COMMAND …` runs COMMAND that way.

When dvc is killed, the stage that it started would go on, and the next `dvc repro` would start a second one beside it.
On Linux the kernel sends the signal, and COMMAND takes this process's place. On other systems a thread looks who the
parent is, and COMMAND is a child of this process.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
TIED = "THREESTAGE_TIED_TO"  # the process that COMMAND is, which tells a stage whether its dvc still runs
EVERY = 1.0  # seconds between two looks
INIT = 1  # the parent of processes whose own has ended


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Have this process get a signal when its parent ends.

    On Linux one comes for each thread of a parent that is killed. The wish survives exec, so it also holds for a
    command that takes this process's place. It comes too late where the parent was killed before, while this process
    still imported what it needs: then the signal comes at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
        if (tied := os.environ.get(TIED)) and not Path("/proc", tied).exists():
            signal.raise_signal(number)
    else:
        threading.Thread(target=_signal_without, args=(os.getppid(), number), daemon=True).start()


def _signal_without(parent: int, number: int) -> None:
    while os.getppid() == parent != INIT:
        time.sleep(EVERY)
    os.kill(os.getpid(), number)


def _run_as_child(command: list[str]) -> int:
    """Run a command for as long as the parent lives, and hand SIGTERM on to it; its exit code."""
    child = subprocess.Popen(command)
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the child by itself
    signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
    die_with_parent()
    return child.wait()


if __name__ == "__main__":
    if sys.platform == "linux":
        die_with_parent()
        os.environ[TIED] = str(os.getpid())
        os.execvp(sys.argv[1], sys.argv[1:])
    sys.exit(_run_as_child(sys.argv[1:]))
