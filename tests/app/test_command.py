"""The command line, in this process and as a user's shell starts it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch
import yaml
from dvc.repo import Repo
from mlflow import MlflowClient
from projects import ROOT, free_ports
from typer.testing import CliRunner

from app.command import cli
from llm.training.checkpoint import Checkpoints
from tasks.registry.decide import approve, compared
from tasks.registry.tracking import configure_tracking
from tasks.stages.graph import reproduce
from tests.app.conftest import alive, children, error_of, shell, tracked, wait_until

pytestmark = pytest.mark.slow


# ---- what any command does


def test_help_is_there_for_every_command_and_fits_a_terminal(threestage):
    said = threestage("--help").stdout
    commands = re.findall(r"^  ([a-z]+)  ", said.partition("Commands:")[2], re.MULTILINE)
    assert commands == [
        "run",
        "review",
        "lineage",
        "reproduce",
        "status",
        "chat",
        "classify",
        "serve",
        "data",
        "feedback",
    ]
    for command in commands[4:]:  # the flows have their own
        help_ = threestage(command, "--help")
        assert help_.exit_code == 0
        assert max(map(len, help_.stdout.splitlines())) <= 80


def test_help_names_the_exit_codes(threestage):
    codes = threestage("--help").stdout.partition("Exit codes:")[2]
    assert re.findall(r"\b\d+\b", codes) == ["0", "1", "2", "3", "130", "143"]


def test_help_loads_no_library_that_takes_time():
    code = (
        "import sys; from app.command import cli; cli(['--help'], standalone_mode=False); "
        "print([m for m in ('torch', 'mlflow', 'pandas', 'dvc', 'prefect', 'fastapi', 'gradio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_the_distributions(threestage):
    assert re.fullmatch(r"threestage \d+\.\d+\.\d+\n", threestage("--version").stdout)


@pytest.mark.parametrize("wrong", [["chat", "--temperature", "3"], ["serve", "--port", "x"], ["classify"], ["nothing"]])
def test_a_wrong_option_ends_with_2(threestage, wrong):
    assert threestage(*wrong).exit_code == 2


def test_completion_can_be_installed(threestage):
    assert "--install-completion" in threestage("--help").stdout


def test_outside_a_project_that_is_said(threestage, tmp_path):
    assert error_of(threestage("status")) == f"error: there is no dvc.yaml in {tmp_path}: go to the project's folder"


@pytest.mark.parametrize("command", [["chat", "hello"], ["classify", "mail.eml"], ["serve", "--port", "0"]])
def test_without_a_registry_that_is_said_and_none_is_made(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    said = error_of(CliRunner().invoke(cli, command))
    assert said.startswith(f"error: {tmp_path / 'mlflow.db'}: there is no registry")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["chat", "hello"], ["classify", "mail.eml"]])
def test_an_unknown_model_is_said_with_those_that_are_there(threestage, command):
    said = error_of(threestage(*command, "--model", "oracle"))
    assert said == "error: model 'oracle' is not registered; those are: assistant, classifier, foundation"


# ---- status


STAGES = """
stages:
  clean: {cmd: "cat raw > clean", deps: [raw], params: [rate], outs: [clean]}
  train: {cmd: "cat clean > model", deps: [clean], outs: [model]}
"""


@pytest.fixture
def pipeline(tmp_path, monkeypatch) -> Path:
    """A DVC project in which nothing ever ran."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(STAGES)
    Path("params.yaml").write_text("rate: 1\n")
    Path("raw").write_text("text")
    Repo.init(no_scm=True).close()
    return tmp_path


