import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from unittest.mock import ANY

import psutil
import pytest
from prefect.exceptions import TerminationSignal
from projects import change_params

from llm.errors import UserError
from tasks.stages.libraries import installed, write_libraries
from tasks.stages.process import END, on_interrupt, run_command

ROOT = Path(__file__).parents[3]
BROKEN = """
from prefect import flow
from llm.config import Config
from flows.command import run_stage
from tasks.params import load_training

@flow
def pretrain(params: Config) -> None:
    "Break."
    None.missing

if __name__ == "__main__":
    run_stage(pretrain, "pretrain".format, lambda: {"params": load_training("foundation")})
"""


def edit_params(project, **changes):
    change_params(project, {"foundation": {"train": changes}})


def test_wrong_parameter_is_named_before_anything_starts(project_copy, command_line):
    edit_params(project_copy, learning_rate="fast")
    before = {path.name for path in project_copy.iterdir()}
    processes = psutil.Process().children(recursive=True)
    code, _, error = command_line(project_copy, "flows.pretrain")
    assert code == 1
    (line,) = error.splitlines()
    assert line.startswith("error: params.yaml: foundation.train.learning_rate: ")
    assert {path.name for path in project_copy.iterdir()} - {".threestage"} == before
    assert psutil.Process().children(recursive=True) == processes  # no server was started


@pytest.mark.parametrize(
    ("flow", "name", "names"),
    [("fetch", "corpsu", ["corpus", "emails"]), ("finetune", "foundation", ["classifier", "assistant", "guard"])],
)
def test_unknown_name_is_refused_with_the_names(command_line, flow, name, names):
    code, _, error = command_line(ROOT, f"flows.{flow}", name)
    assert code == 2
    assert all(word in error for word in [name, *names])


def test_bug_keeps_its_traceback_and_prefects_own_report_stays_off_the_console(project_copy, prefect_server_for_tests):
    (project_copy / "broken.py").write_text(BROKEN)
    variables = os.environ | {"PREFECT_API_URL": prefect_server_for_tests, "PYTHONPATH": "."}
    line = [sys.executable, "broken.py"]
    done = subprocess.run(line, cwd=project_copy, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    error = "AttributeError: 'NoneType' object has no attribute 'missing'"
    assert done.stderr.splitlines()[-2:] == [error, "this is a bug; .threestage/stages/pretrain/log holds its log"]
    assert done.stderr.count("Traceback") == 1
    assert "View at http" not in done.stderr
    assert error in (project_copy / ".threestage/stages/pretrain/log").read_text()


def test_changed_library_is_named_before_anything_runs(project_copy, command_line, monkeypatch):
    versions = json.loads((project_copy / "libraries.json").read_text()) | {"torch": "1.0"}
    (project_copy / "libraries.json").write_text(json.dumps(versions))
    code, _, error = command_line(project_copy, "flows.pretrain")
    assert code == 1
    assert error.startswith("error: libraries.json: torch is 1.0, installed is ")
    assert error.endswith("run `python -m tasks.stages.libraries`, then the same command\n")
    write_libraries()
    assert json.loads((project_copy / "libraries.json").read_text()) == installed()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (UserError("a.csv, row 2"), 1, "error: a.csv, row 2\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a", None, "c.db"),
            1,
            "error: c.db: No space left on device\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            InterruptedError("stopped after step 3 of 9"),
            75,
            "stopped after step 3 of 9; the same command goes on from there\n",
        ),
        (TerminationSignal(signal.SIGTERM), 143, "terminated\n"),
    ],
)
def test_command_line_says_its_error_once_and_gives_its_exit_code(capsys, tmp_path, error, code, line):
    def work():
        if error is not None:
            raise error
        return "a version waits"

    log = tmp_path / "log"
    assert run_command(work, log) == code
    assert capsys.readouterr().err == line
    reason = line.strip().removeprefix("error: ")
    assert json.loads((tmp_path / END).read_text()) == {"code": code, "seconds": ANY, "reason": reason}
    last = log.read_text().splitlines()[-1]
    further = "; the same command goes on from there" if code in (130, 143) else ""
    assert last == (f"{line.strip()}; ended after 0 s{further}" if code else "finished in 0 s; a version waits")


def test_ctrl_c_inside_the_import_system_waits_until_it_has_given_its_lock_back():
    frames = []
    sys.setprofile(lambda frame, *_: frames.append(frame))
    importlib.reload(textwrap)
    sys.setprofile(None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        inside = next(frame for frame in frames if frame.f_code.co_name == "_get_module_lock")
        on_interrupt(signal.SIGINT, inside)  # does not raise
        with pytest.raises(KeyboardInterrupt):
            time.sleep(60)
        with pytest.raises(KeyboardInterrupt):
            on_interrupt(signal.SIGINT, sys._getframe())
    finally:
        signal.signal(signal.SIGINT, before)
