import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from real_servers import wait_for

from tasks.stages.prefect_worker import OF_A_WORKER

ROOT = Path(__file__).parents[3]
RUN = """
import os, signal, time
from tasks.stages.prefect_worker import depend_on_worker
asked, worker = [], os.getppid()
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
depend_on_worker("run")
heard = signal.getsignal(signal.SIGUSR1)
for _ in range({before}):
    heard(signal.SIGUSR1, None)
print("ready", flush=True)
while os.getppid() == worker:
    time.sleep(0.001)
print("asked to stop:", len(asked), flush=True)
"""
WORKER = """
import subprocess, sys, threading, time
for _ in range(30):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("before", [0, 2])  # ends that are heard in one moment, one handler within the other
def test_run_gets_one_sigterm_when_its_worker_is_killed(tmp_path, before):
    log = tmp_path / ".threestage/run/log"
    variables = os.environ | {"PYTHONPATH": str(ROOT), OF_A_WORKER: "x"}

    def wait_for_words(words: str) -> None:
        def are_logged() -> bool:
            return log.exists() and words in log.read_text()

        wait_for(are_logged, every=0.01)

    command = [sys.executable, "-c", WORKER, RUN.format(before=before)]
    with subprocess.Popen(command, cwd=tmp_path, env=variables) as worker:
        wait_for_words("ready")
        worker.send_signal(signal.SIGKILL)
    wait_for_words("asked to stop: ")
    assert "asked to stop: 1\n" in log.read_text()
