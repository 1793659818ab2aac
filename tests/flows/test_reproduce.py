"""The three models of the real graph, made again from their commits."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from projects import git, run


@pytest.fixture(scope="module")
def registered_project(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(project, tmp_path_factory.mktemp("registered") / "project", symlinks=True)


def identical(folder: Path, model: str, ran: str, weights: Path, **variables: str) -> None:
    before = subprocess.check_output(["git", "status", "--porcelain"], cwd=folder)
    done = run(folder, "flows.reproduce", f"models:/threestage-{model}@challenger", **variables)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout.splitlines()
    assert said[0] == f"identical: {ran} made the bytes of models:/threestage-{model}/1 again"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert f"  models/{model}/model.safetensors: sha256 {digest}" in said
    assert "other bytes are to be expected" not in done.stderr
    assert subprocess.check_output(["git", "status", "--porcelain"], cwd=folder) == before
    assert len(subprocess.check_output(["git", "worktree", "list"], cwd=folder).splitlines()) == 1


@pytest.mark.parametrize("model", ["classifier", "assistant"])
def test_a_fine_tuned_model_comes_out_as_it_was(registered_project: Path, prefect_api: str, model: str) -> None:
    weights = registered_project / f"models/{model}/model.safetensors"
    identical(registered_project, model, f"finetune@{model}", weights, PREFECT_API_URL=prefect_api)


def test_a_fresh_clone_without_any_data_makes_the_foundation_from_its_pinned_sources(
    registered_project: Path, tmp_path: Path, prefect_api: str
) -> None:
    git(tmp_path, "clone", "--quiet", str(registered_project), "clone")
    registry = {"MLFLOW_TRACKING_URI": f"sqlite:///{registered_project}/mlflow.db", "PREFECT_API_URL": prefect_api}
    weights, stages = (
        registered_project / "models/foundation/model.safetensors",
        "fetch@corpus, preprocess@corpus, pretrain",
    )
    identical(tmp_path / "clone", "foundation", stages, weights, **registry)
    assert not (tmp_path / "clone/models/foundation").exists()
