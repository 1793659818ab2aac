"""OpenLineage events as a listener gets them: by HTTP from a real server, or from the file that the client writes."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from platform import node
from uuid import UUID, uuid4

import pandas as pd
import pytest
import yaml
from dvc.repo import Repo
from mlflow import MlflowClient
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from projects import git
from told import EVENTS, check, read_events

from tasks.registry import openlineage
from tasks.registry.decisions import approve, set_pending
from tasks.registry.openlineage import run_events
from tasks.registry.register import register_model
from tasks.registry.tracking import stage_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
ROWS = pd.DataFrame({"label": ["ham", "spam", "ham"], "body": ["a", "b", "c"]})
CHECK = {"expectation": "expect_labels", "column": "label", "expected": {"value_set": ["ham", "spam"]}}
CHECKED = {"expectations": [CHECK | {"success": False, "unexpected": 1, "rows": 4}]}
GRAPH = """
stages:
  train:
    cmd: 'true'
    deps: [data/processed/emails, llm/model.py]
    outs: [models/mail]
"""
IGNORED = ("mlflow.db*", "mlartifacts", ".threestage", "data", "models", "reports", EVENTS, "openlineage.yml")
NOBODY = """
import sys, threading
from tasks.registry.openlineage import run_events
with run_events("train", ("DVC", "STAGE"), {}) as told:
    pass
print([name for name in ("openlineage", "requests", "prefect", "mlflow") if name in sys.modules], repr(told.run_id))
print(threading.active_count())
"""


@pytest.fixture(autouse=True)
def _of_a_test(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(openlineage, "PATIENCE", 600)  # on a busy machine
    yield
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE__")]:
        del os.environ[name]  # into which the client writes what OPENLINEAGE_URL says


@pytest.fixture
def stage(tmp_path, monkeypatch, mlflow_store):
    """A project in git whose stage `train` this process runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train")
    for split, rows in (("train", ROWS), ("test", ROWS[:1])):
        path = Path("data/processed/emails", f"{split}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(path, index=False)
    for path, content in (
        ("reports/quality/emails/validation.json", json.dumps(CHECKED)),
        ("llm/model.py", ""),
        ("dvc.yaml", GRAPH),
        (".gitignore", "\n".join(IGNORED)),
    ):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(content)
    git(tmp_path, "init", "--quiet")
    Repo.init().close()
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "All")


def train() -> None:
    Path("models/mail").mkdir(parents=True)
    Path("models/mail/weights").write_bytes(bytes(10))


