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
from pathlib import Path

import mlflow
import psutil
import pytest
from mlflow import MlflowClient
from prefect.settings import PREFECT_API_URL, temporary_settings
from projects import git
from small_models import ROOT, run

from llm.device import EAGER, choose_compute
from llm.errors import UserError
from llm.model.int8 import has_fast_int8
from llm.training.compiled import can_learn_in_c, compiled_by, cpp_compiler
from tasks.registry.ancestry import STAGES
from tasks.registry.register import register_model
from tasks.registry.reproduce import Attempt
from tasks.registry.tracking import configure_tracking
from tasks.registry.uncommitted import LEFT_OUT
from tasks.registry.verdict import Verdict
from tasks.registry.worktree import UNCOMMITTED, Worktree, registered, worktree
from tasks.stages.hashes import locked

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
    # Of .dvc its cache and settings are looked at; Python's own cache comes and goes with what is imported.
    kept = {".git", ".threestage", ".prefect", "tmp", "__pycache__"}
    files = (path for path in Path().rglob("*") if path.is_file() and not kept & {*path.parts})
    return said | {str(path): sha256(path) for path in files}


def commit() -> None:
    git(Path(), "add", "--all")
    git(Path(), "commit", "--quiet", "--message", "A state of it")


def register() -> str:
    """Make what is here a version; where it is."""
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
def attempted(uri: str = URI) -> Iterator[tuple[Attempt, Verdict]]:
    """As the flow does it, without a Prefect server, while its worktree is there."""
    version = registered(uri)
    with worktree(version) as tree:
        attempt = Attempt(version, tree)
        for stage in attempt.gather():
            attempt.run(stage, {})
            if verdict := attempt.verdict():
                break
        yield attempt, verdict


def reproduced(uri: str = URI) -> Verdict:
    with attempted(uri) as (_, verdict):
        return verdict


def foreseen(uri: str = URI) -> list[str]:
    version = registered(uri)
    with worktree(version) as tree:
        return Attempt(version, tree).foreseen()


def change_data(model: str) -> None:
    path = Path("made", model, "config.json")
    path.write_text(path.read_text() + "\n")


def test_a_model_comes_out_as_it_was_and_a_registry_that_serves_other_bytes_is_caught(with_version, temporary):
    before = state()
    with attempted(f"models:/{NAME}@challenger") as (attempt, verdict):
        assert verdict.identical
        assert verdict.ran == ("finetune@classifier",)
        assert f"{WEIGHTS}: sha256 {sha256(Path(WEIGHTS))}" in str(verdict)
        assert state() == before | {"worktree list": state()["worktree list"]}

        (served,) = Path("mlartifacts").rglob(f"artifacts/{WEIGHTS.removeprefix('models/')}")
        kept = served.read_bytes()
        served.write_bytes(kept[:-1] + b"\0")
        verdict = attempt.verdict()
        assert verdict.differs == {WEIGHTS: (sha256(served), sha256(Path(WEIGHTS)))}
        assert verdict.reasons == ("the files that the registry serves are not those that its tags name",)
        served.write_bytes(kept)
    assert state() == before
    assert list(temporary.iterdir()) == []


def test_data_that_is_in_no_commit_is_taken_from_here_and_once_it_is_changed_named_with_its_stage(with_version):
    change_data("classifier")
    run("dvc", "repro", "-q")
    uri = register()
    then = MlflowClient().get_model_version(NAME, "2").tags["threestage.dvc.dep.made/classifier"]
    run("dvc", "remote", "add", "--local", "--default", "storage", "remote")
    run("dvc", "push", "--quiet")
    shutil.rmtree(".dvc/cache")  # what the training read the remote has
    Path("params.yaml").write_text("f1: 0.6\n")  # a later state of this folder does not count
    Path("dvc.yaml").unlink()
    before = state()
    verdict = reproduced(uri)
    assert verdict.identical
    assert verdict.ran == ("finetune@classifier",)
    assert state() == before
    git(Path(), "checkout", "--quiet", "made")
    verdict = reproduced(uri)
    assert not verdict.identical
    assert verdict.ran == ("finetune@classifier",)
    assert list(verdict.differs) == ["models/classifier"]
    assert verdict.reasons[0].startswith(f"its dep made/classifier was {then}, here it is ")
    assert len(verdict.reasons) == 1
    assert f"finetune@classifier is the first stage that made other bytes than those of {uri}" in str(verdict)


