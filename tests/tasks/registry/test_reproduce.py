import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import psutil
import pytest
from mlflow import MlflowClient
from projects import git
from small_models import ROOT, challenger, run

from llm.errors import UserError
from tasks.registry.ancestry import STAGES
from tasks.registry.register import register_model
from tasks.registry.reproduce import Attempt, Verdict, why
from tasks.registry.worktree import UNCOMMITTED, registered, worktree
from tasks.stages.hashes import Hashes, locked

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"
URI = f"models:/{NAME}/1"
WEIGHTS = "models/classifier/model.safetensors"
STATE = ("mlflow.db*", ".threestage/", ".prefect/", "mlartifacts/", "tmp/", "remote/")
WAIT = """\
import os, pathlib, time
if name := os.environ.get("WAIT"):
    pathlib.Path(name).write_text(str(os.getpid()))
    time.sleep(900)
"""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def state() -> dict[str, str]:
    """What git says of this folder, its worktrees and its refs, and the hash of every file that is no engine's note."""
    asked = ("status --porcelain", "worktree list", "show-ref --head", "stash list")
    said = {each: subprocess.check_output(["git", *each.split()], text=True) for each in asked}
    kept = {".git", ".threestage", ".prefect", "tmp"}  # of .dvc its cache and settings are looked at
    files = (path for path in Path().rglob("*") if path.is_file() and not kept & {*path.parts})
    return said | {str(path): sha256(path) for path in files}


def commit() -> None:
    git(Path(), "add", "--all")
    git(Path(), "commit", "--quiet", "--message", "A state of it")


