import contextlib
import importlib
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

import psutil
import pytest
import yaml
from prefect import flow, runtime, task
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal

from llm.resume import Checkpoints
from tasks import stages
from tasks.training import REPORT_EVERY

ROOT = Path(__file__).parents[2]
FLOWS = ("fetch", "preprocess", "pretrain", "finetune_classifier", "finetune_assistant", "evaluate")
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
import sys
from prefect import flow
from tasks.params import Pretrain
from tasks.stages import stage_command

@flow
def pretrain(params: Pretrain) -> None:
    "Break."
    {breaks}

if __name__ == "__main__":
    sys.exit(stage_command(pretrain, "pretrain"))
"""


def edit_params(project: Path, **changes: object) -> None:
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["pretrain"] |= changes
    (project / "params.yaml").write_text(yaml.safe_dump(values))


def run(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command, environment = [sys.executable, *arguments], os.environ | environment
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)


def test_a_wrong_parameter_is_one_line_before_anything_is_made_or_started(project_copy):
    edit_params(project_copy, learning_rate="fast")
    before = {path.name for path in project_copy.iterdir()}
    done = run(project_copy, "-B", "-m", "flows.pretrain")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: params.yaml: pretrain.learning_rate: input should be a valid number")
    assert {path.name for path in project_copy.iterdir()} - {".prefect"} == before
    assert not list(project_copy.glob(".prefect/*.db*"))  # no server was started


@pytest.mark.parametrize(
    ("breaks", "line"),
    [
        ("raise ValueError('emails.csv, row 17: smap is no label')", "error: emails.csv, row 17: smap is no label"),
        ("open('nowhere.csv')", "error: [Errno 2] No such file or directory: 'nowhere.csv'"),
    ],
)
def test_an_expected_error_in_a_flow_is_one_line(project_copy, prefect_server_for_tests, breaks, line):
    (project_copy / "broken.py").write_text(BROKEN.format(breaks=breaks))
    done = run(project_copy, "broken.py", PREFECT_API_URL=prefect_server_for_tests, PYTHONPATH=".")
    assert done.returncode == 1
    said = [each for each in done.stderr.splitlines() if "| INFO " not in each]
    assert said == [line]


def test_a_bug_in_a_flow_keeps_its_traceback(project_copy, prefect_server_for_tests):
    (project_copy / "broken.py").write_text(BROKEN.format(breaks="None.missing"))
    done = run(project_copy, "broken.py", PREFECT_API_URL=prefect_server_for_tests, PYTHONPATH=".")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "AttributeError: 'NoneType' object has no attribute 'missing'"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (ValueError("a.csv, row 2"), 1, "error: a.csv, row 2\n"),
        (FileNotFoundError("b.csv"), 1, "error: b.csv\n"),
        (RuntimeError("no room"), 1, "error: no room\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            InterruptedError("stopped after step 3 of 9"),
            75,
            "stopped after step 3 of 9; the same command goes on from it\n",
        ),
        (TerminationSignal(signal.SIGTERM), 143, "terminated\n"),
    ],
)
def test_a_command_line_says_its_error_once_and_gives_its_exit_code(capsys, error, code, line):
    def work() -> None:
        if error is not None:
            raise error

    assert stages.run_command(work) == code
    assert capsys.readouterr().err == line


def test_ctrl_c_inside_a_finaliser_still_ends_the_command(tmp_path):
    code = """
        import signal, sys, time
        from tasks.stages import run_command

        class Slow:
            def __del__(self):
                signal.raise_signal(signal.SIGINT)

        def work():
            Slow()
            time.sleep(30)

        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.exit(run_command(work))
    """
    started = time.monotonic()
    done = run(tmp_path, "-c", textwrap.dedent(code), PYTHONPATH=str(ROOT))
    assert time.monotonic() - started < 20
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_ctrl_c_inside_the_import_system_waits_until_it_has_given_its_lock_back():
    frames = []
    sys.setprofile(lambda frame, *_: frames.append(frame))
    importlib.reload(textwrap)
    sys.setprofile(None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        inside = next(frame for frame in frames if frame.f_code.co_name == "_get_module_lock")
        stages._on_interrupt(signal.SIGINT, inside)  # does not raise
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)
        with pytest.raises(KeyboardInterrupt):
            stages._on_interrupt(signal.SIGINT, sys._getframe())
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
    assert "{corpus,emails,instructions}" in said["flows.fetch"][1]
    assert "{foundation,classifier,assistant}" in said["flows.evaluate"][1]
    assert "--no-resume" in said["flows.pretrain"][1]


def test_an_unknown_choice_is_refused_with_what_there_is(project_copy):
    done = run(project_copy, "-m", "flows.fetch", "pictures")
    assert done.returncode == 2
    assert "invalid choice: 'pictures' (choose from" in done.stderr


@contextlib.contextmanager
def holder(project: Path, seconds: float) -> Iterator[subprocess.Popen]:
    """Another process that holds the lock of the stage `train`."""
    code = "import time\nfrom tasks import stages\nwith stages._only_writer('train'):\n"
    code += f"  print('held', flush=True)\n  time.sleep({seconds})"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_waits_then_says_who_holds_the_lock_until_that_one_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages, "LOCK_PATIENCE", 0.5)
    with holder(tmp_path, seconds=60) as other:
        started = time.monotonic()
        with (
            pytest.raises(RuntimeError, match=f"^stage train is already running, as process {other.pid}$"),
            stages._only_writer("train"),
        ):
            pass
        assert 0.5 <= time.monotonic() - started < 2
        with stages._only_writer("evaluate@classifier"):  # another stage's lock is another
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        with stages._only_writer("train"):
            assert (stages.state_folder("train") / "lock").read_text() == str(os.getpid())


def test_a_second_writer_goes_on_when_the_first_ends_in_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with holder(tmp_path, seconds=0.5), stages._only_writer("train"):
        pass


def test_a_flow_run_hangs_under_the_task_run_that_started_its_process(prefect_server_for_tests, monkeypatch):
    @task
    def starter() -> str:
        return str(runtime.task_run.id)

    @flow
    def child(number: int) -> tuple[str, int]:
        return runtime.flow_run.id, number

    parent = flow(starter)()
    alone, _ = stages.run_as_child(child, {"number": 1})
    monkeypatch.setenv(stages.PARENT_TASK_RUN, parent)
    hanging, number = stages.run_as_child(child, {"number": 2})
    assert number == 2
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(alone).parent_task_run_id is None
        assert str(client.read_flow_run(hanging).parent_task_run_id) == parent
        assert client.read_flow_run(hanging).state.is_completed()


def test_a_configured_server_is_used_as_it_is(prefect_server_for_tests):
    before = psutil.Process().children(recursive=True)
    with stages.prefect_server() as url:
        assert url == prefect_server_for_tests
        assert psutil.Process().children(recursive=True) == before


def test_the_console_leaves_out_what_the_command_line_says_better():
    quiet = stages._Console()

    def passes(name: str, level: int, message: str) -> bool:
        return quiet.filter(logging.LogRecord(name, level, "", 0, message, (), None))

    assert not passes("prefect.flow_runs", logging.ERROR, "Encountered an exception")
    assert not passes("prefect.flow_runs", logging.INFO, "View at http://127.0.0.1:4200/runs")
    assert not passes("prefect.EventsWorker", logging.WARNING, "Still processing items: 1 items remaining...")
    assert passes("prefect.flow_runs", logging.INFO, "Beginning flow run")
    assert passes("tasks.training", logging.ERROR, "ours")


def last_checkpoint(project: Path) -> int:
    """The step of the newest checkpoint; 0 without one."""
    paths = project.glob(".threestage/stages/pretrain/*/step-*.safetensors")
    return max((int(path.stem.removeprefix("step-")) for path in paths), default=0)


@contextlib.contextmanager
def long_training(project: Path, token_files: Path, **variables: str) -> Iterator[subprocess.Popen]:
    """A training that would take hours, when its first checkpoint is written."""
    edit_params(project, n_layer=1, n_embd=16, n_head=2, context_length=64, batch_size=2, steps=10**6)
    edit_params(project, evaluate_every=10**6, checkpoint_every=20, sample_prompts=[])
    shutil.copytree(token_files, project / "data/processed/corpus")
    with subprocess.Popen(
        [sys.executable, "-m", "flows.pretrain"],
        cwd=project,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as stage:
        try:
            deadline = time.monotonic() + 90
            while not last_checkpoint(project):
                assert stage.poll() is None, stage.stdout.read()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield stage
        finally:
            stage.kill()  # where the test has failed; else it has ended


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_asked_to_stop_leaves_a_checkpoint_and_ends_with_its_server_within_5_seconds(
    project_copy, token_files, mlflow_store, number
):
    with long_training(project_copy, token_files) as stage:
        children = psutil.Process(stage.pid).children(recursive=True)
        assert any("uvicorn" in child.cmdline() for child in children)
        os.killpg(stage.pid, number)
        started = time.monotonic()
        said, _ = stage.communicate(timeout=30)
        took = time.monotonic() - started
    assert took < 5
    assert stage.returncode == stages.STOPPED == 75
    found = re.fullmatch(r"stopped after step (\d+) of 1000000, with a checkpoint; .*", said.splitlines()[-1])
    assert list(project_copy.glob(f".threestage/stages/pretrain/*/step-{int(found[1]):06}.safetensors"))
    assert "Traceback" not in said
    assert not psutil.wait_procs(children, timeout=1)[1]
    assert not (project_copy / "models").exists()
    assert not (project_copy / "reports").exists()


SERVERS = {
    "PREFECT_API_URL": ("/api", "-m uvicorn --factory prefect.server.api.server:create_app --host 127.0.0.1"),
    "MLFLOW_TRACKING_URI": ("", "-m mlflow server --workers 1 --host 127.0.0.1 --backend-store-uri sqlite:///{store}"),
}


@pytest.mark.parametrize("variable", SERVERS)
def test_a_training_goes_on_without_its_server_and_does_not_wait_for_it_at_the_end(
    project_copy, token_files, mlflow_store, variable
):
    path, command = SERVERS[variable]
    port = stages._free_port()
    command = [sys.executable, *command.format(store=mlflow_store).split(), "--port", str(port)]
    url, quiet = f"http://127.0.0.1:{port}{path}", subprocess.DEVNULL
    with subprocess.Popen(command, cwd=project_copy, stdout=quiet, stderr=quiet, process_group=0) as server:
        stages._wait_until_healthy(server, url)
        with long_training(project_copy, token_files, **{variable: url}) as stage:
            os.killpg(server.pid, signal.SIGKILL)
            before, deadline = last_checkpoint(project_copy), time.monotonic() + 30
            while last_checkpoint(project_copy) < before + 2 * REPORT_EVERY:  # it trains on without a server
                assert stage.poll() is None, stage.stdout.read()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            stage.send_signal(signal.SIGTERM)
            stage.send_signal(signal.SIGTERM)  # as when the parent dies of the first
            started = time.monotonic()
            said, _ = stage.communicate(timeout=60)
    assert time.monotonic() - started < stages.GOODBYE + 5
    assert stage.returncode == stages.STOPPED, said
    (folder,) = project_copy.glob(".threestage/stages/pretrain/*/")
    assert Checkpoints(folder).load() is not None
