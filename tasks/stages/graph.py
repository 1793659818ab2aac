"""The DVC graph: its stages in order, which of them are stale and why, and what DVC tracks."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import PipelineStage

from llm.errors import UserError
from tasks.stages.dvc_lock import dvc_errors

LOCK_FILE = "dvc.lock"
RAN, RESTORED, UP_TO_DATE = "ran", "restored", "up to date"
LOAD_PUBLISHED, REPLAY = "load_published", "replay@"  # stages that run only if another needs their outs


def _graph(repo: Repo) -> "nx.DiGraph[str]":
    """The names of the needed stages, with an edge from each to those that depend on it."""
    stages = [stage for stage in repo.index.stages if isinstance(stage, PipelineStage)]  # without pointers to data
    names = {stage: stage.name for stage in stages}
    graph = nx.relabel_nodes(repo.index.graph.subgraph(stages), names).reverse()
    for name in reversed(list(nx.topological_sort(graph))):
        if _is_optional(name) and not graph.out_degree(name):
            graph.remove_node(name)
    return graph


def _is_optional(stage: str) -> bool:
    return stage == LOAD_PUBLISHED or stage.startswith(REPLAY)


def stages(folder: Path = Path(), last: Collection[str] = ()) -> list[str]:
    """The names of a project's stages in topological order; with `last`, only these and their ancestors.

    `load_published` and replays are among them only if another stage needs what they make.
    """
    with Repo(str(folder)) as repo:
        return list(nx.lexicographical_topological_sort(_up_to(_graph(repo), last)))


def _up_to(graph: "nx.DiGraph[str]", last: Collection[str]) -> "nx.DiGraph[str]":
    """The part of a graph that these stages need, themselves included; all of it for none."""
    if not last:
        return graph
    wanted = set(last)
    for name in last:
        wanted |= nx.ancestors(graph, name)
    return graph.subgraph(wanted)


def is_stale() -> bool:
    """Whether params, deps, outs or command of any needed stage differ from dvc.lock.

    Raises UserError for a dvc.yaml or dvc.lock that DVC cannot read, and BusyError while another dvc works.
    """
    with dvc_errors(), Repo() as repo:
        stale = set(repo.status())
        optional = {stage for stage in stale if _is_optional(stage)}
        if stale - optional:
            return True
        return bool(optional) and not optional.isdisjoint(_graph(repo))


@dataclass(frozen=True)
class Plan:
    """Stages and the stale ones among them, each in topological order."""

    stages: list[str]
    """All that were asked for."""
    why: dict[str, list[str]]
    """For each stale stage, what differs from dvc.lock, such as `models/foundation is missing`."""
    behind: dict[str, set[str]]
    """The stale stages and their descendants, which become stale only if outs change; each with its ancestors."""


def plan(last: Collection[str] = ()) -> Plan:
    """Which stages to run; with `last`, of these and their ancestors alone.

    Checks each stage as `is_stale` does. A stage that runs now makes those that share its files say so. Raises
    UserError as `is_stale` does.
    """
    with dvc_errors(), Repo() as repo, repo.lock:
        graph = _up_to(_graph(repo), last)
        names = list(nx.lexicographical_topological_sort(graph))
        stages = [stage for stage in repo.index.stages if isinstance(stage, PipelineStage)]
        stage_named = {stage.addressing: stage for stage in stages}
        reasons = {name: _reasons(stage_named[name]) for name in names}
    why = {name: lines for name, lines in reasons.items() if lines}
    behind = set(why)
    for name in why:
        behind |= nx.descendants(graph, name)
    return Plan(
        stages=names,
        why=why,
        behind={name: nx.ancestors(graph, name) for name in names if name in behind},
    )


def expected(stage: str) -> str:
    """What `reproduce` will do: nothing (UP_TO_DATE), restore the outs from DVC's cache (RESTORED), or run (RAN).

    It checks a stage's own params, deps and outs, not the stages that make them: ask in the order of `stages`. Raises
    UserError as `is_stale` does.
    """
    with dvc_errors(), Repo() as repo, repo.lock:
        (dvc_stage,) = repo.stage.collect(stage)
        if not dvc_stage.status():
            return UP_TO_DATE
        return RESTORED if _is_cached(repo, dvc_stage) else RAN


def _is_cached(repo: Repo, stage: PipelineStage) -> bool:
    """Whether DVC's cache has the outs of the present parameters and deps: from an earlier run, or as dvc.lock says."""
    if not stage.changed_stage() and stage.deps_cached():
        return stage.outs_cached()
    if not (stage.deps and stage.outs):  # DVC's run cache has no such stage
        return False
    try:
        stage.save_deps()
    except DvcException:  # a dep is missing; DVC says so when the stage runs
        return False
    cache = repo.stage_cache._load(stage)
    return bool(cache) and repo.stage_cache._create_stage(cache, stage.wdir).outs_cached()


def _reasons(stage: PipelineStage) -> list[str]:
    """Why a stage is stale; nothing if it is not."""
    if not any(item.hash_info for item in (*stage.deps, *stage.outs)):
        return ["it never ran"]
    try:
        status = stage.status()
    except LockError:
        return ["a stage that runs now holds its files"]
    reasons: list[str] = []
    for entry in status.get(stage.addressing, []):
        if isinstance(entry, str):  # "changed command"
            reasons.append(entry)
            continue
        for items in entry.values():  # of "changed deps" or "changed outs"
            for path, change in items.items():
                reasons += _reasons_of_item(path, change)
    return reasons


def _reasons_of_item(path: str, change: Any) -> list[str]:
    if isinstance(change, dict):  # a file of parameters
        return [f"{name} {how}" for name, how in change.items()]
    if change in ("deleted", "not in cache") and not Path(path).exists():
        return [f"{path} is missing"]
    return [f"{path} {change}"]


def track(folder: Path) -> list[str]:
    """Add the files and folders in each subfolder of `folder` to DVC. Returns their pointers (`*.dvc`), for git.

    Raises UserError if one that DVC knows is missing here, and BusyError while another dvc works.
    """
    pointers = set(folder.glob("*/*.dvc"))
    for pointer in sorted(pointers):
        if not pointer.with_suffix("").exists():
            raise UserError(f"{pointer}: its data is not here; `dvc pull` brings it, `dvc remove {pointer}` forgets it")
    paths = sorted(str(path) for path in set(folder.glob("*/[!.]*")) - pointers)
    if not paths:
        return []
    with dvc_errors(), Repo() as repo:
        repo.scm_context.quiet = True  # the caller adds the pointers to git
        repo.add(paths)
    return [f"{path}.dvc" for path in paths]


def results() -> tuple[list[str], list[str]]:
    """The files of a run that git keeps: first dvc.lock, outs that DVC does not cache, and pointers to data; second the
    parameters. Raises UserError as `is_stale` does."""
    with dvc_errors(), Repo() as repo:
        stages = repo.index.stages
        pointers = {stage.relpath for stage in stages if not isinstance(stage, PipelineStage)}
        parameters = {dep.def_path for stage in stages for dep in stage.params}
        outs = {out.def_path for stage in stages for out in stage.outs if not out.use_cache}
    paths = sorted(path for path in outs | pointers if Path(path).exists())
    return [LOCK_FILE, *paths], sorted(parameters)


def remote() -> str | None:
    """The name of DVC's default remote, if there is one."""
    with Repo() as repo:
        name: str | None = repo.config["core"].get("remote")
    return name
