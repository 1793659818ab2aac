"""Processes that work for a stage, one call at a time each: `python -m tasks.stages.process_pool` is one of them.

multiprocessing would have each of them import the program that began it, a stage with Prefect, MLflow and DVC: 300 MB
and some seconds. These import what a call needs, and end with the pipe that the calls come through.
"""

import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from tasks.stages.parent_death import die_with_parent

Submit = Callable[[Callable[[Any], Any], Any], Future]


@contextmanager
def pool(processes: int) -> Iterator[Submit]:
    """Yield what begins `function(argument)` in one of the processes, both picklable.

    The future raises what the call raises, and ChildProcessError where its process dies.
    """
    here, started = threading.local(), []

    def start() -> None:
        here.process = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(here.process)

    def call(function: Callable[[Any], Any], argument: Any) -> Any:
        process = here.process
        try:
            pickle.dump((function, argument), process.stdin)
            process.stdin.flush()
            good, found = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError):
            raise ChildProcessError(f"a process of the pool ended with exit code {process.wait()}") from None
        if not good:
            raise found
        return found

    with ThreadPoolExecutor(processes, initializer=start) as threads:
        try:
            yield lambda function, argument: threads.submit(call, function, argument)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in started:
                process.kill()
                process.wait()
                with suppress(BrokenPipeError):
                    process.stdin.close()


def serve() -> None:
    """Answer calls until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the stage ends its own
    calls, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    while True:
        try:
            function, argument = pickle.load(calls)
        except EOFError:
            return
        try:
            found = True, function(argument)
        except Exception as error:
            found = False, error
        pickle.dump(found, answers)
        answers.flush()


if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    serve()
