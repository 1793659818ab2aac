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


def test_lock_names_its_holder_after_a_timeout_and_is_free_when_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"env": os.environ | {"PYTHONPATH": str(ROOT)}, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER], **options) as holder:
        assert holder.stdout.readline() == "held\n"
        started = time.monotonic()
        with (
            pytest.raises(UserError, match=f"stages/train/lock is held by process {holder.pid}, which still runs$"),
            exclusive("stages/train", 0.5),
        ):
            pass
        assert time.monotonic() - started >= 0.5
        with exclusive("stages/evaluate@classifier"):  # another stage's lock is another
            pass
        holder.send_signal(signal.SIGKILL)
        with exclusive("stages/train"):  # it waits for the end
            assert Path(".threestage/stages/train/lock").read_text() == str(os.getpid())
