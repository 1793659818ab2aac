"""What may go of DVC's cache and of Prefect's runs, and its removal: `make gc`."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from dvc.exceptions import DvcException
from dvc.output import Output
from dvc.repo import Repo
from dvc.scm import NoSCM
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES
from prefect.exceptions import ObjectNotFound

from llm.errors import UserError
from tasks.stages.hashes import md5_of
from tasks.stages.lock import workspace

FOLDER = ".dir"  # how the hash of a folder's listing ends
PAGE = 200  # runs a request


@dataclass(frozen=True)
class CacheFile:
    """A file of DVC's cache that nothing needs."""

    path: Path
    bytes: int

    def __str__(self) -> str:
        return str(self.path)


def _listed(path: Path) -> Iterator[str]:
    if path.exists():
        yield from (entry["md5"] for entry in json.loads(path.read_text()))


def cache_files(needed: Iterable[str]) -> list[CacheFile]:
    """The files of DVC's cache that may go: all but what the workspace, any branch, tag or experiment, and the hashes
    `needed` (MD5s as dvc.lock has them) have.

    Raises UserError where the cache is not this project's alone, and where a dvc.lock can't be read.
    """
    try:
        with Repo() as repo, repo.lock:
            cache = Path(repo.cache.local.path).resolve()
            if not cache.is_relative_to(Path(repo.root_dir).resolve()):
                raise UserError(f"{cache}: others may share it; `dvc gc --projects` knows how to clean it")
            with_git = not isinstance(repo.scm, NoSCM)
            git = dict.fromkeys(("all_branches", "all_tags", "all_experiments"), with_git)
            # By force: of another machine's results not even the listings are here.
            found = repo.used_objs(force=True, **git).values()
            used = {info.value for infos in found for info in infos} | set(needed)
            used |= {md5 for out in repo.index.outs for md5 in _unlisted(out, cache)}
            used |= {md5 for each in used if each.endswith(FOLDER) for md5 in _listed(_place(cache, each))}
    except DvcException as error:
        raise UserError(" ".join(str(error).split())) from None
    files = (path for path in cache.glob("[0-9a-f][0-9a-f]/*") if path.is_file())
    unused = [path for path in files if path.parent.name + path.name not in used]
    # A folder's listing goes first: one whose files are gone would be taken for whole.
    unused.sort(key=lambda path: (path.suffix != FOLDER, path))
    return [CacheFile(path, path.stat().st_size) for path in unused]


def _unlisted(out: Output, cache: Path) -> Iterator[str]:
    """The files of a folder that is here and whose listing the cache lacks."""
    if out.hash_info and out.hash_info.isdir and not _place(cache, out.hash_info.value).exists():
        yield from (md5_of(path) for path in Path(out.fs_path).rglob("*") if path.is_file())


def _place(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def hashes(value: Any) -> Iterator[str]:
    """Every MD5 in a part of a dvc.lock."""
    match value:
        case dict():
            for key, inner in value.items():
                if key == "md5" and isinstance(inner, str):
                    yield inner
                else:
                    yield from hashes(inner)
        case list():
            for inner in value:
                yield from hashes(inner)


def remove_cache_files(files: Iterable[CacheFile]) -> None:
    """Remove files of DVC's cache, in this order."""
    for each in files:
        each.path.unlink(missing_ok=True)


def old_flow_runs(older_than: float) -> list[UUID]:
    """The flow runs of this folder that ended more than so many days ago, those that hang under no other, the oldest
    first; what others run on the same Prefect server is theirs."""
    latest = datetime.now(UTC) - timedelta(days=older_than)
    ended = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES))),
        parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
        end_time=FlowRunFilterEndTime(before_=latest),
        tags=FlowRunFilterTags(all_=[workspace()]),
    )
    found: list[UUID] = []
    with get_client(sync_client=True) as client:
        while page := client.read_flow_runs(flow_run_filter=ended, limit=PAGE, offset=len(found)):
            found += [run.id for run in page]
    return found[::-1]


def remove_flow_runs(runs: Iterable[UUID]) -> None:
    """Remove flow runs and all below them."""
    with get_client(sync_client=True) as client:
        for run in runs:
            below = [run]
            for each in below:  # grows while it is gone through
                parent = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[each]))
                below += [child.id for child in client.read_flow_runs(flow_run_filter=parent)]
            for each in reversed(below):
                try:
                    client.delete_flow_run(each)
                except ObjectNotFound:
                    continue
