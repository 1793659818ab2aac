"""A pool of processes for a stage: each, `python -m tasks.stages.process_pool`, answers one call at a time.

With multiprocessing each would import the stage's own program, with Prefect, MLflow and DVC: 300 MB and some seconds.
These import only what a call needs, and end with the pipe that brings the calls.
"""

import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from tasks.stages.parent_death import die_with_parent

Submit = Callable[[Callable[[Any], Any], Any], Future[Any]]


@contextmanager
def pool(processes: int) -> Generator[Submit]:
    """Yield a function that submits `function(argument)`, both picklable, and returns a future.

    The future raises what the call raises, or ChildProcessError if its process dies.
    """
    of_thread = threading.local()
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        command = [sys.executable, "-m", __name__]
        of_thread.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(of_thread.process)

    def call(function: Callable[[Any], Any], argument: Any) -> Any:
        process = of_thread.process
        try:
            pickle.dump((function, argument), process.stdin)
            process.stdin.flush()
            succeeded, answer = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError):
            raise ChildProcessError(f"a process of the pool ended with exit code {process.wait()}") from None
        if not succeeded:
            raise answer
        return answer

    with ThreadPoolExecutor(processes, initializer=start) as threads:
        try:
            yield lambda function, argument: threads.submit(call, function, argument)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in started:
                process.kill()
                process.wait()
                with suppress(BrokenPipeError):
                    if process.stdin:
                        process.stdin.close()


def serve() -> None:
    """Answer calls until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the stage ends its processes itself
    calls = sys.stdin.buffer
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr
    while True:
        try:
            function, argument = pickle.load(calls)
        except EOFError:
            return
        try:
            answer = (True, function(argument))
        except Exception as error:
            answer = (False, error)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    serve()
