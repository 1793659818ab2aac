"""The command line, in this process and as a user's shell starts it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from projects import ROOT, environment, free_ports
from typer.testing import CliRunner

from cli.main import cli
from tasks.registry.store import configure_tracking
from tests.app.conftest import (
    UNAPPROVED,
    any_alive,
    children,
    error_of,
    get,
    is_ready,
    post,
    shell,
    wait_until,
)

pytestmark = pytest.mark.slow
COMMANDS = (
    "run",
    *("review", "approve", "reject", "rollback"),
    *("chat", "classify", "serve", "export", "data", "feedback"),
)
WRONG_OPTIONS = (
    ["nothing"],
    ["chat", "--temperature", "3"],
    ["classify"],
    ["serve", "--port", "x"],
)
IN_PROJECT = (
    ["run"],
    ["review"],
    ["approve", "classifier", "--reason", "good"],
)


# ---- any command


def test_help_has_each_command_and_the_exit_codes_and_fits_a_terminal(threestage):
    text = threestage("--help").stdout
    assert set(re.findall(r"^  ([a-z][a-z-]+)  ", text, re.MULTILINE)) == set(COMMANDS)
    assert "..." not in text.partition("\n\n")[2], "no summary of a command is cut off"
    assert re.findall(r"\b\d+\b", text.partition("Exit codes:")[2]) == ["0", "1", "2", "3", "130", "143"]
    assert "--install-completion" in text
    for command in COMMANDS:
        result = threestage(command, "--help")
        assert result.exit_code == 0
        assert max(map(len, result.stdout.splitlines())) <= 80
    assert re.fullmatch(r"threestage \d+\.\d+\.\d+\n", threestage("--version").stdout)


@pytest.mark.parametrize("words", WRONG_OPTIONS, ids=" ".join)
def test_invalid_option_ends_with_2(threestage, words):
    assert threestage(*words).exit_code == 2


@pytest.mark.parametrize("words", IN_PROJECT, ids=" ".join)
def test_missing_project_is_an_error_with_the_folder(threestage, tmp_path, words):
    assert error_of(threestage(*words)) == f"error: there is no dvc.yaml in {tmp_path}: go to the project's folder"


@pytest.mark.parametrize("command", [["chat", "hello"], ["classify", "mail.eml"], ["serve", "--port", "0"]])
def test_missing_registry_is_an_error_and_none_is_made(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    error = error_of(CliRunner().invoke(cli, command))
    assert error.startswith(f"error: {tmp_path / 'mlflow.db'}: there is no registry")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["chat", "hello"], "foundation/1 can't chat; models that can: assistant"),
        (["classify", "-"], "foundation/1 can't classify; models that can: classifier"),
    ],
)
def test_unsuitable_model_is_an_error_with_those_that_can(threestage, words, reason):
    assert error_of(threestage(*words, "--model", "foundation", stdin="hello")) == f"error: {reason}"


LOADED = """
import sys
from cli.main import cli
try:
    cli(sys.argv[1:], prog_name="threestage")
finally:
    print(*sorted({"torch", "mlflow", "pandas", "dvc", "prefect", "fastapi", "gradio"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("command", "code", "reason", "loaded"),
    [
        (["--help"], 0, "", ""),
        (["serve", "--allowed-hosts", "a*b"], 1, "error: --allowed-hosts: 'a*b' is no name of a host", ""),
        (["classify", "gone.eml"], 3, "error: gone.eml: there is no such file", ""),
        (["data", "check", "corpus", "gone.csv"], 1, "error: gone.csv: no such file or folder", ""),
    ],
)
def test_import_of_heavy_libraries_waits_until_they_are_needed(
    tmp_path, mlflow_store, monkeypatch, command, code, reason, loaded
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    Path("dvc.yaml").touch()
    configure_tracking()
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *command], env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (code, loaded)
    assert done.stderr.startswith(reason)


# ---- processes


def test_server_asks_for_keys_until_ctrl_c_and_a_pipe_may_close_early(tmp_path, registry):
    mail = "From a@b.example Thu Aug 22 12:36:20 2002\nSubject: hi\n\nthe cat sat on the mat\n\n"
    (tmp_path / os.fsdecode(b"caf\xe9.mbox")).write_text(mail * 1500)  # a name that is not UTF-8 is no error
    reader = shell("PYTHONIOENCODING=utf-8:strict threestage classify --json caf*.mbox | head -1", tmp_path, registry)
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    line = f"THREESTAGE_API_KEYS='one, two' exec {sys.executable} -m cli serve --no-page --port {port}"
    server = shell(line, tmp_path, registry)
    try:
        wait_until(lambda: is_ready(address), 300)
        assert get(address, "/v1/models").status_code == 401
        answer = post(address, "/classify", {"emails": [{"body": "the cat"}]}, Authorization="Bearer two")
        assert answer.json()["verdicts"][0]["label"] in ("ham", "unsure", "spam")
        helpers = children(server.pid)
        assert helpers  # the process that cleans mails
    finally:
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=120)
    assert server.returncode == 130, errors
    assert errors.endswith("interrupted\n")
    assert "threestage-assistant/1 is loaded" in errors
    assert "terminate called" not in errors
    wait_until(lambda: not any_alive(helpers), 60)

    output, errors = reader.communicate()
    assert (reader.returncode, errors) == (0, UNAPPROVED)
    row = json.loads(output)
    assert (row["mail"], row["file"]) == (1, "caf\udce9.mbox")