def status() -> dict:
    result = CliRunner().invoke(cli, ["status", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_status_where_nothing_ever_ran(pipeline):
    never = {"clean": ["it never ran"], "train": ["it never ran"]}
    assert status() == {"stale": never, "versions": [], "interrupted": []}
    said = CliRunner().invoke(cli, ["status"]).stdout.splitlines()
    assert said[1:] == ["  clean  it never ran", "  train  it never ran", "the registry is empty"]
    assert not Path("mlflow.db").exists(), "to look makes nothing"


def test_status_says_why_a_stage_is_stale(pipeline, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for stage in ("clean", "train"):
        reproduce(stage, {})
    assert status()["stale"] == {}
    assert "no stage is stale" in CliRunner().invoke(cli, ["status"]).stdout
    Path("params.yaml").write_text("rate: 2\n")
    Path("model").unlink()
    assert status()["stale"] == {"clean": ["rate modified"], "train": ["model is missing"]}


def test_status_names_versions_with_their_aliases(pipeline, registry):
    with tracked(registry):
        found, said = status()["versions"], CliRunner().invoke(cli, ["status"]).stdout
    assert [(row["model"], row["version"], row["aliases"]) for row in found] == [
        ("assistant", "2", ["challenger"]),
        ("assistant", "1", ["champion"]),
        ("classifier", "1", ["challenger"]),
        ("foundation", "1", ["challenger"]),
    ]
    assert re.search(r"^  assistant/1  \d{4}-\d\d-\d\d \d\d:\d\d\S*  champion$", said, re.MULTILINE)


def test_status_names_the_gates_in_spite_of_which_a_version_was_approved(pipeline, mlflow_store):
    configure_tracking()
    MlflowClient().create_registered_model("threestage-classifier")
    MlflowClient().create_model_version("threestage-classifier", str(Path.cwd() / "mlartifacts"))
    compared("classifier", "1", None, ["f1", "drift"])
    approve("classifier", "1", "reviewer-1", "we need one", despite_gates=True)
    said = CliRunner().invoke(cli, ["status"]).stdout
    assert re.search(r"^  classifier/1 .*  champion, approved despite f1 and drift$", said, re.MULTILINE)


def test_status_names_interrupted_trainings(pipeline):
    folder = Path(".threestage/stages/train/abc")
    Checkpoints(folder).save(40, {"model": {"weight": torch.ones(2)}}, {})
    assert status()["interrupted"] == [{"stage": "train", "step": 40, "folder": str(folder)}]
    assert "interrupted: train at step 40" in CliRunner().invoke(cli, ["status"]).stdout


def test_a_foundation_that_is_missing_is_said_and_not_in_words_of_dvc(pipeline):
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    del values["foundation"]
    Path("params.yaml").write_text(yaml.safe_dump(values))
    assert error_of(CliRunner().invoke(cli, ["status"])) == "error: params.yaml: foundation: missing"


def test_a_registry_that_does_not_answer_is_said_in_a_line(pipeline, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "nobody answers" in error_of(CliRunner().invoke(cli, ["status"]))


# ---- pipes


def test_a_reader_who_has_had_enough_is_no_error(tmp_path, registry):
    row = json.dumps({"body": "the cat sat on the mat"})
    (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).write_text(f"{row}\n" * 1500)  # no UTF-8, which is no error, either
    strict = "PYTHONIOENCODING=utf-8:strict threestage classify --json caf*.jsonl"
    done = shell(f"{strict} | head -1", tmp_path, registry)
    said, errors = done.communicate()
    assert (done.returncode, errors) == (0, "")
    assert json.loads(said)["line"] == 1
    assert json.loads(said)["file"] == "caf\udce9.jsonl"


# ---- serve


def test_the_server_answers_who_has_a_key_until_it_is_told_to_end(tmp_path, registry):
    (port,) = free_ports(1)
    address, key = f"http://127.0.0.1:{port}", {"Authorization": "Bearer two"}
    line = f"THREESTAGE_API_KEYS='one, two' exec {sys.executable} -m app.command serve --no-page --port {port}"
    server = shell(line, tmp_path, registry)
    try:
        wait_until(lambda: is_ready(address), 300)
        assert httpx.get(f"{address}/v1/models", timeout=60).status_code == 401
        found = httpx.get(f"{address}/v1/models", headers=key, timeout=60).json()["data"]
        assert "assistant@champion" in [each["id"] for each in found]
        mails = {"emails": [{"body": "the cat"}]}
        answer = httpx.post(f"{address}/classify", json=mails, headers=key, timeout=300)
        assert answer.json()["verdicts"][0]["label"] in ("ham", "spam")
        helpers = children(server.pid)
        assert helpers  # the process that reads mails
    finally:
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=120)
    assert server.returncode == 130, errors
    assert errors.endswith("interrupted\n")
    assert "threestage-assistant/1 is loaded" in errors
    assert "terminate called" not in errors
    wait_until(lambda: not any(map(alive, helpers)), 60)


def is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz", timeout=60).status_code == 200
    except httpx.TransportError:
        return False
