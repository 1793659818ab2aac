import subprocess
import warnings
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.entities.model_registry import ModelVersion
from projects import git

from tasks.registry.record import Record, write_record
from tasks.registry.tracking import configure_tracking
from tasks.review.changes import changes, evaluated_rows, made_from, splits
from tasks.stages.hashes import Hashes

pytestmark = pytest.mark.usefixtures("mlflow_store")


def version(number: str, params: dict[str, object] | None = None, rows: int = 0, **given: object) -> ModelVersion:
    """A version with parameters, splits of so many rows, and a record with a `commit`, `deps` and `outs`."""
    configure_tracking()
    with mlflow.start_run() as run, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.log_params(params or {})
        for split in ("test", "train") if rows else ():
            table = pd.DataFrame({"text": ["a"] * rows})
            mlflow.log_input(mlflow.data.from_pandas(table, name="emails", digest=f"{split}{rows}"), context=split)
    hashes = Hashes({}, given.get("deps", {}), given.get("outs", {}))
    write_record(run.info.run_id, Record("register", hashes, {"git.commit": given.get("commit", "none")}))
    return ModelVersion("threestage-classifier", number, 0, run_id=run.info.run_id)


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
    found = changes(version("2", commit=commits[2]), version("1", commit=commits[0]))
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
    found = changes(version("2", commit=commits[0]), version("1", commit=before or commits[0]))
    assert found.code.startswith(said)
    assert not Path("x").exists()
    assert found.commits == []


def test_hashes_that_differ_are_shown_and_those_that_do_not_are_not(commits):
    made, learned = "models/classifier", "data/processed/emails"
    challenger = version("2", deps={learned: "d1"}, outs={made: "m2"})
    champion = version("1", deps={learned: "d1"}, outs={made: "m1"})
    assert made_from(challenger) == {"from data/processed/emails": "d1", "made models/classifier": "m2"}
    assert changes(challenger, champion).data == [("made models/classifier", "m1", "m2")]
    assert changes(challenger, version("1")).data[0] == ("from data/processed/emails", "-", "d1")


def test_parameters_and_splits_that_differ_are_those_of_the_versions_runs():
    before, after = (version("1", {"train.steps": steps, "train.seed": 1}, rows) for steps, rows in ((900, 3), (20, 4)))
    found = changes(after, before)
    assert found.parameters == [("train.steps", "900", "20")]
    assert splits(after) == {"test": "4 rows, test4", "train": "4 rows, train4"}
    assert found.data[1] == ("split train", "3 rows, train3", "4 rows, train4")


def test_the_same_test_rows_are_the_same_split_and_the_same_other_data():
    def rows(emails: str, mails: str, count: int = 3) -> object:
        deps = {"data/processed/emails": emails, "data/behavioural": mails}
        return evaluated_rows(version("1", rows=count, deps=deps))

    assert rows("a", "a") == rows("b", "a")  # train may differ
    assert rows("a", "a") != rows("a", "b")
    assert rows("a", "a") != rows("a", "a", 4)
    assert rows("a", "b", 0) == {"data/processed/emails": "a", "data/behavioural": "b"}
    assert evaluated_rows(version("1")) is None
