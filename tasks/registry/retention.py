"""Which versions in the registry may go, which hashes the others need, and their removal: `make gc`."""

from collections import ChainMap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from llm.errors import UserError
from tasks.registry.git import git_output
from tasks.registry.listing import every_version, own_models, versions
from tasks.registry.record import find_run, holds
from tasks.registry.register import KEY, REJECTED, REVIEW, version_key
from tasks.registry.server import if_there, server_errors
from tasks.registry.tracking import configure_tracking
from tasks.stages.hashes import LOCK, PREFIX, as_hashes, parse_stages
from tasks.stages.retention import hashes

STAGES = "lineage/stages.json"  # on a version: what dvc.lock said of all stages behind it
PENDING = "pending"
MODEL_SOURCE = "models:/"
OUT = f"{PREFIX}.dvc.out."


@dataclass(frozen=True)
class OldVersion:
    """A version without an alias that has newer ones."""

    name: str
    version: str
    bytes: int
    """Of its model and its evidence."""
    places: tuple[str, ...]
    """Where these are."""
    run: str | None
    model: str | None
    """MLflow's id of what it serves."""
    rejected: bool

    def __str__(self) -> str:
        return f"{self.name} version {self.version}" + (", rejected" if self.rejected else "")


def _models(client: MlflowClient) -> Iterator[tuple[str, set[str], list[ModelVersion]]]:
    """Each model of this namespace, its versions with an alias, and all of them, the newest first."""
    for model, registered in own_models(client):
        aliased = {str(version) for version in client.get_registered_model(registered.name).aliases.values()}
        yield model, aliased, versions(client, registered.name)


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


def _current_key(model: str) -> str | None:
    """The key of what is in this folder now; None where it is not whole."""
    try:
        return version_key(model)
    except (UserError, OSError):
        return None


def _locked_outs() -> list[dict[str, str]]:
    """The outs, MD5 by path, of each dvc.lock that git knows here of a branch or tag, those of others, too."""
    refs = (git_output("for-each-ref", "--format=%(refname)") or b"").decode().split()
    blobs = {git_output("rev-parse", "--verify", "--quiet", f"{ref}:./{LOCK}"): ref for ref in refs}
    locks = []
    for blob, ref in blobs.items():
        if blob:
            text = (git_output("cat-file", "blob", blob.decode().strip()) or b"").decode(errors="replace")
            outs = [as_hashes(stage).outs for stage in parse_stages(text, f"{LOCK} of {ref}").values()]
            locks.append(dict(ChainMap(*outs)))
    return locks


def old_versions(keep: int) -> list[OldVersion]:
    """The versions of this namespace that may go: not the newest `keep` of a model, none with an alias, none that waits
    for a review, none that is in this folder now or in the dvc.lock of a branch or tag, and none whose model or run
    another version has that stays."""
    configure_tracking()
    client, found, locks = MlflowClient(), [], _locked_outs()
    with server_errors():
        for model, aliased, there in _models(client):
            current = _current_key(model)
            for each in there[max(keep, 0) :]:
                said = each.tags.get(REVIEW, "").strip().lower()
                if str(each.version) in aliased or said == PENDING or each.tags.get(KEY) == current:
                    continue
                outs = {tag.removeprefix(OUT): md5 for tag, md5 in each.tags.items() if tag.startswith(OUT)}
                if not any(outs.items() <= lock.items() for lock in locks):
                    found.append(each)
        return [_old(client, each) for each in _not_shared(found, list(every_version(client)))]


def _not_shared(old: list[ModelVersion], everything: list[ModelVersion]) -> list[ModelVersion]:
    """Those of which nothing is another version's that stays, of whichever model: a person may have registered the same
    model once more, or copied a version."""
    gone = {(each.name, each.version) for each in old}
    stay = [each for each in everything if (each.name, each.version) not in gone]
    sources, runs = {each.source for each in stay}, {each.run_id for each in stay if each.run_id}
    kept = [
        each
        for each in old
        if not sources & {each.source, f"{MODEL_SOURCE}{each.name}/{each.version}"} and each.run_id not in runs
    ]
    return old if len(kept) == len(old) else _not_shared(kept, everything)


def _old(client: MlflowClient, version: ModelVersion) -> OldVersion:
    """A version with what it takes, as far as that is there: a person may have removed some of it, and a copy of a
    version has no model of its own."""
    run, model, places = find_run(version.run_id), None, []
    if not version.source.startswith(MODEL_SOURCE):
        places.append(version.source)
    elif "/" not in (name := version.source.removeprefix(MODEL_SOURCE)) and (
        logged := if_there(lambda: client.get_logged_model(name))
    ):
        model = name
        places.append(logged.artifact_location)
    if run:
        places.append(run.info.artifact_uri)
    said = version.tags.get(REVIEW, "").strip().lower()
    return OldVersion(
        name=version.name,
        version=str(version.version),
        bytes=sum(map(_size, places)),
        places=tuple(places),
        run=run.info.run_id if run else None,
        model=model,
        rejected=said == REJECTED,
    )


def remove_versions(old: Iterable[OldVersion]) -> None:
    """Remove versions with their models and evidence.

    The same bytes would be registered anew, but those that were rejected: of these the run stays, which says so.
    """
    client = MlflowClient()
    with server_errors():
        for each in old:
            for place in each.places:
                get_artifact_repository(place).delete_artifacts()
            if each.run and not each.rejected:
                client.delete_run(each.run)
            # After its run: a version that is gone while its run is there has been deleted by a person.
            client.delete_model_version(each.name, each.version)
            if each.model:
                client.delete_logged_model(each.model)


def needed_hashes() -> set[str]:
    """The MD5s of all that stands behind the versions with an alias, as far as a version says it."""
    configure_tracking()
    client = MlflowClient()
    needed: set[str] = set()
    with server_errors():
        for _, aliased, there in _models(client):
            for each in (version for version in there if str(version.version) in aliased):
                needed |= {md5 for tag, md5 in each.tags.items() if tag.startswith(f"{PREFIX}.dvc.")}
                if holds(each.run_id, STAGES):  # else it was registered before versions said so
                    needed |= set(hashes(mlflow.artifacts.load_dict(f"runs:/{each.run_id}/{STAGES}")))
    return needed
