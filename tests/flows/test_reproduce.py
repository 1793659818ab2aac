"""A model of the real graph, made again from its commit in a fresh clone, which holds no data."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from projects import git, run

from tasks.stages.hashes import as_hashes, locked_stages

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
def clone(project: Path, tmp_path: Path) -> Path:
    """A clone of the finished project, whose data others have pushed."""
    origin = shutil.copytree(project, tmp_path / "origin", symlinks=True)
    git(tmp_path, "clone", "--quiet", str(origin), "clone")
    folder = tmp_path / "clone"
    done = run(folder, "dvc", "remote", "add", "--local", "--default", "storage", str(origin / ".dvc/cache"))
    assert done.returncode == 0, done.stderr
    return folder


def forget(clone: Path, *paths: str) -> None:
    """Let the remote hold nothing of these folders."""
    stages = locked_stages(clone.parent / "origin/dvc.lock").values()
    outs = {path: md5 for stage in stages for path, md5 in as_hashes(stage).outs.items()}
    files = clone.parent / "origin/.dvc/cache/files/md5"
    for md5 in map(outs.__getitem__, paths):
        listing = files / md5[:2] / md5[2:]
        for each in json.loads(listing.read_text()):
            (files / each["md5"][:2] / each["md5"][2:]).unlink(missing_ok=True)
        listing.unlink()


def test_a_model_comes_out_as_it_was_from_pinned_sources(clone: Path, command_line) -> None:
    forget(clone, "data/raw/corpus", "data/processed/corpus")
    origin = clone.parent / "origin"
    md5 = as_hashes(locked_stages(origin / "dvc.lock")["pretrain"]).outs["models/foundation"]
    before = subprocess.check_output(["git", "status", "--porcelain"], cwd=clone)
    registry = f"sqlite:///{origin}/mlflow.db"
    code, said, log = command_line(clone, "reproduce", "foundation@challenger", MLFLOW_TRACKING_URI=registry)
    assert code == 0, said + log[-3000:]
    first, *files = said.splitlines()
    assert first == (
        "identical: fetch@corpus, preprocess@corpus, pretrain made the bytes of models:/threestage-foundation/1 again"
    )
    assert f"  models/foundation: md5 {md5}" in files
    assert "other bytes are to be expected" not in log
    assert subprocess.check_output(["git", "status", "--porcelain"], cwd=clone) == before
    assert len(subprocess.check_output(["git", "worktree", "list"], cwd=clone).splitlines()) == 1
    assert not (clone / "models/foundation").exists()
