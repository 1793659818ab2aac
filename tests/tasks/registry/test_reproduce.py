import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from projects import git
from small_models import ROOT, run

from llm.errors import UserError
from tasks.registry.record import FILE, RECORD, current_facts
from tasks.registry.register import register_model
from tasks.registry.reproduce import (
    UNCOMMITTED,
    Comparison,
    Registered,
    compare,
    expected_differences,
    gather,
    registered,
    why,
    worktree,
)
from tasks.registry.tracking import configure_tracking
from tasks.registry.worktree import Worktree
from tasks.stages.hashes import Hashes, locked

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"
URI = f"models:/{NAME}/1"
STATE = ("mlflow.db*", ".threestage/", ".prefect/", "mlartifacts/", "tmp/", "remote/")
WAIT = """\
import os, pathlib, time
if name := os.environ.get("WAIT"):
    pathlib.Path(name).write_text(str(os.getpid()))
    time.sleep(900)
"""


def state() -> dict[str, str]:
    """What git says of this folder, its worktrees and its refs, and the hash of every file but the engines' own."""
    asked = ("status --porcelain", "worktree list", "show-ref --head", "stash list")
    said = {each: subprocess.check_output(["git", *each.split()], text=True) for each in asked}
    kept = {".git", ".threestage", ".prefect", "tmp", "__pycache__"}  # of .dvc the cache and the settings count
    files = (path for path in Path().rglob("*") if path.is_file() and not kept & {*path.parts})
    return said | {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def commit() -> None:
    git(Path(), "add", "--all")
    git(Path(), "commit", "--quiet", "--message", "A state of it")


def register() -> str:
    """Make what is here a version; its URI."""
    return f"models:/{NAME}/{register_model('classifier')}"


@pytest.fixture(scope="module")
def registered_folder(ran, tmp_path_factory) -> Path:
    """The project of small models in a commit, with its classifier registered."""
    folder = shutil.copytree(ran, tmp_path_factory.mktemp("registered") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        Path(".gitignore").write_text("\n".join([*STATE, "__pycache__/"]))
        commit()
        register()
    return folder


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The place for temporary folders."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def with_version(registered_folder, temporary, monkeypatch) -> Path:
    """In a copy of the project with its version, whose path has spaces."""
    folder = shutil.copytree(registered_folder, temporary.parent / "a project of mine")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    configure_tracking()  # the store has moved
    return folder


@contextmanager
def reproducing(uri: str = URI) -> Iterator[tuple[Worktree, Comparison]]:
    """As the flow does it, without a Prefect server, while its worktree is there."""
    version, ran = registered(uri), []
    with worktree(version) as tree:
        for stage in gather(version, tree):
            tree.run(stage, {})
            ran.append(stage)
            result = compare(version, tree, ran, [])
            if result.differs:
                break
        yield tree, result


def reproduced(uri: str = URI) -> Comparison:
    with reproducing(uri) as (_, result):
        return result


def change_data(model: str) -> None:
    path = Path("made", model, "config.json")
    path.write_text(path.read_text() + "\n")


def change_facts(**facts: str) -> None:
    """Version 1 as if these were facts of its record: MLflow's client knows where its run was before the copy."""
    path = Path("mlartifacts", MlflowClient().get_model_version(NAME, "1").run_id, "artifacts", RECORD)
    record = FILE.validate_json(path.read_bytes())
    names = {name.replace("__", "."): value for name, value in facts.items()}
    path.write_bytes(FILE.dump_json(replace(record, facts=record.facts | names)))


def at_this_commit() -> None:
    change_facts(git__commit=subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip())


def test_the_same_bytes_are_identical_and_nothing_is_left_behind(with_version, temporary):
    before = state()
    with reproducing(f"models:/{NAME}@challenger") as (tree, result):
        assert not result.differs
        assert result.ran == ("finetune@classifier",)
        assert f"models/classifier: md5 {locked('finetune@classifier').outs['models/classifier']}" in str(result)
        assert state() == before | {"worktree list": state()["worktree list"]}
        assert tree.project.is_relative_to(temporary)
    assert state() == before
    assert list(temporary.iterdir()) == []


def test_a_dep_in_no_commit_is_copied_from_here_and_named_once_it_has_changed(with_version):
    change_data("classifier")
    run("dvc", "repro", "-q")
    uri = register()
    then = locked("finetune@classifier").deps["made/classifier"]
    run("dvc", "remote", "add", "--local", "--default", "storage", "remote")
    run("dvc", "push", "--quiet")
    shutil.rmtree(".dvc/cache")  # what the training read is in the remote alone
    Path("params.yaml").write_text("f1: 0.6\n")  # a later state of this folder does not count
    Path("dvc.yaml").unlink()
    result = reproduced(uri)
    assert not result.differs
    assert result.ran == ("finetune@classifier",)
    git(Path(), "checkout", "--quiet", "made")
    result = reproduced(uri)
    assert result.ran == ("finetune@classifier",)
    assert list(result.differs) == ["models/classifier"]
    (reason,) = result.reasons
    assert reason.startswith(f"its dep made/classifier was {then}, here it is ")
    assert f"finetune@classifier is the first stage that made other bytes than those of {uri}" in str(result)


def test_what_the_cache_lacks_or_has_damaged_is_made_again_up_to_the_first_stage_that_differs(with_version):
    for path in Path(".dvc/cache/files").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes() + b" ")
    result = reproduced()
    assert not result.differs
    assert result.ran == ("pretrain", "finetune@classifier")

    shutil.rmtree(".dvc/cache")
    change_data("foundation")
    commit()
    at_this_commit()
    result = reproduced()
    assert result.ran == ("pretrain",)
    assert list(result.differs) == ["models/foundation"]
    assert result.reasons[0].startswith(f"its dep made/foundation was {locked('pretrain').deps['made/foundation']}, ")


def test_reasons_are_deps_then_parameters_then_libraries():
    then = Hashes({"torch": "2.12.0", "foundation.train": {"steps": 20, "seed": 1}}, {"data": "a", "llm": "b"}, {})
    now = Hashes({"torch": "2.13.0", "foundation.train": {"steps": 30, "seed": 1}}, {"data": "c", "llm": "b"}, {})
    assert why(then, now) == [
        "its dep data was a, here it is c",
        "parameter foundation.train.steps was 20, here it is 30",
        "library torch was 2.12.0, here it is 2.13.0",
    ]


def test_other_libraries_and_another_kind_of_machine_are_expected_to_make_other_bytes():
    entry = {"params": {"libraries.json": {"numpy": "0.0.1"}}}
    facts = {"machine.cpu": "Z80", "device": "cpu"}
    version = Registered(URI, "", "finetune@classifier", "", "", {"finetune@classifier": entry}, facts)
    library, machine = expected_differences(version)
    assert library.startswith("library numpy was 0.0.1, here it is ")
    assert machine == f"cpu was Z80, here it is {current_facts()['machine.cpu']}"


@pytest.fixture
def dirty(with_version) -> str:
    """A version made when train.py was not as in its commit and read a file that was in none; in a project that is a
    folder of a larger repository."""
    shutil.move(".git", with_version.parent)
    Path(with_version.parent, ".gitignore").write_text("tmp/\n")
    commit()
    code = Path("train.py").read_text()
    Path("note.py").write_text('NOTE = "new" \n')
    with_note = f"from note import NOTE\n{code}\npathlib.Path('models', model, 'note').write_text(NOTE)\n"
    Path("train.py").write_text(with_note)
    run("dvc", "repro", "-q", "--force", "--single-item", "finetune@classifier", "evaluate@classifier")
    uri = register()
    Path("train.py").write_text(code)
    Path("note.py").unlink()
    git(Path(), "config", "apply.whitespace", "error")
    return uri


def test_an_uncommitted_diff_is_applied_and_one_that_does_not_apply_or_is_gone_is_an_error(dirty, temporary, caplog):
    with caplog.at_level(logging.WARNING, logger="tasks.registry.reproduce"):
        assert not reproduced(dirty).differs
    messages = [record.getMessage() for record in caplog.records if record.name == "tasks.registry.reproduce"]
    assert messages == ["not in git: train.py, note.py; applied to its commit from lineage/uncommitted.diff of its run"]
    assert not Path("note.py").exists()
    (kept,) = Path("mlartifacts").rglob(UNCOMMITTED)
    kept.write_text("--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-import nothing\n+import all\n")
    with pytest.raises(UserError, match=r"train.py, note.py\), and .* does not apply: git apply: error"):
        reproduced(dirty)
    kept.unlink()
    with pytest.raises(UserError, match=rf"its run has no {UNCOMMITTED}, so it can't be made again"):
        reproduced(dirty)
    assert list(temporary.iterdir()) == []
    assert len(subprocess.check_output(["git", "worktree", "list"]).splitlines()) == 1


def test_a_stage_that_fails_is_named_and_leaves_nothing(with_version, temporary):
    Path("train.py").write_text("raise SystemExit(3)\n" + Path("train.py").read_text())
    commit()
    at_this_commit()
    with pytest.raises(UserError, match=r"^stage finetune@classifier failed; the reason stands above"):
        reproduced()
    assert list(temporary.iterdir()) == []


def test_a_commit_that_git_does_not_have_and_none_at_all_are_errors(with_version):
    change_facts(git__commit="0" * 40)
    with pytest.raises(UserError, match=rf"^{URI}: this repository has no commit {'0' * 40}; `git fetch --all`"):
        registered(URI)
    change_facts(git__commit="none")
    with pytest.raises(UserError, match=rf"^{URI}: it was registered outside git"):
        registered(URI)


def test_a_command_that_is_stopped_leaves_nothing(with_version, temporary, prefect_api):
    Path("train.py").write_text(WAIT + Path("train.py").read_text())
    commit()
    at_this_commit()
    before, begun = state(), temporary / "begun"
    variables = {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect_api, "TMPDIR": str(temporary)}
    running = subprocess.Popen(
        [sys.executable, "-m", "flows.reproduce", URI],
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
        said = running.communicate(timeout=300)[1]
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 143, said
    assert not psutil.pid_exists(int(begun.read_text()))
    begun.unlink()
    assert list(temporary.iterdir()) == []
    assert state() == before
