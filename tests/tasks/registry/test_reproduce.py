import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from dvc.repo import Repo
from mlflow import MlflowClient
from projects import git
from small_models import ROOT

from llm.errors import UserError
from tasks.registry.record import FILE, RECORD, current_facts
from tasks.registry.register import register_model
from tasks.registry.reproduce import (
    UNCOMMITTED,
    Comparison,
    gather,
    make_again,
    other_machine,
    registered,
    worktree,
)
from tasks.stages.hashes import locked, md5_of
from tests.tasks.registry.conftest import enter

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"
URI = f"models:/{NAME}/1"
WAIT = """\
import os, pathlib, time
if name := os.environ.get("WAIT"):
    pathlib.Path(name).write_text(str(os.getpid()))
    time.sleep(900)
"""


def state() -> dict[str, str]:
    """What git says of this folder, its worktrees and its refs, and the hash of every file but the engines' own."""
    commands = ("status --porcelain", "worktree list", "show-ref --head", "stash list")
    answers = {command: subprocess.check_output(["git", *command.split()], text=True) for command in commands}
    engines = {".git", ".threestage", ".prefect", "tmp", "__pycache__"}  # of .dvc the cache and the settings count
    files = [path for path in Path().rglob("*") if path.is_file() and not engines & {*path.parts}]
    return answers | {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The place for temporary folders."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def version(projects, temporary, monkeypatch) -> str:
    """In a copy of the project with its version, whose path has spaces."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    enter(projects / "registered", temporary.parent / "a project of mine", monkeypatch)
    return URI


def reproduced(uri: str) -> Comparison:
    """Without a Prefect server."""
    return make_again(registered(uri), {})


def repro(*stages: str, force: bool = False) -> None:
    with Repo() as repo:
        repo.reproduce(list(stages) or None, force=force, single_item=bool(stages))


def change_data(model: str) -> None:
    path = Path("made", model, "config.json")
    path.write_text(path.read_text() + "\n")


def change_facts(**facts: str) -> None:
    """Version 1 as if these were facts of its record."""
    path = Path("mlartifacts", MlflowClient().get_model_version(NAME, "1").run_id, "artifacts", RECORD)
    record = FILE.validate_json(path.read_bytes())
    names = {name.replace("__", "."): value for name, value in facts.items()}
    path.write_bytes(FILE.dump_json(replace(record, facts=record.facts | names)))


def commit() -> None:
    """Commit what is here, and let version 1 be made from that."""
    git(Path(), "add --all")
    git(Path(), "commit --quiet --message State")
    change_facts(git__commit=subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip())


def test_reproduce_with_a_corrupt_cache_makes_the_same_bytes_and_leaves_nothing(version, temporary):
    for path in Path(".dvc/cache/files").rglob("*"):
        if path.is_file():  # damaged
            path.chmod(0o644)
            path.write_bytes(path.read_bytes() + b" ")
    before = state()
    result = reproduced(f"models:/{NAME}@challenger")
    assert not result.differs
    assert result.ran == ("pretrain", "finetune@classifier")
    assert f"models/classifier: md5 {locked('finetune@classifier').outs['models/classifier']}" in str(result)
    after = state()
    assert after.keys() <= before.keys(), "nothing goes into the cache; DVC itself drops what is damaged there"
    assert after == {name: before[name] for name in after}
    assert {name for name in before.keys() - after.keys() if not name.startswith(".dvc/cache/")} == set()
    assert list(temporary.iterdir()) == []


def test_reproduce_names_the_first_stage_that_makes_other_bytes_and_why(version):
    shutil.rmtree(".dvc/cache")
    change_data("foundation")
    commit()
    result = reproduced(version)
    assert result.ran == ("pretrain",)
    assert list(result.differs) == ["models/foundation"]
    assert result.reasons == ("made/foundation differs",)
    assert f"pretrain is the first stage that made other bytes than those of {version}" in str(result)


def test_gather_takes_inputs_from_the_remote_or_from_here_if_no_commit_has_them(version):
    change_data("classifier")
    repro()
    uri = f"models:/{NAME}/{register_model('classifier')}"
    then = locked("finetune@classifier").deps
    with Repo() as repo, repo.config.edit("local") as config:
        config["core"]["remote"] = "storage"
        config["remote"]["storage"] = {"url": str(Path("remote").absolute())}
    with Repo() as repo:
        repo.push()
    shutil.rmtree(".dvc/cache")
    Path("params.yaml").write_text("f1: 0.6\n")  # a later state of this folder does not count
    Path("dvc.yaml").unlink()
    recorded = registered(uri)
    with worktree(recorded) as tree:
        assert gather(recorded, tree) == ["finetune@classifier"]
        assert {path: md5_of(tree.project / path) for path in then} == then
    git(Path(), "checkout --quiet made")
    with worktree(recorded) as tree:
        gather(recorded, tree)
        assert md5_of(tree.project / "made/classifier") != then["made/classifier"]


def test_other_machine_names_the_facts_that_differ():
    facts = {"machine.cpu": "Z80", "device": current_facts()["device"]}
    assert other_machine(facts) == [f"machine.cpu was Z80, here it is {current_facts()['machine.cpu']}"]


@pytest.fixture
def dirty(version) -> str:
    """A version made when train.py was not as in its commit and read a file that was in none; in a project that is a
    folder of a larger repository."""
    folder = Path.cwd()
    shutil.move(".git", folder.parent)
    (folder.parent / ".gitignore").write_text("tmp/\n")
    git(Path(), "add --all")
    git(Path(), "commit --quiet --message Larger")
    code = Path("train.py").read_text()
    Path("llm/note.py").write_text('NOTE = "new" \n')
    Path("train.py").write_text(f"# with a note\n{code}\nshutil.copy('llm/note.py', f'models/{{model}}/note')\n")
    repro("finetune@classifier", "evaluate@classifier", force=True)
    uri = f"models:/{NAME}/{register_model('classifier')}"
    Path("train.py").write_text(code)
    Path("llm/note.py").unlink()
    git(Path(), "config apply.whitespace error")
    return uri


def test_worktree_applies_the_uncommitted_diff_or_raises(dirty, temporary, caplog):
    with caplog.at_level(logging.WARNING, logger="tasks.registry.reproduce"), worktree(registered(dirty)) as tree:
        assert (tree.project / "llm/note.py").read_text() == 'NOTE = "new" \n'
        assert (tree.project / "train.py").read_text().startswith("# with a note\n")
    messages = [record.getMessage() for record in caplog.records if record.name == "tasks.registry.reproduce"]
    assert messages == [
        "not in git: train.py, llm/note.py; applied to its commit from lineage/uncommitted.diff of its run"
    ]
    (kept,) = Path("mlartifacts").rglob(UNCOMMITTED)
    kept.write_text("--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-import nothing\n+import all\n")
    with pytest.raises(UserError, match=r"train.py, llm/note.py\), and .* does not apply: git apply: error"):
        reproduced(dirty)
    kept.unlink()
    with pytest.raises(UserError, match=rf"its run has no {UNCOMMITTED}, so it can't be made again"):
        reproduced(dirty)
    assert list(temporary.iterdir()) == []
    assert len(subprocess.check_output(["git", "worktree", "list"]).splitlines()) == 1


def test_registered_error_for_a_missing_commit_and_for_none(version):
    change_facts(git__commit="0" * 40)
    with pytest.raises(UserError, match=rf"^{URI}: this repository has no commit {'0' * 40}; `git fetch --all`"):
        registered(URI)
    change_facts(git__commit="none")
    with pytest.raises(UserError, match=rf"^{URI}: it was registered outside git"):
        registered(URI)


def test_reproduce_that_fails_or_is_terminated_leaves_nothing(version, temporary, prefect_api):
    code = Path("train.py").read_text()
    Path("train.py").write_text(f"raise SystemExit(3)\n{code}")
    commit()
    with pytest.raises(UserError, match=r"^stage finetune@classifier failed; the reason stands above"):
        reproduced(version)
    assert list(temporary.iterdir()) == []

    Path("train.py").write_text(WAIT + code)
    commit()
    before = state()
    begun = temporary / "begun"
    variables = {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect_api, "TMPDIR": str(temporary)}
    running = subprocess.Popen(
        [sys.executable, "-m", "cli", "reproduce", URI],
        env=os.environ | variables | {"WAIT": str(begun)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (begun.exists() and begun.read_text()):
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.05)
        assert len(subprocess.check_output(["git", "worktree", "list"]).splitlines()) == 2
        running.send_signal(signal.SIGTERM)
        errors = running.communicate(timeout=300)[1]
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 143, errors
    assert not psutil.pid_exists(int(begun.read_text()))
    begun.unlink()
    assert list(temporary.iterdir()) == []
    assert state() == before
