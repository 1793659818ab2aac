"""A model of the real graph, made again from its commit in a fresh clone, which holds no data."""

import json
import shutil
import subprocess
from collections.abc import Callable
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
    outs: dict[str, str] = {}
    for stage in stages:
        outs |= as_hashes(stage).outs
    files = clone.parent / "origin/.dvc/cache/files/md5"

    def cached(md5: str) -> Path:
        return files / md5[:2] / md5[2:]

    for path in paths:
        listing = cached(outs[path])
        for file in json.loads(listing.read_text()):
            cached(file["md5"]).unlink(missing_ok=True)
        listing.unlink()


def test_reproduce_makes_equal_bytes_from_pinned_sources_in_a_fresh_clone(
    clone: Path, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    forget(clone, "data/raw/corpus", "data/processed/corpus")
    origin = clone.parent / "origin"
    md5 = as_hashes(locked_stages(origin / "dvc.lock")["pretrain"]).outs["models/foundation"]
    before = subprocess.check_output(["git", "status", "--porcelain"], cwd=clone)
    registry = f"sqlite:///{origin}/mlflow.db"
    code, output, log = command_line(clone, "reproduce", "foundation@challenger", MLFLOW_TRACKING_URI=registry)
    assert code == 0, output + log[-3000:]
    first, *files = output.splitlines()
    assert first == (
        "identical: fetch@corpus, preprocess@corpus, pretrain made the bytes of models:/threestage-foundation/1 again"
    )
    assert f"  models/foundation: md5 {md5}" in files
    assert subprocess.check_output(["git", "status", "--porcelain"], cwd=clone) == before
    assert len(subprocess.check_output(["git", "worktree", "list"], cwd=clone).splitlines()) == 1
    assert not (clone / "models/foundation").exists()