def test_what_the_cache_has_damaged_is_made_again(with_version):
    for path in Path(".dvc/cache/files").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes() + b" ")
    verdict = reproduced()
    assert verdict.identical
    assert verdict.ran == ("pretrain", "finetune@classifier")


def test_data_that_was_added_to_dvc_is_there_where_it_may_be_read_again(with_version):
    Path("own.csv").write_text("ham,hello\n")
    run("dvc", "add", "--quiet", "own.csv")
    commit()
    at_this_commit()
    foundation = locked("pretrain").outs["models/foundation"]
    (listing,) = Path(".dvc/cache/files").rglob(foundation[2:])
    listing.unlink()
    version = registered(URI)
    with worktree(version) as tree:
        assert not (tree.project / "own.csv").exists()
        assert Attempt(version, tree).gather() == ["pretrain", "finetune@classifier"]
        assert (tree.project / "own.csv").read_text() == "ham,hello\n"


def test_the_first_stage_that_differs_ends_it_whatever_it_is_known_by(with_version):
    change_data("foundation")
    change_data("classifier")  # else it is version 1
    run("dvc", "repro", "-q")
    pretrain = locked("pretrain")
    uri = register()
    git(Path(), "checkout", "--quiet", "made")
    shutil.rmtree(".dvc/cache")

    def check(verdict: Verdict) -> None:
        assert verdict.ran == ("pretrain",)
        assert list(verdict.differs) == ["models/foundation"]
        reason = f"its dep made/foundation was {pretrain.deps['made/foundation']}, here it is "
        assert verdict.reasons[0].startswith(reason)

    def asked_again(tree: Worktree) -> Verdict:
        attempt = Attempt(registered(uri), tree)
        assert attempt.gather() == ["pretrain", "finetune@classifier"]
        attempt.ran.append("pretrain")
        return attempt.verdict()

    with attempted(uri) as (attempt, verdict):
        check(verdict)  # by what was written down with the version
        tree = Worktree(attempt.project, attempt.project.parent)
        for record in Path("mlartifacts").rglob(STAGES):  # as in one of before this was done
            record.unlink()
        check(asked_again(tree))  # by dvc.lock
        Path("dvc.lock").unlink()
        with mlflow.start_run(tags=pretrain.tags() | {"threestage.dvc.stage": "pretrain"}):
            pass
        check(asked_again(tree))  # by a run


def test_another_library_is_said_before_anything_runs(with_version):
    known = '{"torch": "1.0.0", "no-such-library": "3.2"}\n'
    Path("libraries.json").write_text(known)
    commit()
    at_this_commit()
    shipped = Path(mlflow.pyfunc.get_model_dependencies(URI)).read_text().split()
    (torch,) = (line.removeprefix("torch==") for line in shipped if line.startswith("torch=="))
    assert foreseen() == [
        f"library torch was 1.0.0, here it is {torch}",
        "library no-such-library was 3.2, here it is missing",
    ]
    assert Path("libraries.json").read_text() == known


def at_this_commit() -> None:
    """Version 1 as if it had been made here and now."""
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    MlflowClient().set_model_version_tag(NAME, "1", "threestage.git.commit", head)


def foreseen_of(tags: dict[str, str]) -> list[str]:
    """What is foreseen of a version whose training has these tags."""
    with mlflow.start_run(tags={f"threestage.{name}": value for name, value in tags.items()}) as training:
        pass
    MlflowClient().set_model_version_tag(NAME, "1", "threestage.training_run", training.info.run_id)
    return foreseen()


def test_another_class_of_machine_is_said_before_anything_runs(with_version):
    said = foreseen_of({"machine.cpu": "Z80", "machine.os": "Linux", "device": "cuda", "blocks": "compiled by g++ 1.0"})
    assert said[0].startswith("cpu was Z80, here it is ")
    here = compiled_by(compiler) if (compiler := cpp_compiler()) else EAGER
    assert said[-2:] == ["device was cuda, here it is cpu", f"blocks was compiled by g++ 1.0, here it is {here}"]
    assert "python" not in " ".join(said)  # which nobody wrote down