@pytest.fixture
def committed(project, tmp_path, monkeypatch) -> None:
    """The project of small models in a commit, and a place for temporary folders that can be looked at."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    Path(".gitignore").write_text("\n".join(STATE))
    commit()


@pytest.fixture
def with_version(committed) -> None:
    """The same with its classifier registered."""
    register_model("classifier")


def reproduced(uri: str = URI) -> Verdict:
    """As the flow does it, without a Prefect server."""
    version = registered(uri)
    with worktree(version) as tree:
        attempt = Attempt(version, tree)
        for stage in attempt.gather():
            attempt.run(stage, {})
            if verdict := attempt.verdict():
                return verdict
    raise AssertionError("no verdict")


def foreseen() -> list[str]:
    version = registered(URI)
    with worktree(version) as tree:
        return Attempt(version, tree).foreseen()


def change_data(model: str) -> None:
    path = Path("made", model, "config.json")
    path.write_text(path.read_text() + "\n")


def test_a_model_comes_out_as_it_was_and_this_folder_stays_as_it_was(with_version):
    before = state()
    verdict = reproduced(f"models:/{NAME}@challenger")
    assert verdict.identical
    assert verdict.ran == ("finetune@classifier",)
    assert f"{WEIGHTS}: sha256 {sha256(Path(WEIGHTS))}" in str(verdict)
    assert state() == before
    assert list(Path("tmp").iterdir()) == []


def test_a_later_state_of_this_folder_does_not_count_and_a_remote_has_what_no_cache_has(with_version):
    run("dvc", "remote", "add", "--local", "--default", "storage", "remote")
    run("dvc", "push", "--quiet")
    change_data("classifier")
    change_data("foundation")
    Path("params.yaml").write_text("f1: 0.6\n")
    commit()
    run("dvc", "repro", "-q")
    shutil.rmtree(".dvc/cache")
    Path("dvc.yaml").unlink()
    before = state()
    verdict = reproduced()
    assert verdict.identical
    assert verdict.ran == ("finetune@classifier",)
    assert state() == before


def test_what_the_cache_has_damaged_is_made_again(with_version):
    for path in Path(".dvc/cache/files").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes() + b" ")
    verdict = reproduced()
    assert verdict.identical
    assert verdict.ran == ("pretrain", "finetune@classifier")


def test_changed_data_is_named_with_its_stage_and_dep(committed):
    change_data("classifier")
    run("dvc", "repro", "-q")
    register_model("classifier")
    then = challenger().tags["threestage.dvc.dep.made/classifier"]
    assert reproduced().identical  # it is in no commit, but here as it was
    git(Path(), "checkout", "--quiet", "made")
    verdict = reproduced()
    assert not verdict.identical
    assert verdict.ran == ("finetune@classifier",)
    assert list(verdict.differs) == ["models/classifier"]
    assert verdict.reasons[0].startswith(f"its dep made/classifier was {then}, here it is ")
    assert len(verdict.reasons) == 1
    assert f"finetune@classifier is the first stage that made other bytes than those of {URI}" in str(verdict)


@pytest.mark.parametrize("known_by", ["the version", "dvc.lock", "a run"])
def test_the_first_stage_that_differs_ends_it_whatever_it_is_known_by(committed, known_by):
    change_data("foundation")
    run("dvc", "repro", "-q")
    pretrain = locked("pretrain")
    register_model("classifier")
    if known_by != "the version":  # as one of before this was written down
        (record,) = Path("mlartifacts").rglob(STAGES)
        record.unlink()
    if known_by != "dvc.lock":
        Path("dvc.lock").unlink()
    if known_by == "a run":
        with mlflow.start_run(tags=pretrain.tags() | {"threestage.dvc.stage": "pretrain"}):
            pass
    git(Path(), "checkout", "--quiet", "made")
    shutil.rmtree(".dvc/cache")
    verdict = reproduced()
    assert verdict.ran == ("pretrain",)
    assert list(verdict.differs) == ["models/foundation"]
    assert verdict.reasons[0].startswith(f"its dep made/foundation was {pretrain.deps['made/foundation']}, here it is ")


def test_a_registry_that_serves_other_bytes_than_its_tags_name_is_caught(with_version):
    (served,) = Path("mlartifacts").rglob(f"artifacts/{WEIGHTS.removeprefix('models/')}")
    served.write_bytes(served.read_bytes()[:-1] + b"\0")
    verdict = reproduced()
    assert verdict.differs == {WEIGHTS: (sha256(served), sha256(Path(WEIGHTS)))}
    assert verdict.reasons == ("the files that the registry serves are not those that its tags name",)


def test_another_library_is_said_before_anything_runs(committed):
    known = '{"torch": "1.0.0", "no-such-library": "3.2"}\n'
    Path("libraries.json").write_text(known)
    commit()
    register_model("classifier")
    shipped = Path(mlflow.pyfunc.get_model_dependencies(challenger().source)).read_text().split()
    (torch,) = (line.removeprefix("torch==") for line in shipped if line.startswith("torch=="))
    assert foreseen() == [
        f"library torch was 1.0.0, here it is {torch}",
        "library no-such-library was 3.2, here it is missing",
    ]
    assert Path("libraries.json").read_text() == known


def test_another_class_of_machine_is_said_before_anything_runs(with_version):
    tags = {"machine.cpu": "Z80", "machine.os": "Linux-2.4.1-mips", "device": "cuda"}
    with mlflow.start_run(tags={f"threestage.{name}": value for name, value in tags.items()}) as training:
        pass
    MlflowClient().set_model_version_tag(NAME, "1", "threestage.training_run", training.info.run_id)
    said = foreseen()
    assert said[0].startswith("cpu was Z80, here it is ")
    assert said[-1] == "device was cuda, here it is cpu"
    assert "python" not in " ".join(said)  # which nobody wrote down


def test_why_names_deps_then_parameters_then_libraries():
    then = Hashes({"torch": "2.12.0", "foundation.train": {"steps": 20, "seed": 1}}, {"data": "a", "llm": "b"}, {})
    now = Hashes({"torch": "2.13.0", "foundation.train": {"steps": 30, "seed": 1}}, {"data": "c", "llm": "b"}, {})
    assert why(then, now) == [
        "its dep data was a, here it is c",
        "parameter foundation.train.steps was 20, here it is 30",
        "library torch was 2.12.0, here it is 2.13.0",
    ]
    assert why(Hashes({}, {"data": "c"}, {}), now) == []  # of which no parameters are known


def test_a_version_that_was_registered_outside_git_is_said(project):
    register_model("classifier")
    with pytest.raises(UserError, match=rf"^{URI}: it was registered outside git"):
        registered(URI)


@pytest.fixture
def dirty(committed):
    """A version that was made when train.py was not as in its commit, and read a file that was in none."""
    code = Path("train.py").read_text()
    Path("header.py").write_text('HEADER = "step,nats"\n')
    Path("train.py").write_text("from header import HEADER\n" + code.replace('"step,loss"', "HEADER"))
    run("dvc", "repro", "-q", "--force")
    register_model("classifier")
    Path("train.py").write_text(code)
    Path("header.py").unlink()


def test_what_was_not_in_its_commit_is_applied_and_said(dirty, caplog):
    with caplog.at_level(logging.WARNING, logger="tasks"):
        assert reproduced().identical
    assert "not in git: code, train.py, header.py; applied to its commit from lineage/uncommitted.diff" in caplog.text
    assert not Path("header.py").exists()


def test_a_dirty_version_whose_diff_does_not_apply_or_is_not_kept_is_said_and_leaves_nothing(dirty):
    (kept,) = Path("mlartifacts").rglob(UNCOMMITTED)
    kept.write_text("--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-import nothing\n+import all\n")
    with pytest.raises(UserError, match=r"code, train.py, header.py\), and .* doesn't apply to that: git apply: error"):
        reproduced()
    kept.unlink()
    with pytest.raises(UserError, match=rf"its run holds no {UNCOMMITTED}, so it can't be made again"):
        reproduced()
    assert list(Path("tmp").iterdir()) == []
    assert len(subprocess.check_output(["git", "worktree", "list"]).splitlines()) == 1


def test_a_stage_that_fails_is_named(committed):
    Path("train.py").write_text("raise SystemExit(3)\n" + Path("train.py").read_text())
    commit()
    register_model("classifier")
    with pytest.raises(UserError, match=rf"^{URI} can't be made again: stage finetune@classifier failed; the reason"):
        reproduced()
    assert list(Path("tmp").iterdir()) == []


def test_a_commit_that_git_does_not_have_is_said_before_a_server_starts(with_version):
    MlflowClient().set_model_version_tag(NAME, "1", "threestage.git.commit", "0" * 40)
    nobody = {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    command = [sys.executable, "-m", "flows.reproduce", URI]
    done = subprocess.run(command, env=os.environ | nobody, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {URI}: this repository has no commit {'0' * 40}; `git fetch --all`")


def test_a_command_that_is_stopped_leaves_nothing(committed, tmp_path, prefect_api):
    Path("train.py").write_text(WAIT + Path("train.py").read_text())
    commit()
    register_model("classifier")
    before, begun = state(), tmp_path / "tmp/begun"
    variables = {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect_api, "TMPDIR": str(begun.parent)}
    running = subprocess.Popen(
        [sys.executable, "-m", "flows.reproduce", URI],
        env=os.environ | variables | {"WAIT": str(begun)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not (begun.exists() and begun.read_text()):
            assert running.poll() is None, running.stderr.read()
            assert time.monotonic() < deadline
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
    assert list(Path("tmp").iterdir()) == []
    assert state() == before
