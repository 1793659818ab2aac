"""The commands of README.md, docs/pipeline.md and docs/schedule.md do what these say, in a project of small size."""

import doctest
import json
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import httpx
import pandas as pd
import pytest
from projects import ROOT, environment, git
from real_servers import wait_for

COMMAND_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = ("README.md", "docs/pipeline.md", "docs/schedule.md")
TESTED_ELSEWHERE = {
    "make run": "by a fresh clone",
    "make test": "by the command that runs this test",
    "make serve": "by tests/app",
    "dvc repro evaluate@classifier": "a part of `dvc repro`",
    "threestage run classifier": "as `threestage run foundation`",
    "threestage run assistant --set applications.assistant.train.steps=300": "as `threestage run foundation`",
    "dvc gc --workspace --all-branches --all-tags": "asks a person first",
    "python -m flows.finetune classifier": "by tests/all_stages.py",
    "prefect work-pool create local --type process": "by tests/flows/test_retrain.py",
    "prefect --no-prompt deploy --all": "by tests/flows/test_retrain.py",
    "prefect worker start --pool local": "by tests/flows/test_retrain.py",
    "THREESTAGE_RAY=local THREESTAGE_WORKERS=2 dvc repro pretrain": "by tests/tasks/training/test_ray.py",
}
SERVING = "mlflow models serve --model-uri models:/threestage-classifier@challenger --env-manager local --port 5001"
SHORTENED = {"train.steps=200": "train.steps=8", "steps: 200$": "steps: 8$", "COMMIT": "HEAD"}


def _blocks() -> list[list[str]]:
    """The commands of each shell block of the pages that are tested here, without their comments."""
    blocks: list[list[str]] = []
    for page in PAGES:
        for text in COMMAND_BLOCK.findall((ROOT / page).read_text()):
            commands = [line.split("  #")[0].strip() for line in text.splitlines()]
            blocks.append([command for command in commands if command not in {*TESTED_ELSEWHERE, SERVING, ""}])
    return [block for block in blocks if block]


@pytest.fixture(scope="module")
def readme_project(project: Path, prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project, as after a clone and `make run`: committed are another machine's results.

    Of these no cache here holds the models. (Their hashes are a digit short: git may take a file for unchanged that
    gets other content of the same size within a second.)
    """
    folder = shutil.copytree(project, tmp_path_factory.mktemp("readme") / "project", symlinks=True)
    lock = folder / "dvc.lock"
    own = lock.read_text()
    lock.write_text(re.sub(r"(path: models/\w+\n +hash: md5\n +md5: )\w+", rf"\g<1>{'0' * 31}", own))
    assert lock.read_text() != own
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Another machine's results")
    lock.write_text(own)
    return folder


def test_page_prints_what_it_shows(readme_project: Path, monkeypatch) -> None:
    monkeypatch.chdir(readme_project)
    results = doctest.testfile(str(ROOT / "docs/python.md"), module_relative=False)
    assert results.attempted > 20
    assert results.failed == 0


def test_commands_that_are_tested_elsewhere_stand_on_the_pages() -> None:
    texts = "".join((ROOT / page).read_text() for page in PAGES)
    assert [command for command in {*TESTED_ELSEWHERE, SERVING} if command not in texts] == []


@pytest.mark.parametrize("block", _blocks())
def test_commands_of_a_block_end_well(block: list[str], readme_project: Path, prefect_api: str) -> None:
    someone = {f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    variables = environment(PREFECT_API_URL=prefect_api, **someone)
    lines = ["set -e"]
    for command in block:
        lines.append(command)
        for key, value in re.findall(r"--set (\S+)=(\d+)", command):
            lines.append(f"grep --quiet '^ *{key.split('.')[-1]}: {value}$' params.yaml")
    script = "\n".join(lines)
    for written, meant in SHORTENED.items():
        script = script.replace(written, meant)
    done = subprocess.run(
        script, shell=True, cwd=readme_project, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_served_classifier_answers_as_it_was_evaluated(readme_project: Path, prefect_api: str) -> None:
    predictions = pd.read_csv(readme_project / "reports/evaluation/classifier/evidence/predictions.csv")
    raw = [json.loads((readme_project / "data/raw/emails" / name).read_text())["text"] for name in predictions["id"]]
    body = {"dataframe_records": [{"message": text} for text in raw]}
    server = subprocess.Popen(
        SERVING.split(), cwd=readme_project, env=environment(PREFECT_API_URL=prefect_api), process_group=0
    )

    def answer() -> httpx.Response | None:
        assert server.poll() is None
        with suppress(httpx.TransportError):
            return httpx.post("http://127.0.0.1:5001/invocations", json=body, timeout=120)
        return None

    try:
        answered = pd.DataFrame(wait_for(answer).json()["predictions"])
        assert answered["label"].tolist() == predictions["predicted"].tolist()
        assert answered["spam_probability"].tolist() == pytest.approx(
            predictions["spam_probability"].tolist(), abs=1e-4
        )
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=120)
