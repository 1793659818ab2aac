import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from real_servers import has_ended, wait_for

ROOT = Path(__file__).parents[3]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
GUARD = [sys.executable, "-m", "tasks.stages.parent_death"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")


def test_command_dies_when_the_parent_of_its_guard_is_killed():
    sleeping = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
    code = f"import subprocess; subprocess.Popen({[*GUARD, *sleeping]!r}).wait()"
    with subprocess.Popen([sys.executable, "-c", code], **PIPES) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        assert not has_ended(child)
        parent.kill()
        wait_for(lambda: has_ended(child), every=0.01)


def test_stage_ends_if_its_dvc_was_killed_during_imports():
    slow = (
        "import sys; sys.stdin.read(); "
        "from tasks.stages.parent_death import die_with_parent; die_with_parent(); print(1)"
    )
    dvc = f"""
import subprocess, sys
stage = subprocess.Popen([sys.executable, "-c", {slow!r}])
print(stage.pid, flush=True)
stage.wait()
"""
    command = [*GUARD, sys.executable, "-c", dvc]
    with subprocess.Popen(command, **PIPES) as parent:
        stage = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        assert stage.is_running()
        parent.stdin.close()  # its imports are done
        assert parent.stdout.read() == ""  # and it has ended without a word
