import math
import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import psutil
import pytest
from real_servers import has_ended, wait_for

from llm.errors import UserError
from tasks.data.files import raw_files
from tasks.data.splits import Gates
from tasks.stages.process_pool import map_in_order, pool

KILLED = """
import sys
from tasks.stages.process_pool import pool
with pool() as processes:
    calls = [processes.submit(eval, "__import__('os').getpid()") for _ in range(8)]
    print(*{call.result() for call in calls}, flush=True)
    sys.stdin.read()
"""


def test_map_in_order_keeps_the_order_and_begins_few_items_ahead():
    begun = []

    def numbers():
        for number in range(40):
            begun.append(number)
            yield number

    results = map_in_order(math.sqrt, numbers())
    assert next(results) == 0.0
    assert len(begun) <= 2 * (os.cpu_count() or 1) + 1
    assert list(results) == [math.sqrt(number) for number in range(1, 40)]


def test_pool_of_an_enclosing_block_answers_all_calls_and_ends_with_it():
    cores = os.cpu_count() or 1
    numbers = ["__import__('os').getpid()"] * 4 * cores
    with pool():
        kept = {number for _ in range(3) for number in map_in_order(eval, numbers)}
    assert len(kept) <= cores
    assert not kept & {*map_in_order(eval, numbers)}
    assert not any(map(psutil.pid_exists, kept))


def test_pool_passes_on_errors_of_a_call_and_raises_for_a_killed_process():
    with pool() as processes:
        assert isinstance(processes.submit(Gates.model_validate, {"rows": 1}).exception(), ValueError)
        with pytest.raises(UserError, match=r"^nowhere: holds no files"):
            processes.submit(raw_files, Path("nowhere")).result()
        with pytest.raises(BrokenProcessPool):
            processes.submit(os._exit, 3).result()


def test_pool_of_a_killed_process_ends_with_it():
    with subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        workers = [psutil.Process(int(number)) for number in process.stdout.readline().split()]
        process.kill()
    assert workers
    for worker in workers:
        wait_for(partial(has_ended, worker), every=0.05)
