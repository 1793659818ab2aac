import contextlib
import errno
import importlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import pytest
import yaml
from prefect import flow, runtime, task
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.settings import PREFECT_API_URL, temporary_settings
from projects import NO_COMPILER, OPENS_STORE, change_params

from llm.errors import UserError, UserFileError
from llm.training.checkpoint import Checkpoints
from tasks.stages import command, server
from tasks.stages.libraries import installed, write_libraries
from tasks.training.progress import REPORT_EVERY

ROOT = Path(__file__).parents[3]
FLOWS = ("fetch", "preprocess", "pretrain", "load_published", "finetune", "evaluate")
HELP = """
import contextlib, io, json, runpy, sys
said = {}
for name in sys.argv[1:]:
    sys.argv, out = [name, "--help"], io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        said[name] = [end.code, out.getvalue()]
print(json.dumps(said))
"""
BROKEN = """
import os
import sys
from prefect import flow
from llm.config import Config
from llm.errors import UserError
from tasks.stages.command import stage_command
from tasks.stages.params import load_application

@flow
def pretrain(params: Config) -> None:
    "Break."
    if os.environ["BREAKS"] == "bug":
        None.missing
    raise UserError("emails.csv, row 17: no label")

if __name__ == "__main__":
    sys.exit(stage_command(pretrain, lambda: load_application("foundation")))
"""


def edit_params(project: Path, **changes: object) -> None:
    change_params(project, {"foundation": {"train": changes}})


def run(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    environment = os.environ | environment
    return subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True, timeout=300
    )


def test_a_wrong_parameter_is_one_line_before_anything_is_made_or_started(project_copy, stage_line):
    edit_params(project_copy, learning_rate="fast")
    before = {path.name for path in project_copy.iterdir()}
    processes = psutil.Process().children(recursive=True)
    code, said = stage_line(project_copy, "pretrain")
    assert code == 1
    (line,) = said.splitlines()
    assert line.startswith("error: params.yaml: foundation.train.learning_rate: input should be a valid number")
    assert {path.name for path in project_copy.iterdir()} - {".threestage"} == before
    assert psutil.Process().children(recursive=True) == processes  # no server was started


def test_what_the_user_can_mend_is_one_line_and_a_bug_keeps_its_traceback(project_copy, prefect_server_for_tests):
    (project_copy / "broken.py").write_text(BROKEN)
    log = project_copy / ".threestage/stages/pretrain/log"
    lines, logs = {}, {}
    for breaks, options in {"mistake": [], "mistake ": ["--verbose"], "bug": []}.items():
        log.unlink(missing_ok=True)
        variables = {"BREAKS": breaks.strip(), "PREFECT_API_URL": prefect_server_for_tests, "PYTHONPATH": "."}
        done = run(project_copy, "broken.py", *options, **variables)
        assert done.returncode == 1
        lines[breaks] = [each for each in done.stderr.splitlines() if "| INFO " not in each]
        logs[breaks] = log.read_text()
    said = "error: emails.csv, row 17: no label"
    assert lines["mistake"] == [said]
    assert lines["mistake "][-1] == said
    assert any(line.startswith("Traceback") for line in lines["mistake "])
    assert "Traceback" in logs["mistake"]
    assert logs["mistake"].splitlines()[-1].startswith(f"{said}; ended after ")

    error = "AttributeError: 'NoneType' object has no attribute 'missing'"
    assert lines["bug"][-2:] == [error, "this is a bug; .threestage/stages/pretrain/log holds its log"]
    assert error in logs["bug"]


def test_another_version_of_a_library_than_dvc_knows_of_is_said_before_anything_runs(
    project_copy, stage_line, monkeypatch
):
    versions = json.loads((project_copy / "libraries.json").read_text()) | {"torch": "1.0"}
    (project_copy / "libraries.json").write_text(json.dumps(versions))
    code, said = stage_line(project_copy, "pretrain")
    assert code == 1
    assert said.startswith("error: libraries.json: torch is 1.0, installed is ")
    assert said.endswith("run `python -m tasks.stages.libraries`, then the same command\n")
    (project_copy / "libraries.json").write_text("<<<<<<< ours")
    assert "libraries.json: ftfy is missing" in stage_line(project_copy, "pretrain")[1]
    write_libraries()
    assert json.loads((project_copy / "libraries.json").read_text()) == installed()


