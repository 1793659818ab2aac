import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm.errors import UserError
from tasks.stages.lock import exclusive

ROOT = Path(__file__).parents[3]
HOLDER = """
import time
from tasks.stages.lock import exclusive
with exclusive("stages/train"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_writer_waits_then_says_who_holds_the_lock_until_that_one_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"env": os.environ | {"PYTHONPATH": str(ROOT)}, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER], **options) as other:
        assert other.stdout.readline() == "held\n"
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
        with exclusive("stages/train"):  # it waits for the end
            assert Path(".threestage/stages/train/lock").read_text() == str(os.getpid())
