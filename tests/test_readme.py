"""The commands of README.md and docs/pipeline.md do what these say, in a project of small size."""

import doctest
import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pandas as pd
import pytest
import yaml
from projects import ROOT, environment, git

HANGS = 600  # seconds that only something that hangs takes
COMMAND_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = ("README.md", "docs/pipeline.md")
TESTED_ELSEWHERE = {
    "make run": "by a fresh clone",
    "make test": "by the command that runs this test",
    "make serve": "by tests/app",
}
SHORTENED = {
    "train.steps=200": "train.steps=8",
    "dvc repro pretrain": "dvc repro --force --single-item pretrain",
    "threestage review": "threestage review classifier",
}
SERVERS = {  # a command that runs until it is stopped, and what it prints or answers when it is ready
    "prefect worker start --pool local": None,
    "mlflow models serve --model-uri models:/threestage-classifier@challenger --env-manager local --port 5001": (
        "http://127.0.0.1:5001/invocations",
        "label",
    ),
}


def _commands() -> list[str]:
    """Every command of the pages' shell blocks, without its comment, in order."""
    blocks = [block for page in PAGES for block in COMMAND_BLOCK.findall((ROOT / page).read_text())]
    lines = "\n".join(blocks).splitlines()
    return [line.split("  #")[0].strip() for line in lines]


@pytest.fixture(scope="module")
def readme_project(project: Path, prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project, as after a clone and `make run`: committed are another machine's results.

    Of these no cache here holds the models. (Their hashes are a digit short: git may take a file for unchanged that
    gets other content of the same size within a second.) The Prefect server has no pool and no
    deployment, whatever ran on it before.
    """
    for each in httpx.post(f"{prefect_api}/deployments/filter", json={}, timeout=HANGS).json():
        httpx.delete(f"{prefect_api}/deployments/{each['id']}", timeout=HANGS).raise_for_status()
    assert httpx.delete(f"{prefect_api}/work_pools/local", timeout=HANGS).status_code in (204, 404)
    folder = shutil.copytree(project, tmp_path_factory.mktemp("readme") / "project", symlinks=True)
    lock = folder / "dvc.lock"
    own = lock.read_text()
    lock.write_text(re.sub(r"(path: models/\w+\n +hash: md5\n +md5: )\w+", rf"\g<1>{'0' * 31}", own))
    assert lock.read_text() != own
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Another machine's results")
    lock.write_text(own)
    return folder


def test_the_walkthrough_prints_what_it_says() -> None:
    found = doctest.testfile(str(ROOT / "docs/walkthrough.md"), module_relative=False)
    assert found.attempted > 40
    assert found.failed == 0


def test_the_pages_have_these_commands() -> None:
    commands = _commands()
    assert len(commands) > 10
    assert {*TESTED_ELSEWHERE, *SERVERS} <= set(commands)


@pytest.mark.parametrize("command", [c for c in _commands() if c not in TESTED_ELSEWHERE and c not in SERVERS])
def test_a_command_ends_well(command: str, readme_project: Path, prefect_api: str) -> None:
    someone = {f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    variables = environment(PREFECT_API_URL=prefect_api, **someone)
    for written, meant in SHORTENED.items():
        command = command.replace(written, meant)
    done = subprocess.run(
        command,
        shell=True,
        cwd=readme_project,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for key, value in re.findall(r"-S (\S+)=(\d+)", command):
        found = yaml.safe_load((readme_project / "params.yaml").read_text())
        for part in key.split("."):
            found = found[part]
        assert found == int(value), key


def _post(url: str, body: dict) -> httpx.Response | None:
    try:
        return httpx.post(url, json=body, timeout=120)
    except httpx.TransportError:
        return None


@pytest.mark.parametrize("command", SERVERS)
def test_a_server_answers(command: str, readme_project: Path, prefect_api: str) -> None:
    variables = environment(PREFECT_API_URL=prefect_api)
    server = subprocess.Popen(command.split(), cwd=readme_project, env=variables, process_group=0)
    try:
        deadline = time.monotonic() + HANGS
        if SERVERS[command] is None:
            workers = f"{prefect_api}/work_pools/local/workers/filter"
            while not (found := httpx.post(workers, json={}, timeout=HANGS).json()) and time.monotonic() < deadline:
                time.sleep(0.5)
            assert [each["status"] for each in found] == ["ONLINE"]
            return
        url, column = SERVERS[command]
        said = pd.read_csv(readme_project / "reports/evaluation/classifier/evidence/predictions.csv")
        raw = [json.loads((readme_project / "data/raw/emails" / name).read_text())["text"] for name in said["id"]]
        body = {"dataframe_records": [{"message": text} for text in raw]}
        while not (answer := _post(url, body)) and time.monotonic() < deadline:
            time.sleep(0.5)
        answered = pd.DataFrame(answer.json()["predictions"])
        assert answered[column].tolist() == said["predicted"].tolist()
        assert answered["spam_probability"].tolist() == pytest.approx(said["spam_probability"].tolist(), abs=1e-4)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=120)
