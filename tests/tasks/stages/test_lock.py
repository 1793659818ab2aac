import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm.errors import UserError
from tasks.stages.lock import exclusive

ROOT = Path(__file__).parents[3]


@contextlib.contextmanager
def holder(project: Path, seconds: float) -> Iterator[subprocess.Popen]:
    """Another process that holds the lock of the stage `train`."""
    code = "import time\nfrom tasks.stages.lock import exclusive\nwith exclusive('stages/train'):\n"
    code += f"  print('held', flush=True)\n  time.sleep({seconds})"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_waits_then_says_who_holds_the_lock_until_that_one_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with holder(tmp_path, seconds=60) as other:
        started = time.monotonic()
        with (
            pytest.raises(UserError, match=f"stages/train/lock is held by process {other.pid}, which still runs$"),
            exclusive("stages/train", 0.5),
        ):
            pass
        assert time.monotonic() - started >= 0.5
        with exclusive("stages/evaluate@classifier"):  # another stage's lock is another
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        with exclusive("stages/train"):
            assert Path(".threestage/stages/train/lock").read_text() == str(os.getpid())


def test_a_second_writer_goes_on_when_the_first_ends_in_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with holder(tmp_path, seconds=0.5), exclusive("stages/train"):
        pass
