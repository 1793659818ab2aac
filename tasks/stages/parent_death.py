"""A process that ends with its parent: `python -m tasks.stages.parent_death COMMAND …` runs COMMAND that way.

Without it, a stage would survive its killed dvc, and the next `dvc repro` would start a second one beside it. On Linux
the kernel sends the signal, and COMMAND replaces this process. On other systems a thread checks the parent, and COMMAND
is a child of this process.
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
TIED = "THREESTAGE_TIED_TO"  # the process of COMMAND, by which a stage checks that its dvc still runs
EVERY = 1.0  # seconds between two checks
INIT = 1  # the parent of orphans


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Have this process receive a signal when its parent ends.

    On Linux it gets one for each thread of a killed parent. The setting survives exec, so it also holds for a command
    that replaces this process. If the parent was killed before this call, the signal comes at once.
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
    """Run a command for as long as the parent lives, and forward SIGTERM to it. Returns its exit code."""
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
