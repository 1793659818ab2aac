import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from real_servers import wait_for

ROOT = Path(__file__).parents[3]
PARENT = """
import subprocess, sys, time
sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
child = subprocess.Popen([sys.executable, "-m", "tasks.stages.lifeline", *sleeping])
print(child.pid, flush=True)
time.sleep(60)
"""


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended; init may bury it at any moment."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_command_on_the_lifeline_dies_when_its_parent_is_killed():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        wait_for(lambda: (line := child.cmdline()) and "tasks.stages.lifeline" not in line)  # it is the command now
        assert child.status() != psutil.STATUS_ZOMBIE
        parent.send_signal(signal.SIGKILL)
        wait_for(lambda: not runs(child), every=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_stage_whose_dvc_was_killed_while_it_still_imported_ends_too():
    slow = (
        "import sys; sys.stdin.read(); from tasks.stages.lifeline import die_with_parent; die_with_parent(); print(1)"
    )
    dvc = f"""
import subprocess, sys
stage = subprocess.Popen([sys.executable, "-c", {slow!r}])
print(stage.pid, flush=True)
stage.wait()
"""
    command = [sys.executable, "-m", "tasks.stages.lifeline", sys.executable, "-c", dvc]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes) as parent:
        stage = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        assert stage.is_running()
        parent.stdin.close()  # its imports are done
        assert parent.stdout.read() == ""  # and it has ended without a word


def test_the_command_takes_the_place_of_the_lifeline_with_arguments_and_exit_code():
    code = "import os, sys; print(os.getpid(), sys.argv[1:]); sys.exit(7)"
    command = [sys.executable, "-m", "tasks.stages.lifeline", sys.executable, "-c", code, "-a", "b c"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.read().strip() == f"{process.pid} ['-a', 'b c']"
    assert process.returncode == 7
