import math
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest
from real_servers import wait_for

from llm.errors import UserError
from tasks.data.files import raw_files
from tasks.data.splits import Gates
from tasks.stages.process_pool import map_in_order, pool

KILLED = """
import os, signal
from tasks.stages.process_pool import pool
with pool() as processes:
    calls = [processes.submit(eval, "__import__('os').getpid()") for _ in range(8)]
    print(*{call.result() for call in calls}, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_map_in_order_keeps_the_order_and_begins_few_items_ahead():
    begun = []

    def numbers() -> Iterator[int]:
        for number in range(40):
            begun.append(number)
            yield number

    results = map_in_order(math.sqrt, numbers())
    assert next(results) == 0.0
    assert len(begun) <= 2 * (os.cpu_count() or 1) + 1
    assert list(results) == [math.sqrt(number) for number in range(1, 40)]


@pytest.fixture
def two_cores():
    """This process may use two cores at most."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:2])
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.skipif(sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="it takes two cores of Linux")
def test_pool_of_an_enclosing_block_answers_all_calls_and_ends_with_it(two_cores):
    numbers = ["__import__('os').getpid()"] * 8
    with pool():
        kept = {number for _ in range(3) for number in map_in_order(eval, numbers)}
    assert len(kept) <= 2  # new ones each time would be three at least; one alone may do the work of both
    assert not kept & {*map_in_order(eval, numbers)}
    assert not any(map(psutil.pid_exists, kept))


def test_pool_passes_on_errors_of_a_call_and_raises_for_a_killed_process():
    with pool() as processes:
        assert isinstance(processes.submit(Gates.model_validate, {"rows": 1}).exception(), ValueError)
        assert processes.submit(len, "four").result() == 4
        with pytest.raises(BrokenProcessPool, match="terminated abruptly"):
            processes.submit(os._exit, 3).result()
    with pytest.raises(UserError, match=r"^nowhere: holds no files"):
        list(map_in_order(raw_files, [Path("nowhere"), Path("neither")]))


def runs(number: int) -> bool:
    """Whether a process is there and has not ended; init may bury it at any moment."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_pool_of_a_killed_process_ends_with_it():
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True)
    processes = [int(number) for number in done.stdout.split()]
    assert processes

    def have_ended() -> bool:
        return not any(map(runs, processes))

    wait_for(have_ended, every=0.05)
