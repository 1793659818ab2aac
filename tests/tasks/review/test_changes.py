import subprocess
import warnings
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from projects import git

from tasks.registry.record import Record
from tasks.registry.store import configure_tracking
from tasks.review.changes import Origin, changed, changed_code
from tasks.stages.hashes import Hashes

MADE, LEARNED = "models/classifier", "data/processed/emails"


@pytest.fixture
def commits(tmp_path, monkeypatch) -> list[str]:
    """Three commits of a repository: code, then notes alone, then code with notes."""
    monkeypatch.chdir(tmp_path)
    git(Path(), "init", "--quiet")
    hashes = []
    made = {"First": ["model.py"], "Notes": ["notes.md"], "A *better* one": ["model.py", "tests/a.py"]}
    for subject, files in made.items():
        for name in files:
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(subject)
        git(Path(), "add", "--all")
        git(Path(), "commit", "--quiet", f"--message={subject}")
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        hashes.append(done.stdout.strip())
    return hashes


def test_commits_between_two_versions_are_named_and_their_files_of_code_counted(commits):
    listed, code = changed_code(commits[0], commits[2])
    assert listed == [f"{commits[2][:7]} A *better* one", f"{commits[1][:7]} Notes"]
    assert code == f"`git diff {commits[0][:10]} {commits[2][:10]}` shows 1 changed files of code."
    for before, sentence in (
        (commits[2], "The same commit."),
        ("none", f"Not both commits are known: none and {commits[2]}."),
        ("0" * 40, "This repository lacks 0000000000 or "),
        ("--output=x", "Not both commits are known: --output=x and "),
    ):
        listed, code = changed_code(before, commits[2])
        assert code.startswith(sentence)
        assert listed == []
    assert not Path("x").exists()


def origin_of(md5: str) -> Origin:
    """The record of a version, with this hash of its weights."""
    hashes = Hashes({}, {LEARNED: "d1"}, {MADE: md5})
    return Origin(None, Record("register", hashes, {}))


def test_hashes_that_differ_are_shown_and_those_that_do_not_are_not():
    before = origin_of("a")
    after = origin_of("b")
    assert after.data == {f"from {LEARNED}": "d1", f"made {MADE}": "b"}
    assert changed(before.data, after.data) == [(f"made {MADE}", "a", "b")]
    assert changed({}, after.data)[0] == (f"from {LEARNED}", "-", "d1")


def test_parameters_and_test_rows_are_those_of_the_versions_run(mlflow_store):
    def origin(rows: int, emails: str = "a", mails: str = "a") -> Origin:
        with mlflow.start_run() as run, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mlflow.log_params({"train.steps": 20})
            for split in ("test", "train") if rows else ():
                table = pd.DataFrame({"text": ["a"] * rows})
                mlflow.log_input(mlflow.data.from_pandas(table, name="emails", digest=f"{split}{rows}"), context=split)
        hashes = Hashes({}, {LEARNED: emails, "data/behavioural": mails}, {})
        return Origin(MlflowClient().get_run(run.info.run_id), Record("register", hashes, {}))

    configure_tracking()
    three = origin(3)
    assert three.parameters == {"train.steps": "20"}
    assert three.test_rows == origin(3, emails="b").test_rows  # train may differ
    assert three.test_rows != origin(3, mails="b").test_rows
    assert three.test_rows != origin(4).test_rows
    assert origin(0, mails="b").test_rows == {LEARNED: "a", "data/behavioural": "b"}
    assert Origin(None, Record("register", Hashes({}, {}, {}), {})).test_rows is None
