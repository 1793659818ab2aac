"""Which versions in the registry may go, which hashes the others need, and their removal: `make gc`."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.entities.paged_list import PagedList

from llm.errors import UserError
from tasks.registry.register import KEY, REJECTED, REVIEW, version_key
from tasks.registry.tracking import configure_tracking, namespace, server_errors
from tasks.stages.hashes import PREFIX
from tasks.stages.retention import hashes

STAGES = "lineage/stages.json"  # on a version: what dvc.lock said of all stages behind it
PENDING = "pending"
MODEL_SOURCE = "models:/"


@dataclass(frozen=True)
class OldVersion:
    """A version without an alias that has newer ones."""

    name: str
    version: str
    bytes: int
    """Of its model and its evidence."""
    places: tuple[str, ...]
    """Where these are."""
    run: str
    model: str | None
    """MLflow's id of what it serves."""
    rejected: bool

    def __str__(self) -> str:
        return f"{self.name} version {self.version}" + (", rejected" if self.rejected else "")


def _versions() -> Iterator[tuple[str, set[str], list[ModelVersion]]]:
    """Each registered model of this namespace, its versions with an alias, and all of them, the newest first."""
    client = MlflowClient()
    for model in _pages(client.search_registered_models, f"name LIKE '{namespace()}-%'"):
        aliased = {str(version) for version in client.get_registered_model(model.name).aliases.values()}
        found = _pages(client.search_model_versions, f"name = '{model.name}'")
        yield model.name, aliased, sorted(found, key=lambda each: -int(each.version))


def _pages(search: Callable[..., PagedList], filter_string: str) -> Iterator[Any]:
    """All that a search finds."""
    token = None
    while True:
        page = search(filter_string, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _size(place: str) -> int:
    """Bytes of the files below a place; 0 where there is none."""
    repository, size = get_artifact_repository(place), 0
    try:
        listed = repository.list_artifacts()
        while listed:
            each = listed.pop()
            if each.is_dir:
                listed += repository.list_artifacts(each.path)
            else:
                size += each.file_size or 0
    except (MlflowException, FileNotFoundError):
        return size
    return size


def _current_key(name: str) -> str | None:
    """The key of what is in this folder now; None where it is not whole."""
    try:
        return version_key(name.removeprefix(f"{namespace()}-"))
    except (UserError, OSError):
        return None


def old_versions(keep: int) -> list[OldVersion]:
    """The versions that may go: not the newest `keep` of a model, none with an alias, none that waits for a review,
    and none of what is in this folder now."""
    configure_tracking()
    client, found = MlflowClient(), []
    with server_errors():
        for name, aliased, versions in _versions():
            current = _current_key(name)
            for each in versions[max(keep, 0) :]:
                said = each.tags.get(REVIEW, "").strip().lower()
                if str(each.version) in aliased or said == PENDING or each.tags.get(KEY) == current:
                    continue
                run = client.get_run(each.run_id).info
                model = each.source.removeprefix(MODEL_SOURCE) if each.source.startswith(MODEL_SOURCE) else None
                served = client.get_logged_model(model).artifact_location if model else each.source
                places = (served, run.artifact_uri)
                size = sum(map(_size, places))
                found.append(
                    OldVersion(name, str(each.version), size, places, run.run_id, model, rejected=said == REJECTED)
                )
    return found


def remove_versions(versions: Iterable[OldVersion]) -> None:
    """Remove versions with their models and evidence.

    The same bytes would be registered anew, but those that were rejected: of these the run stays, which says so.
    """
    client = MlflowClient()
    with server_errors():
        for each in versions:
            client.delete_model_version(each.name, each.version)
            for place in each.places:
                get_artifact_repository(place).delete_artifacts()
            if each.model:
                client.delete_logged_model(each.model)
            if not each.rejected:
                client.delete_run(each.run)


def needed_hashes() -> set[str]:
    """The MD5s of all that stands behind the versions with an alias, as far as a version says it."""
    configure_tracking()
    needed: set[str] = set()
    with server_errors():
        for _, aliased, versions in _versions():
            for each in (version for version in versions if str(version.version) in aliased):
                needed |= {md5 for tag, md5 in each.tags.items() if tag.startswith(f"{PREFIX}.dvc.")}
                try:
                    needed |= set(hashes(json.loads(mlflow.artifacts.load_text(f"runs:/{each.run_id}/{STAGES}"))))
                except (MlflowException, OSError):
                    continue  # registered before versions said so
    return needed
