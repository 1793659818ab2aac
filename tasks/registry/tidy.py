"""Old versions, weights of trainings and files of DVC's cache that nothing needs any more, each with its size.

Kept versions, this folder, and the branches and tags of this clone and its remotes need the others. A branch
`retrain/<date>` counts for some days only: there is one for each night. MLflow keeps the rows of removed runs as
deleted until somebody runs `mlflow gc` on its database. Prefect removes old runs itself.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlflow
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import NoSCM
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from llm.errors import UserError
from tasks.registry.decide import model_state
from tasks.registry.git import git_output
from tasks.registry.lineage import recorded_stages
from tasks.registry.logged_model import BYTES
from tasks.registry.record import find_run, read_record
from tasks.registry.server import server_errors
from tasks.registry.store import configure_tracking
from tasks.registry.versions import REJECTED, SUPERSEDED, number_of, own_models, versions
from tasks.stages.hashes import LOCK, as_hashes, parse_stages

DAY = 86_400
NIGHTLY = re.compile(r"(^|/)retrain/\d{4}-\d{2}-\d{2}(-\d+)?$")
KILLED_AFTER = 7  # days after which a run that is still RUNNING counts as killed
CHECKPOINTS = "checkpoints"  # the folder of a training's run
FOLDER = ".dir"  # how the hash of a folder's listing ends


@dataclass(frozen=True)
class Item:
    """Something that can be removed."""

    name: str
    bytes: int
    remove: Callable[[], None]


def old_versions(keep: int, days: float) -> list[Item]:
    """The versions of this namespace that can be removed.

    Kept are the newest `keep` of a model, and those that have an alias, wait for a decision, or are in this folder, a
    branch or a tag.
    """
    configure_tracking()
    items = []
    with server_errors():
        locks = _locked_outs(days)
        runs = Counter(version.run_id for version in mlflow.search_model_versions())
        for model, registered in own_models(MlflowClient()):
            state_of = model_state(model).state_of
            needed = {number_of(version) for version in _needed(model, registered.name)}
            for version in versions(MlflowClient(), registered.name)[max(keep, 0) :]:
                is_shared = runs[version.run_id] > 1  # a person may have registered the same run once more
                if not (is_shared or number_of(version) in needed or _is_locked(version, locks)):
                    items.append(_version(version, state_of.get(number_of(version))))
    return items


def training_weights(days: float) -> list[Item]:
    """The models and checkpoints that trainings of this namespace logged over `days` days ago.

    Trainings count whether or not they ended, and whether or not their model was registered. Kept are weights that a
    version serves, or that are in this folder, a branch or a tag.
    """
    configure_tracking()
    before = int((time.time() - days * DAY) * 1000)
    with server_errors():
        client = MlflowClient()
        locked = {md5 for lock in _locked_outs(days) for md5 in lock.values()}
        all_versions = mlflow.search_model_versions()
        served = {client.get_model_version_download_uri(version.name, version.version) for version in all_versions}
        items: list[Item] = []
        needed_runs: set[str | None] = set()
        for model in mlflow.search_logged_models(output_format="list"):
            is_needed = model.artifact_location in served or model.tags.get(BYTES) in locked
            if is_needed or model.creation_timestamp > before:
                needed_runs.add(model.source_run_id)
            else:
                remove = partial(client.delete_logged_model, model.model_id)
                items.append(_artifacts(f"{model.name} of run {model.source_run_id}", model.artifact_location, remove))
        for run in mlflow.search_runs(filter_string=f"attributes.start_time < {before}", output_format="list"):
            if run.info.run_id not in needed_runs and not _is_running(run):
                name = f"{CHECKPOINTS} of run {run.info.run_id}, {run.info.run_name}"
                items.append(_artifacts(name, f"{run.info.artifact_uri}/{CHECKPOINTS}"))
        return [item for item in items if item.bytes]


def _is_running(run: Run) -> bool:
    """Whether a run is open, and began so lately that nothing can have killed it unnoticed."""
    days = (time.time() - run.info.start_time / 1000) / DAY
    return run.info.status == "RUNNING" and days < KILLED_AFTER


def cache_files(days: float) -> list[Item]:
    """The files of DVC's cache that can be removed.

    Kept are those that are in this folder, a branch, a tag or an experiment, or behind a version that has an alias or
    waits for a decision. Raises UserError if other projects share the cache, and if a dvc.lock can't be read.
    """
    needed = _behind_versions()
    try:
        with Repo() as repo:
            cache = Path(repo.cache.local.path).resolve()
            if not cache.is_relative_to(Path(repo.root_dir).resolve()):
                raise UserError(f"{cache}: others may share it; `dvc gc --projects` knows how to clean it")
            with_git = not isinstance(repo.scm, NoSCM)
            # Forced: listings of results from other machines may be missing here.
            used = repo.used_objs(force=True, revs=_refs(days), all_experiments=with_git).values()
            needed |= {info.value for infos in used for info in infos}
    except DvcException as error:
        raise UserError(" ".join(str(error).split())) from None
    listings = [cache / md5[:2] / md5[2:] for md5 in needed if md5.endswith(FOLDER)]
    needed |= {md5 for listing in listings for md5 in _listed(listing)}
    files = [path for path in cache.glob("[0-9a-f][0-9a-f]/*") if path.is_file()]
    unused = [path for path in files if path.parent.name + path.name not in needed]
    # Remove a folder's listing first: with a listing, a folder without its files would count as complete.
    unused.sort(key=lambda path: (path.suffix != FOLDER, path))
    return [Item(str(path), path.stat().st_size, partial(path.unlink, missing_ok=True)) for path in unused]


def _needed(model: str, name: str) -> list[ModelVersion]:
    """The versions that have an alias or wait for a decision."""
    client = MlflowClient()
    aliased = {str(version) for version in client.get_registered_model(name).aliases.values()}
    state = model_state(model)
    waiting = {version for version in state.state_of if state.waits(version)}
    return [version for version in versions(client, name) if number_of(version) in aliased | waiting]


def _is_locked(version: ModelVersion, locks: Sequence[Mapping[str, str]]) -> bool:
    """Whether one of the dvc.lock files has the outs of a version."""
    record = read_record(version.run_id)
    outs = record.hashes.outs if record else {}
    return bool(outs) and any(outs.items() <= lock.items() for lock in locks)


def _version(version: ModelVersion, state: str | None) -> Item:
    """A version with its evidence. Its model is then removed as one that no version serves."""
    client = MlflowClient()
    run = find_run(version.run_id)

    def remove() -> None:
        # A rejected version keeps its run: without it, the same bytes would be registered again.
        if run and state != REJECTED:
            client.delete_run(run.info.run_id)
        # After its run: a run without its version means that a person deleted the version.
        client.delete_model_version(version.name, version.version)

    name = f"{version.name} version {version.version}"
    if state in (REJECTED, SUPERSEDED):
        name += f", {state}"
    return _artifacts(name, run.info.artifact_uri if run else "", remove)


def _artifacts(name: str, uri: str, then: Callable[[], object] | None = None) -> Item:
    """The files below a URI; `then` runs after they are removed."""
    repository = get_artifact_repository(uri) if uri else None

    def remove() -> None:
        if repository:
            repository.delete_artifacts()
        if then:
            then()

    return Item(name, _size(repository) if repository else 0, remove)


def _size(repository: ArtifactRepository) -> int:
    """The bytes of the files that are still there."""
    size = 0
    try:
        listed = repository.list_artifacts()
        while listed:
            file = listed.pop()
            size += file.file_size or 0
            if file.is_dir:
                listed += repository.list_artifacts(file.path)
    except (MlflowException, FileNotFoundError):  # a person may have removed part of it
        pass
    return size


def _refs(days: float) -> list[str]:
    """The commits of all local and remote branches and tags, except old nightly branches."""
    form = "--format=%(objectname) %(creatordate:unix) %(refname)"
    listed = git_output("for-each-ref refs/heads refs/remotes refs/tags", form) or b""
    commits = []
    for line in listed.decode().splitlines():
        commit, date, name = line.split(" ", 2)
        if not NIGHTLY.search(name) or float(date) > time.time() - days * DAY:
            commits.append(commit)
    return commits


def _locked_outs(days: float) -> list[dict[str, str]]:
    """The outs, MD5 by path, in the dvc.lock of this folder and of each commit that counts."""
    texts = {Path(LOCK).read_text(): "here"} if Path(LOCK).exists() else {}
    for commit in _refs(days):
        content = git_output("show", f"{commit}:./{LOCK}")
        if content is not None:
            texts.setdefault(content.decode(errors="replace"), commit)
    locks: list[dict[str, str]] = []
    for text, where in texts.items():
        outs: dict[str, str] = {}
        for stage in parse_stages(text, f"{LOCK} of {where}").values():
            outs |= as_hashes(stage).outs
        locks.append(outs)
    return locks


def _behind_versions() -> set[str]:
    """The MD5s of all stages behind the versions that have an alias or wait for a decision."""
    configure_tracking()
    md5s: set[str] = set()
    with server_errors():
        for model, registered in own_models(MlflowClient()):
            for version in _needed(model, registered.name):
                try:
                    stages = recorded_stages(version)
                except UserError:  # it has no record
                    continue
                for stage in map(as_hashes, stages.values()):
                    md5s.update(stage.deps.values(), stage.outs.values())
    return md5s


def _listed(listing: Path) -> list[str]:
    """The MD5s of the files in a folder's listing; none if that is missing."""
    return [entry["md5"] for entry in json.loads(listing.read_text())] if listing.exists() else []
