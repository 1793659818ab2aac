"""docs/extending.md, done to the letter in a copy: from a table of questions to a version that answers."""

import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from projects import ROOT, git, run

from tasks.stages import dvc

BLOCK = re.compile(r"^```\w+\n# (\S+?)(?:, (\w+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def write_questions(folder: Path) -> None:
    rows = [
        {"question": f"Which number comes after {number} in the row {name}?", "answer": after}
        for name in ("of apples", "of pears", "of plums", "of cars")
        for number, after in pairwise(NUMBERS)
    ]
    pd.DataFrame(rows).to_csv(folder / "questions.csv", index=False)


def changed(folder: Path) -> set[str]:
    """The files of a git checkout that differ from its commit, or are new."""
    done = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return {line[3:] for line in done.stdout.splitlines()}


@pytest.fixture(scope="module")
def extended(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project in which somebody did what the page says, but ran nothing."""
    folder = shutil.copytree(project, tmp_path_factory.mktemp("extended") / "project", symlinks=True)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__", "data"))
    write_questions(folder)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Before")
    parameters = yaml.safe_load((folder / "params.yaml").read_text())
    for name, section, text in BLOCK.findall((ROOT / "docs/extending.md").read_text()):
        if section:
            parameters[section] |= yaml.safe_load(text)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters))
    return folder


def test_new_slices_pass_their_own_tests(extended: Path) -> None:
    tests = ["tests/tasks/data/test_questions.py", "tests/tasks/applications/quiz/test_measure.py"]
    done = run(extended, "pytest", "-p", "no:cacheprovider", "-n0", *tests)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "3 passed" in done.stdout


def test_new_application_is_found_by_graph_evaluation_registry_and_serving(
    extended: Path, prefect_api: str, monkeypatch
) -> None:
    code = changed(extended)
    monkeypatch.chdir(extended)
    stages = ["fetch@questions", "preprocess@questions", "finetune@quiz", "evaluate@quiz"]
    assert list(dvc.stale()) == stages, "nothing else is stale"
    variables = {"PREFECT_API_URL": prefect_api, "PYTHONPATH": str(ROOT / "tests")}
    done = run(extended, "all_stages", *stages, "register", **variables)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert dvc.stale() == {}
    metrics = json.loads((extended / "reports/evaluation/quiz/metrics.json").read_text())
    assert {"accuracy", "baseline_accuracy", "accuracy_gain"} <= metrics.keys()
    mlflow.set_tracking_uri(f"sqlite:///{extended}/mlflow.db")
    version = MlflowClient().get_model_version_by_alias("threestage-quiz", "challenger")
    assert "\n- accuracy: " in version.description
    served = mlflow.pyfunc.load_model("models:/threestage-quiz@challenger")
    answer = served.predict(pd.DataFrame({"instruction": ["Which number comes after two in the row of apples?"]}))
    assert isinstance(answer["output"][0], str)
    touched = changed(extended) - code
    made = {path for path in touched if not path.startswith("reports/") and Path(path).name != ".gitignore"}
    assert made == {"dvc.lock"}
