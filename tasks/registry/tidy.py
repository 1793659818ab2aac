"""What nobody needs any more: versions that were rejected or superseded, and weights that no version serves.

`dvc gc` cleans DVC's cache, and `mlflow gc` removes the rows of deleted runs.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from tasks.registry.decide import model_state
from tasks.registry.record import find_run
from tasks.registry.server import server_errors
from tasks.registry.store import configure_tracking
from tasks.registry.versions import REJECTED, SUPERSEDED, number_of, own_models, versions

DAY = 86_400
KILLED_AFTER = 7 * DAY  # after which a run that is still RUNNING counts as killed
CHECKPOINTS = "checkpoints"  # the folder of a training's run


@dataclass(frozen=True)
class Item:
    """Something that can be removed."""

    name: str
    remove: Callable[[], None]

    def __str__(self) -> str:
        return self.name


def old_versions(days: float) -> list[Item]:
    """The rejected and the superseded versions of this namespace that are older than `days` days and have no alias."""
    configure_tracking()
    before = _milliseconds(days)
    items: list[Item] = []
    with server_errors():
        client = MlflowClient()
        runs = Counter(version.run_id for version in mlflow.search_model_versions())
        for model, registered in own_models(client):
            state = model_state(model)
            for version in versions(client, registered.name):
                number = number_of(version)
                word = state.recorded(number)
                is_decided = word in (REJECTED, SUPERSEDED) and word == state.state_of.get(number)
                is_shared = runs[version.run_id] > 1  # a person may have registered the same run once more
                is_named = number in state.aliases.values()
                if is_decided and not is_shared and not is_named and version.creation_timestamp < before:
                    name = f"{version.name} version {number}, {word}"
                    items.append(Item(name, partial(_remove_version, version, keep_run=word == REJECTED)))
    return items


def unused_weights(days: float) -> list[Item]:
    """The models and checkpoints that trainings logged over `days` days ago, and that no version serves.

    Trainings count whether or not they ended.
    """
    configure_tracking()
    before = _milliseconds(days)
    with server_errors():
        client = MlflowClient()
        all_versions = mlflow.search_model_versions()
        served = {client.get_model_version_download_uri(version.name, version.version) for version in all_versions}
        items: list[Item] = []
        needed_runs: set[str | None] = set()
        for model in mlflow.search_logged_models(output_format="list"):
            if model.artifact_location in served or model.creation_timestamp > before:
                needed_runs.add(model.source_run_id)
            else:
                remove = partial(_remove_model, model.model_id, model.artifact_location)
                items.append(Item(f"{model.name} of run {model.source_run_id}", remove))
        for run in mlflow.search_runs(filter_string=f"attributes.start_time < {before}", output_format="list"):
            run_id = run.info.run_id
            is_needed = run_id in needed_runs or _is_running(run)
            if not is_needed and client.list_artifacts(run_id, CHECKPOINTS):
                remove = partial(_remove_files, f"{run.info.artifact_uri}/{CHECKPOINTS}")
                items.append(Item(f"{CHECKPOINTS} of run {run_id}, {run.info.run_name}", remove))
        return items


def _milliseconds(days: float) -> int:
    """The time so many days ago, as MLflow counts it."""
    return int((time.time() - days * DAY) * 1000)


def _is_running(run: Run) -> bool:
    """Whether a run is open, and began so lately that nothing can have killed it unnoticed."""
    return run.info.status == "RUNNING" and time.time() - run.info.start_time / 1000 < KILLED_AFTER


def _remove_version(version: ModelVersion, *, keep_run: bool) -> None:
    """Remove a version with its evidence. Its model is then one that no version serves.

    A rejected version keeps its run: without it, the same bytes would be registered again.
    """
    run = find_run(version.run_id)
    if run:
        _remove_files(run.info.artifact_uri)
        if not keep_run:
            MlflowClient().delete_run(run.info.run_id)
    # After its run: a run without its version means that a person deleted the version.
    MlflowClient().delete_model_version(version.name, version.version)


def _remove_model(model_id: str, location: str) -> None:
    _remove_files(location)
    MlflowClient().delete_logged_model(model_id)


def _remove_files(uri: str) -> None:
    get_artifact_repository(uri).delete_artifacts()