def test_a_prefect_server_that_is_down_is_said_in_a_line(project_copy, stage_line):
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        code, said = stage_line(project_copy, "pretrain")
    assert code == 1
    assert said.startswith("error: PREFECT_API_URL=http://127.0.0.1:9/api: nobody answers (")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (UserError("a.csv, row 2"), 1, "error: a.csv, row 2\n"),
        (UserFileError("b.csv: no such file"), 1, "error: b.csv: no such file\n"),
        (OSError(errno.ENOSPC, "No space left on device", "c.db"), 1, "error: c.db: No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            InterruptedError("stopped after step 3 of 9"),
            75,
            "stopped after step 3 of 9; the same command goes on from there\n",
        ),
        (TerminationSignal(signal.SIGTERM), 143, "terminated\n"),
    ],
)
def test_a_command_line_says_its_error_once_and_gives_its_exit_code(capsys, tmp_path, error, code, line):
    def work() -> str:
        if error is not None:
            raise error
        return "a version waits"

    log = tmp_path / "log"
    assert command.run_command(work, log) == code
    assert capsys.readouterr().err == line
    last = log.read_text().splitlines()[-1]
    further = "; the same command goes on from there" if code in (130, 143) else ""
    assert last == (f"{line.strip()}; ended after 0 s{further}" if code else "finished in 0 s; a version waits")


def test_sigterm_in_a_flow_is_said_in_a_word(tmp_path, prefect_server_for_tests):
    code = """
        import os, signal, sys
        from pathlib import Path
        from prefect import flow
        from tasks.stages.command import run_command

        @flow
        def register():
            os.kill(os.getpid(), signal.SIGTERM)

        sys.exit(run_command(register, Path("log")))
    """
    done = run(tmp_path, "-c", textwrap.dedent(code), PYTHONPATH=str(ROOT), PREFECT_API_URL=prefect_server_for_tests)
    assert done.returncode == 143
    assert done.stderr.splitlines()[-1] == "terminated"


def test_an_interrupt_reaches_what_a_test_starts():
    with subprocess.Popen(["sleep", "60"]) as child:
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=120) == -signal.SIGINT


