import subprocess
import warnings
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag
from projects import git

from tasks.registry.tracking import configure_tracking
from tasks.review.changes import changes, evaluated_rows, made_from, splits

COMMIT = "threestage.git.commit"


def version(number: str, run_id: str | None = None, **tags: str) -> ModelVersion:
    given = [ModelVersionTag(name, value) for name, value in tags.items()]
    return ModelVersion("threestage-classifier", number, 0, run_id=run_id, tags=given)


@pytest.fixture
def commits(tmp_path, monkeypatch) -> list[str]:
    """Three commits of a repository: code, then notes alone, then code with notes."""
    monkeypatch.chdir(tmp_path)
    git(Path(), "init", "--quiet")
    found = []
    made = {"First": ["model.py"], "Notes": ["notes.md"], "A *better* one": ["model.py", "tests/a.py"]}
    for subject, files in made.items():
        for name in files:
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(subject)
        git(Path(), "add", "--all")
        git(Path(), "commit", "--quiet", "--message", subject)
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        found.append(done.stdout.strip())
    return found


def test_commits_between_two_versions_are_named_and_their_files_of_code_counted(commits):
    found = changes(version("2", **{COMMIT: commits[2]}), version("1", **{COMMIT: commits[0]}))
    assert found.commits == [f"{commits[2][:7]} A *better* one", f"{commits[1][:7]} Notes"]
    assert found.code == f"`git diff {commits[0][:10]} {commits[2][:10]}` shows 1 changed files of code."


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (None, "The same commit."),
        ("none", "none or "),
        ("0" * 40, "This repository lacks 0000000000 or "),
        ("--output=x", "--output=x or "),
    ],
)
def test_commits_that_are_the_same_or_not_known_here_are_said(commits, before, said):
    found = changes(version("2", **{COMMIT: commits[0]}), version("1", **{COMMIT: before or commits[0]}))
    assert found.code.startswith(said)
    assert not Path("x").exists()
    assert found.commits == []


def test_hashes_that_differ_are_shown_and_those_that_do_not_are_not(commits):
    made, learned = "threestage.dvc.out.models/classifier", "threestage.dvc.dep.data/processed/emails"
    challenger = version("2", **{made: "m2", learned: "d1", "a": "b"})
    champion = version("1", **{made: "m1", learned: "d1"})
    assert made_from(challenger) == {"from data/processed/emails": "d1", "made models/classifier": "m2"}
    assert changes(challenger, champion).data == [("made models/classifier", "m1", "m2")]
    assert changes(challenger, version("1")).data[0] == ("from data/processed/emails", "-", "d1")


def run_with(params: dict[str, object], rows: int) -> str:
    with mlflow.start_run() as run, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.log_params(params)
        for split in ("test", "train"):
            table = pd.DataFrame({"text": ["a"] * rows})
            mlflow.log_input(mlflow.data.from_pandas(table, name="emails", digest=f"{split}{rows}"), context=split)
    return run.info.run_id


@pytest.mark.slow
def test_parameters_and_splits_that_differ_are_those_of_the_versions_runs(mlflow_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configure_tracking()
    before = version("1", run_with({"train.steps": 900, "train.seed": 1}, 3))
    after = version("2", run_with({"train.steps": 20, "train.seed": 1}, 4))
    found = changes(after, before)
    assert found.parameters == [("train.steps", "900", "20")]
    assert splits(after) == {"test": "4 rows, test4", "train": "4 rows, train4"}
    assert found.data[1] == ("split train", "3 rows, train3", "4 rows, train4")
    assert evaluated_rows(before) != evaluated_rows(after)


@pytest.mark.slow
def test_the_same_test_rows_are_the_same_split_and_the_same_other_data(mlflow_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configure_tracking()
    run, data, mails = (
        run_with({}, 3),
        "threestage.dvc.dep.data/processed/emails",
        "threestage.dvc.dep.data/behavioural",
    )
    rows = [evaluated_rows(version("1", run, **{data: one, mails: other})) for one, other in ("aa", "ba", "ab")]
    assert rows[0] == rows[1] != rows[2]  # train may differ, hand-written mails may not
    assert evaluated_rows(version("1")) is None
    assert evaluated_rows(version("1", **{data: "a"})) == {"data/processed/emails": "a"}
