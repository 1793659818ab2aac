"""Old versions, weights of trainings and files of DVC's cache that nothing needs any more, each with its size.

Kept versions, this folder, and the branches and tags of this clone and its remotes need the others. A branch
`retrain/<date>` counts for some days only: there is one for each night. MLflow keeps the rows of removed runs as
deleted until somebody runs `mlflow gc` on its database. Prefect removes old runs itself.
"""

import json
import re
import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlflow
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import NoSCM
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from llm.errors import UserError
from tasks.registry.decide import model_state
from tasks.registry.git import git_output
from tasks.registry.lineage import recorded_stages
from tasks.registry.logged_model import BYTES
from tasks.registry.record import find_run, read_record
from tasks.registry.server import server_errors
from tasks.registry.tracking import configure_tracking
from tasks.registry.versions import REJECTED, SUPERSEDED, own_models, versions
from tasks.stages.hashes import LOCK, as_hashes, parse_stages

DAY = 86_400
NIGHTLY = re.compile(r"(^|/)retrain/\d{4}-\d{2}-\d{2}(-\d+)?$")
REFS = ("refs/heads", "refs/remotes", "refs/tags")
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
        locks = [*_locked_outs(days)]
        runs = [each.run_id for each in mlflow.search_model_versions()]
        for model, registered in own_models(MlflowClient()):
            state_of = model_state(model).state_of
            needed = {str(each.version) for each in _needed(model, registered.name)}
            for each in versions(MlflowClient(), registered.name)[max(keep, 0) :]:
                record = read_record(each.run_id)
                outs = record.hashes.outs if record else {}
                locked = outs and any(outs.items() <= lock.items() for lock in locks)
                # A person may have registered the same run once more.
                if not (locked or str(each.version) in needed or runs.count(each.run_id) > 1):
                    items.append(_version(each, state_of.get(str(each.version))))
    return items


def training_weights(days: float) -> list[Item]:
    """The models and checkpoints that trainings of this namespace logged over `days` days ago.

    Trainings count whether or not they ended, and whether or not their model was registered. Kept are weights that a
    version serves, or that are in this folder, a branch or a tag.
    """
    configure_tracking()
    before = int((time.time() - days * DAY) * 1000)
    with server_errors():
        client, locked = MlflowClient(), {md5 for lock in _locked_outs(days) for md5 in lock.values()}
        all_versions = mlflow.search_model_versions()
        served = {client.get_model_version_download_uri(each.name, each.version) for each in all_versions}
        items, needed = [], set()
        for each in mlflow.search_logged_models(output_format="list"):
            if each.artifact_location in served or each.tags.get(BYTES) in locked or each.creation_timestamp > before:
                needed.add(each.source_run_id)
            else:
                remove = partial(client.delete_logged_model, each.model_id)
                items.append(_artifacts(f"{each.name} of run {each.source_run_id}", each.artifact_location, remove))
        for run in mlflow.search_runs(filter_string=f"attributes.start_time < {before}", output_format="list"):
            runs_now = run.info.status == "RUNNING" and run.info.start_time > (time.time() - KILLED_AFTER * DAY) * 1000
            if run.info.run_id not in needed and not runs_now:
                name = f"{CHECKPOINTS} of run {run.info.run_id}, {run.info.run_name}"
                items.append(_artifacts(name, f"{run.info.artifact_uri}/{CHECKPOINTS}"))
        return [each for each in items if each.bytes]


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
            used = repo.used_objs(force=True, revs=[*_refs(days)], all_experiments=with_git).values()
            needed |= {info.value for infos in used for info in infos}
    except DvcException as error:
        raise UserError(" ".join(str(error).split())) from None
    needed |= {md5 for each in needed if each.endswith(FOLDER) for md5 in _listed(cache / each[:2] / each[2:])}
    files = (path for path in cache.glob("[0-9a-f][0-9a-f]/*") if path.is_file())
    unused = [path for path in files if path.parent.name + path.name not in needed]
    # Remove a folder's listing first: with a listing, a folder without its files would count as complete.
    unused.sort(key=lambda path: (path.suffix != FOLDER, path))
    return [Item(str(path), path.stat().st_size, lambda path=path: path.unlink(missing_ok=True)) for path in unused]


def _needed(model: str, name: str) -> list[ModelVersion]:
    """The versions that have an alias or wait for a decision."""
    aliases, now = MlflowClient().get_registered_model(name).aliases, model_state(model)
    needed = {*map(str, aliases.values()), *filter(now.waits, now.state_of)}
    return [each for each in versions(MlflowClient(), name) if str(each.version) in needed]


def _version(version: ModelVersion, state: str | None) -> Item:
    """A version with its evidence. Its model is then removed as one that no version serves."""
    client, run = MlflowClient(), find_run(version.run_id)

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


def _artifacts(name: str, uri: str, then: Callable[[], object] = lambda: None) -> Item:
    """The files below a URI; `then` runs after they are removed."""
    repository, size = get_artifact_repository(uri) if uri else None, 0
    try:
        listed = repository.list_artifacts() if repository else []
        while listed:
            each = listed.pop()
            size += each.file_size or 0
            listed += repository.list_artifacts(each.path) if each.is_dir else []
    except (MlflowException, FileNotFoundError):  # a person may have removed part of it
        pass

    def remove() -> None:
        if repository:
            repository.delete_artifacts()
        then()

    return Item(name, size, remove)


def _refs(days: float) -> Iterator[str]:
    """The commits of all local and remote branches and tags, except old nightly branches."""
    listed = git_output("for-each-ref", "--format=%(objectname) %(creatordate:unix) %(refname)", *REFS) or b""
    for line in listed.decode().splitlines():
        commit, date, name = line.split(" ", 2)
        if not NIGHTLY.search(name) or float(date) > time.time() - days * DAY:
            yield commit


def _locked_outs(days: float) -> Iterator[dict[str, str]]:
    """The outs, MD5 by path, in the dvc.lock of this folder and of each commit that counts."""
    texts = {Path(LOCK).read_text(): "here"} if Path(LOCK).exists() else {}
    for commit in _refs(days):
        if (text := git_output("show", f"{commit}:./{LOCK}")) is not None:
            texts.setdefault(text.decode(errors="replace"), commit)
    for text, where in texts.items():
        yield dict(ChainMap(*(as_hashes(stage).outs for stage in parse_stages(text, f"{LOCK} of {where}").values())))


def _behind_versions() -> set[str]:
    """The MD5s of all stages behind the versions that have an alias or wait for a decision."""
    configure_tracking()
    md5s = set()
    with server_errors():
        for version in [
            each for model, registered in own_models(MlflowClient()) for each in _needed(model, registered.name)
        ]:
            try:
                stages = recorded_stages(version)
            except UserError:  # it has no record
                continue
            for stage in map(as_hashes, stages.values()):
                md5s |= {*stage.deps.values(), *stage.outs.values()}
    return md5s


def _listed(listing: Path) -> Iterable[str]:
    return (entry["md5"] for entry in json.loads(listing.read_text())) if listing.exists() else ()