@pytest.mark.parametrize(
    "blocks",
    [
        EAGER,
        f"{EAGER}, attention and loss and Muon in C, logits in 8 bits",
        "compiled, attention in C",
        "compiled, products in 8 bits",
        "compiled, attention and loss in C, logits and products in 8 bits",
    ],
)
def test_what_parameters_asked_for_is_expected_where_this_machine_has_it(with_version, blocks):
    compute, compiler = choose_compute(), cpp_compiler()
    has = {"compiled": compiler is not None, "in C": can_learn_in_c(compute), "8 bits": has_fast_int8(compute.device)}
    then = blocks.replace("compiled", compiled_by(compiler or "g++"))
    said = [each for each in foreseen_of({"device": str(compute.device), "blocks": then}) if "blocks" in each]
    assert bool(said) == any(asked in blocks and not here for asked, here in has.items())
    assert all(each.startswith(f"blocks was {then}, here it is ") for each in said)


def test_a_version_that_was_registered_outside_git_is_said(with_version):
    MlflowClient().set_model_version_tag(NAME, "1", "threestage.git.commit", "none")
    with pytest.raises(UserError, match=rf"^{URI}: it was registered outside git"):
        registered(URI)


@pytest.fixture
def dirty(with_version, monkeypatch) -> str:
    """A version that was made when train.py was not as in its commit, and read a file that was in none; in a project
    that is a folder of a larger repository."""
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


def test_what_was_not_in_its_commit_is_applied_and_said(dirty, caplog):
    with caplog.at_level(logging.WARNING, logger="tasks"):
        assert reproduced(dirty).identical
    assert "not in git: code, train.py, note.py; applied to its commit from lineage/uncommitted.diff" in caplog.text
    assert not Path("note.py").exists()


def test_a_dirty_version_whose_diff_does_not_apply_or_is_not_kept_is_said_and_leaves_nothing(dirty, temporary):
    (kept,) = Path("mlartifacts").rglob(UNCOMMITTED)
    kept.write_text("--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-import nothing\n+import all\n")
    with pytest.raises(UserError, match=r"code, train.py, note.py\), and .* doesn't apply to that: git apply: error"):
        reproduced(dirty)
    kept.unlink()
    with pytest.raises(UserError, match=rf"its run holds no {UNCOMMITTED}, so it can't be made again"):
        reproduced(dirty)
    assert list(temporary.iterdir()) == []
    assert len(subprocess.check_output(["git", "worktree", "list"]).splitlines()) == 1


def test_what_its_diff_leaves_out_is_a_reason_to_expect_other_bytes(with_version):
    MlflowClient().set_model_version_tag(NAME, "1", "threestage.git.dirty.code", "true")
    said = f"not in git: {LEFT_OUT}, data/large.jsonl; code, data/large.jsonl, train.py"
    MlflowClient().set_model_version_tag(NAME, "1", "threestage.git.dirty.params", said)
    (record,) = Path("mlartifacts").rglob(STAGES)
    record.with_name(Path(UNCOMMITTED).name).write_text("--- /dev/null\n+++ b/note.py\n@@ -0,0 +1 @@\n+# a line\n")
    assert foreseen() == ["not in git, and too large or binary to be kept with it: data/large.jsonl"]


def test_a_stage_that_fails_is_named(with_version, temporary):
    Path("train.py").write_text("raise SystemExit(3)\n" + Path("train.py").read_text())
    commit()
    at_this_commit()
    with pytest.raises(UserError, match=rf"^{URI} can't be made again: stage finetune@classifier failed; the reason"):
        reproduced()
    assert list(temporary.iterdir()) == []


def test_a_commit_that_git_does_not_have_is_said_before_a_server_starts(with_version, stage_line):
    MlflowClient().set_model_version_tag(NAME, "1", "threestage.git.commit", "0" * 40)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        code, said = stage_line(with_version, f"reproduce@{URI}")
    assert code == 2, said
    assert said.startswith(f"error: {URI}: this repository has no commit {'0' * 40}; `git fetch --all`")


def test_one_that_was_killed_is_tidied_up_by_the_next_but_not_one_that_still_runs(with_version, temporary):
    before, version = state(), registered(URI)
    if not (child := os.fork()):
        try:
            with worktree(version):
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    (abandoned,) = temporary.iterdir()
    with worktree(version) as first:
        assert list(temporary.iterdir()) == [first.scratch]
        assert first.scratch != abandoned
        with worktree(version):
            assert first.project.exists()
    assert list(temporary.iterdir()) == []
    assert state() == before


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
    assert list(temporary.iterdir()) == []
    assert state() == before
