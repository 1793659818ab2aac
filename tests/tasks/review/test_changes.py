import subprocess
import warnings
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag
from projects import git

from tasks.registry.tracking import configure_tracking
from tasks.review.changes import changes, hashes, splits

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


def test_commits_between_two_versions_are_named_with_the_code_that_differs(commits):
    found = changes(version("2", **{COMMIT: commits[2]}), version("1", **{COMMIT: commits[0]}))
    assert found.commits == [f"{commits[2][:7]} A *better* one", f"{commits[1][:7]} Notes"]
    assert found.files == ["M model.py"]
    assert found.diff == f"git diff {commits[0][:10]} {commits[2][:10]}"
    assert found.code_unknown == ""


def test_the_same_commit_is_no_change(commits):
    found = changes(version("2", **{COMMIT: commits[0]}), version("1", **{COMMIT: commits[0]}))
    assert (found.commits, found.files, found.code_unknown) == ((), (), "")


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("none", "of one of the two no git commit is known"),
        ("0" * 40, "this repository does not hold both 0000000000 and "),
        ("--output=x", "--output=x or "),
    ],
)
def test_commits_that_are_not_known_here_are_said(commits, before, said):
    found = changes(version("2", **{COMMIT: commits[0]}), version("1", **{COMMIT: before}))
    assert found.code_unknown.startswith(said)
    assert not Path("x").exists()
    assert found.commits == ()


def test_hashes_that_differ_and_those_that_do_not_stand_side_by_side(commits):
    made, learned = "threestage.dvc.out.models/classifier", "threestage.dvc.dep.data/processed/emails"
    challenger = version("2", **{made: "m2", learned: "d1", "a": "b"})
    champion = version("1", **{made: "m1", learned: "d1"})
    assert hashes(challenger) == {"dep: data/processed/emails": "d1", "out: models/classifier": "m2"}
    assert changes(challenger, champion).data == [
        ("dep: data/processed/emails", "d1", "d1"),
        ("out: models/classifier", "m1", "m2"),
    ]
    assert changes(challenger, version("1")).data[0] == ("dep: data/processed/emails", "-", "d1")


def run_with(params: dict[str, object], rows: int | None = None) -> str:
    with mlflow.start_run() as run, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.log_params(params)
        if rows:
            table = pd.DataFrame({"text": ["a"] * rows})
            mlflow.log_input(mlflow.data.from_pandas(table, name="emails", digest=f"digest{rows}"), context="train")
    return run.info.run_id


@pytest.mark.slow
def test_parameters_that_differ_are_those_of_the_versions_runs(mlflow_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configure_tracking()
    before, after = (
        run_with({"train.steps": 900, "train.seed": 1}, 3),
        run_with({"train.steps": 20, "train.seed": 1}, 4),
    )
    found = changes(version("2", after), version("1", before))
    assert (found.parameters, found.parameters_unknown) == ([("train.steps", "900", "20")], "")
    assert splits(version("2", after)) == {"train": ("4 rows,", "digest4")}
    assert found.data == [("split: train", "3 rows, digest3", "4 rows, digest4")]
    empty = run_with({})
    found = changes(version("2", after), version("1", empty))
    assert (found.parameters, found.parameters_unknown) == ([], "the runs of the two do not both say them")
    trained = {"threestage.training_run": before}
    found = changes(version("2", empty, **{"threestage.training_run": after}), version("1", empty, **trained))
    assert found.parameters == [("train.steps", "900", "20")]  # versions from before their own runs had any
    MlflowClient().delete_run(after)
    assert changes(version("2", after), version("1", before)).parameters == [("train.steps", "900", "20")]