def test_ctrl_c_inside_the_import_system_waits_until_it_has_given_its_lock_back():
    frames = []
    sys.setprofile(lambda frame, *_: frames.append(frame))
    importlib.reload(textwrap)
    sys.setprofile(None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        inside = next(frame for frame in frames if frame.f_code.co_name == "_get_module_lock")
        command._on_interrupt(signal.SIGINT, inside)  # does not raise
        with pytest.raises(KeyboardInterrupt):
            time.sleep(60)
        with pytest.raises(KeyboardInterrupt):
            command._on_interrupt(signal.SIGINT, sys._getframe())
    finally:
        signal.signal(signal.SIGINT, before)


def test_every_flow_explains_itself():
    modules = [f"flows.{name}" for name in (*FLOWS, "register")] + ["flows"]
    done = run(ROOT, "-c", HELP, *modules)
    assert done.returncode == 0, done.stderr
    said = yaml.safe_load(done.stdout)
    assert {name: code for name, (code, _) in said.items()} == dict.fromkeys(modules, 0)
    for name, (_, text) in said.items():
        assert text.startswith(f"usage: python -m {name} [-h]")
        assert len(text.split("\n\n")[1]) > 40
    assert "one of corpus, emails, instructions" in " ".join(said["flows.fetch"][1].split())
    assert "one of foundation, classifier, assistant" in " ".join(said["flows.evaluate"][1].split())
    assert "--no-resume" in said["flows.pretrain"][1]


def test_an_unknown_choice_is_refused_with_what_there_is(project_copy, stage_line):
    code, said = stage_line(project_copy, "fetch@pictures")
    assert code == 2
    assert "invalid choice: 'pictures' (choose from" in said


def test_a_flow_run_hangs_under_the_task_run_that_started_its_process(prefect_server_for_tests, monkeypatch):
    @task
    def starter() -> str:
        return str(runtime.task_run.id)

    @flow
    def child(number: int) -> tuple[str, int]:
        return runtime.flow_run.id, number

    def is_known(task_run: str) -> bool:
        with contextlib.suppress(ObjectNotFound), get_client(sync_client=True) as client:
            return client.read_task_run(UUID(task_run)) is not None
        return False

    parent = flow(starter)()
    while not is_known(parent):  # the server writes task runs down in its own time
        time.sleep(0.05)
    alone, _ = server.run_as_child(child, {"number": 1})
    monkeypatch.setenv(server.PARENT_TASK_RUN, parent)
    hanging, number = server.run_as_child(child, {"number": 2})
    assert number == 2
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(alone).parent_task_run_id is None
        assert str(client.read_flow_run(hanging).parent_task_run_id) == parent
        assert client.read_flow_run(hanging).state.is_completed()


def test_a_configured_server_is_used_as_it_is(prefect_server_for_tests):
    before = psutil.Process().children(recursive=True)
    with server.prefect_server() as url:
        assert url == prefect_server_for_tests
        assert psutil.Process().children(recursive=True) == before


def test_the_console_leaves_out_what_the_command_line_says_better():
    quiet = command._Console()

    def passes(name: str, level: int, message: str) -> bool:
        return quiet.filter(logging.LogRecord(name, level, "", 0, message, (), None))

    assert not passes("prefect.flow_runs", logging.ERROR, "Encountered an exception")
    assert not passes("prefect.flow_runs", logging.INFO, "View at http://127.0.0.1:4200/runs")
    assert not passes("prefect.EventsWorker", logging.WARNING, "Still processing items: 1 items remaining...")
    assert passes("prefect.flow_runs", logging.INFO, "Beginning flow run")
    assert passes("tasks.training.fit", logging.ERROR, "ours")


def last_checkpoint(project: Path) -> int:
    """The step of the newest checkpoint; 0 without one."""
    paths = project.glob(".threestage/stages/pretrain/*/step-*.safetensors")
    return max((int(path.stem.removeprefix("step-")) for path in paths), default=0)


PATIENT = """
import runpy, sys
from tasks.stages import command
command.GOODBYE = 600
sys.argv = ["pretrain"]
runpy.run_module("flows.pretrain", run_name="__main__")
"""


@contextlib.contextmanager
def long_training(
    project: Path, token_files: Path, *, patient: bool = False, **variables: str
) -> Iterator[subprocess.Popen]:
    """A training that would take hours, when its first checkpoint is there; if `patient`, its goodbye may take long."""
    edit_params(project, n_layer=1, n_embd=16, n_head=2, context_length=64, batch_size=2, steps=10**6)
    edit_params(project, evaluate_every=10**6, checkpoint_every=20)
    shutil.copytree(token_files, project / "data/processed/corpus")
    with subprocess.Popen(
        [sys.executable, *(("-c", PATIENT) if patient else ("-m", "flows.pretrain"))],
        cwd=project,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | NO_COMPILER | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as stage:
        try:
            deadline = time.monotonic() + 300
            while not last_checkpoint(project):
                assert stage.poll() is None, stage.stdout.read()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield stage
        finally:
            stage.kill()  # where the test has failed; else it has ended


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_asked_to_stop_leaves_a_checkpoint_and_ends_with_its_server(
    project_copy, token_files, mlflow_store, number
):
    with long_training(project_copy, token_files, patient=True) as stage:
        children = psutil.Process(stage.pid).children(recursive=True)
        assert any("uvicorn" in child.cmdline() for child in children)
        os.killpg(stage.pid, number)
        said, _ = stage.communicate(timeout=120)
    assert stage.returncode == command.STOPPED == 75
    found = re.fullmatch(r"stopped after step (\d+) of 1000000, with a checkpoint; .*", said.splitlines()[-1])
    assert list(project_copy.glob(f".threestage/stages/pretrain/*/step-{int(found[1]):06}.safetensors"))
    assert "Traceback" not in said
    assert not psutil.wait_procs(children, timeout=60)[1]
    assert not (project_copy / "models").exists()
    assert not (project_copy / "reports").exists()


SERVERS = {  # what its variable's address ends in, what opens its store, how it starts
    "PREFECT_API_URL": (
        "/api",
        "/admin/version",
        "-m uvicorn --factory prefect.server.api.server:create_app --host 127.0.0.1",
    ),
    "MLFLOW_TRACKING_URI": (
        "",
        OPENS_STORE,
        "-m mlflow server --workers 1 --host 127.0.0.1 --backend-store-uri sqlite:///{store}",
    ),
}


@pytest.mark.parametrize("variable", SERVERS)
def test_a_training_goes_on_without_its_server_and_does_not_wait_for_it_at_the_end(
    project_copy, token_files, mlflow_store, port, variable
):
    path, first, starting = SERVERS[variable]
    starting = [sys.executable, *starting.format(store=mlflow_store).split(), "--port", str(port)]
    url, quiet = f"http://127.0.0.1:{port}{path}", subprocess.DEVNULL
    with subprocess.Popen(starting, cwd=project_copy, stdout=quiet, stderr=quiet, process_group=0) as process:
        server._wait_until_healthy(process, url)
        assert httpx.get(f"{url}{first}", timeout=300).is_success
        with long_training(project_copy, token_files, **{variable: url}) as stage:
            os.killpg(process.pid, signal.SIGKILL)
            before, deadline = last_checkpoint(project_copy), time.monotonic() + 300
            while last_checkpoint(project_copy) < before + 2 * REPORT_EVERY:  # it trains on without a server
                assert stage.poll() is None, stage.stdout.read()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            stage.send_signal(signal.SIGTERM)
            stage.send_signal(signal.SIGTERM)  # as when the parent dies of the first
            said, _ = stage.communicate(timeout=120)  # Prefect's client alone would try for minutes
    assert stage.returncode == command.STOPPED, said
    (folder,) = project_copy.glob(".threestage/stages/pretrain/*/")
    assert Checkpoints(folder).load() is not None