@contextmanager
def listening(handle) -> Iterator[str]:
    """A listener on loopback; `handle` gets each request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            handle(self)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def heard(monkeypatch) -> Iterator[list[dict]]:
    """What a listener hears by HTTP."""
    said: list[dict] = []

    def take(request: BaseHTTPRequestHandler) -> None:
        assert request.path == "/api/v1/lineage"
        said.append(json.loads(request.rfile.read(int(request.headers["Content-Length"]))))
        request.send_response(201)
        request.end_headers()

    with listening(take) as url:
        monkeypatch.setenv("OPENLINEAGE_URL", url)
        yield said


@pytest.fixture
def written(tmp_path, monkeypatch) -> Path:
    """The file that an openlineage.yml in the project names."""
    path = tmp_path / EVENTS
    transport = {"type": "file", "log_file_path": str(path), "append": True}
    (tmp_path / "openlineage.yml").write_text(yaml.safe_dump({"transport": transport}))
    return path


def states(said: list[dict]) -> list[tuple[str, str]]:
    return [(event["job"]["name"], event["eventType"]) for event in said]


def test_a_stage_says_what_it_read_and_made_and_where_its_code_and_its_runs_are(stage, heard, tmp_path):
    git(tmp_path, "remote", "add", "origin", "https://ghp-secret@example.org/team/project.git")
    with stage_run() as run:
        train()
    begun, ended = heard
    for event in heard:
        check(event)
    assert states(heard) == [("train", "START"), ("train", "COMPLETE")]
    assert begun["run"]["runId"] == ended["run"]["runId"]
    assert UUID(begun["run"]["runId"]).version == 7
    assert begun["eventTime"] < ended["eventTime"]
    assert begun["job"]["namespace"] == "threestage"
    facets = begun["job"]["facets"]
    assert {name: facets["jobType"][name] for name in ("processingType", "integration", "jobType")} == {
        "processingType": "BATCH",
        "integration": "DVC",
        "jobType": "STAGE",
    }
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    code = facets["sourceCodeLocation"]
    assert (code["type"], code["url"], code["version"]) == ("git", "https://example.org/team/project.git", commit)
    tags = MlflowClient().get_run(run.info.run_id).data.tags
    assert tags["threestage.openlineage.run"] == begun["run"]["runId"]
    ours = begun["run"]["facets"]["threestage_lineage"]["tags"]
    assert ours["threestage.mlflow.run"] == run.info.run_id
    assert ours["threestage.git.dirty.code"] == "false"
    assert {name: tags[name] for name in ours if name != "threestage.mlflow.run"} == {
        name: value for name, value in ours.items() if name != "threestage.mlflow.run"
    }

    assert "secret" not in json.dumps(heard)

    here = f"file://{node()}{tmp_path}"
    (data,) = begun["inputs"]
    assert (data["namespace"], data["name"]) == (here, "data/processed/emails")  # which code it read says the commit
    assert data["facets"]["version"]["datasetVersion"] == tags["threestage.dvc.dep.data/processed/emails"]
    assert [(each["name"], each["type"]) for each in data["facets"]["schema"]["fields"]] == [
        ("label", "large_string"),
        ("body", "large_string"),
    ]
    statistics = data["inputFacets"]["inputStatistics"]
    assert (statistics["rowCount"], statistics["fileCount"]) == (4, 2)
    (found,) = data["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert (found["assertion"], found["success"], found["column"]) == ("expect_labels", False, "label")
    assert (found["params"], found["actual"]) == (CHECK["expected"], "1 of 4 rows fail")
    assert begun["outputs"] == []
    (model,) = ended["outputs"]
    assert (model["namespace"], model["name"]) == (here, "models/mail")
    assert model["facets"]["version"]["datasetVersion"] == tags["threestage.dvc.out.models/mail"]
    statistics = model["outputFacets"]["outputStatistics"]
    assert (statistics["size"], statistics["fileCount"]) == (10, 1)


def test_clones_that_share_a_remote_name_the_same_datasets(stage, written, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "mail-team")
    with Repo() as repo, repo.config.edit() as config:
        config["remote"]["storage"] = {"url": "s3://bucket/data/"}
        config["core"]["remote"] = "storage"
    with stage_run():
        train()
    begun, ended = read_events(written)
    assert begun["job"]["namespace"] == ended["job"]["namespace"] == "mail-team"
    assert {each["namespace"] for each in (*ended["inputs"], *ended["outputs"])} == {"s3://bucket/data"}


@pytest.mark.parametrize(
    ("error", "state"), [(ValueError("row 17"), "FAIL"), (InterruptedError("stopped after step 3"), "ABORT")]
)
def test_a_stage_that_fails_or_is_stopped_says_why_and_raises_as_without_a_listener(stage, heard, error, state):
    with pytest.raises(type(error)) as caught, stage_run():
        raise error
    assert caught.value is error
    assert states(heard) == [("train", "START"), ("train", state)]
    check(heard[1])
    said = heard[1]["run"]["facets"]["errorMessage"]
    assert (said["message"], said["programmingLanguage"]) == (f"{type(error).__name__}: {error}", "PYTHON")
    assert "test_openlineage.py" in said["stackTrace"]
    assert heard[1]["outputs"] == []


def test_what_runs_in_a_run_here_or_in_a_process_of_its_own_is_a_part_of_it(stage, written, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "team/x")
    inner = "from tasks.registry import openlineage; openlineage.PATIENCE = 600\n"
    inner += "with openlineage.run_events('inner', ('DVC', 'STAGE'), {}): pass"
    with run_events("outer", ("PREFECT", "FLOW"), {}), run_events("middle", ("MLFLOW", "STEP"), {}):
        subprocess.run([sys.executable, "-c", inner], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    assert not {openlineage.PARENT, openlineage.ROOT} & os.environ.keys()
    said = read_events(written)
    runs = {event["job"]["name"]: event["run"] for event in said}
    for event in said:
        check(event)
    assert "parent" not in runs["outer"]["facets"]
    for name, above in (("middle", "outer"), ("inner", "middle")):
        parent = runs[name]["facets"]["parent"]
        assert (parent["job"]["namespace"], parent["job"]["name"]) == ("team/x", above)
        assert parent["run"]["runId"] == runs[above]["runId"]
        assert parent["root"]["run"]["runId"] == runs["outer"]["runId"]
    assert states(said)[-1] == ("outer", "COMPLETE")


def test_a_scheduled_run_says_when_it_was_due(stage, written):
    due = datetime(2026, 1, 2, 3, tzinfo=UTC)
    flow_run = FlowRun(flow_id=uuid4(), auto_scheduled=True, expected_start_time=due)
    with FlowRunContext.model_construct(flow_run=flow_run), run_events("retrain", ("PREFECT", "FLOW"), {}):
        pass
    for event in read_events(written):
        check(event)
        assert event["run"]["facets"]["nominalTime"]["nominalStartTime"] == due.isoformat()


def test_a_listener_that_hangs_costs_a_warning_and_a_moment(stage, monkeypatch, caplog):
    over = threading.Event()
    monkeypatch.setattr(openlineage, "PATIENCE", 0.5)
    with listening(lambda request: over.wait()) as url:
        monkeypatch.setenv("OPENLINEAGE_URL", url)
        try:
            with caplog.at_level(logging.WARNING), stage_run() as run:
                train()
        finally:
            over.set()
    assert MlflowClient().get_run(run.info.run_id).info.status == "FINISHED"
    assert [record.message for record in caplog.records] == [
        "OpenLineage: what runs here can't be told: nobody took it within 0.5 s"
    ]


def test_a_listener_that_is_away_or_refuses_costs_one_warning(stage, monkeypatch, caplog):
    with listening(lambda request: request.send_error(401)) as url:
        monkeypatch.setenv("OPENLINEAGE_URL", url)
        with caplog.at_level(logging.WARNING), stage_run():
            train()
    (record,) = caplog.records
    assert "401" in record.message
    caplog.clear()
    retry = {"total": 1, "connect": 1, "backoff_factor": 0}
    transport = {"type": "http", "url": url, "retry": retry}
    Path("openlineage.yml").write_text(yaml.safe_dump({"transport": transport}))
    monkeypatch.delenv("OPENLINEAGE_URL")
    with caplog.at_level(logging.WARNING), run_events("outer", ("PREFECT", "FLOW"), {}), stage_run():
        pass
    (record,) = caplog.records
    assert "ConnectionError" in record.message


def test_a_configuration_that_names_no_transport_is_said(stage, monkeypatch, caplog):
    monkeypatch.setenv("OPENLINEAGE_CONFIG", "missing.yml")
    with caplog.at_level(logging.WARNING), stage_run():
        train()
    (record,) = caplog.records
    assert record.message.endswith("neither OPENLINEAGE_URL nor openlineage.yml names a transport")


def test_without_the_client_it_is_said_how_to_get_it(stage, monkeypatch, caplog):
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "openlineage.client.uuid", None)
    with caplog.at_level(logging.WARNING), stage_run():
        train()
    (record,) = caplog.records
    assert record.message.endswith("its client is missing: pip install '.[openlineage]'")


@pytest.mark.parametrize("variables", [{}, {"OPENLINEAGE_URL": "http://127.0.0.1:9", "OPENLINEAGE_DISABLED": "True"}])
def test_where_nobody_listens_nothing_is_imported_and_no_thread_is_started(tmp_path, variables):
    done = subprocess.run(
        [sys.executable, "-c", NOBODY],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["[] ''", "1"]


def test_a_registration_and_the_decisions_on_it_say_which_version_and_which_bytes(project, written):
    register_model("classifier")
    set_pending("classifier", "1", "page.html", instead_of=None)
    approve("classifier", "1", by="reviewer-1", reason="better")
    register_model("classifier")  # which makes none
    said = read_events(written)
    for event in said:
        check(event)
    assert states(said) == [
        (name, state) for name in ("register@classifier", "decision@classifier") for state in ("START", "COMPLETE")
    ]
    _, registered, _, decided = said
    version = MlflowClient().get_model_version("threestage-classifier", "1")
    made = {each["name"]: each["facets"]["version"]["datasetVersion"] for each in registered["inputs"]}
    assert made["models/classifier"] == version.tags["threestage.dvc.out.models/classifier"]
    assert "reports/evaluation/classifier/metrics.json" in made
    assert registered["run"]["facets"]["threestage_lineage"]["tags"]["threestage.mlflow.run"] == version.run_id
    (output,) = registered["outputs"]
    assert (output["name"], output["facets"]["version"]["datasetVersion"]) == ("models:/threestage-classifier", "1")
    (taken,), (champion,) = decided["inputs"], decided["outputs"]
    assert (taken["namespace"], taken["name"]) == (output["namespace"], output["name"])
    assert (champion["name"], champion["facets"]["version"]["datasetVersion"]) == (
        "models:/threestage-classifier@champion",
        "1",
    )
    decision = json.loads(decided["run"]["facets"]["threestage_lineage"]["tags"]["threestage.decision"])
    assert (decision["decision"], decision["by"], decision["reason"]) == ("approved", "reviewer-1", "better")
