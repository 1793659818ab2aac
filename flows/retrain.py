"""Bring everything up to date, as one observed flow: the stale part of the DVC graph, then the registry.

`python -m flows` runs it where there is anything to do; prefect.yaml schedules it.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.runtime import task_run
from prefect.states import Cancelled, Crashed, State
from pydantic import Field

from flows.register import register
from llm.errors import UserError
from llm.files import write_atomic
from tasks.registry.decisions import CHAMPION
from tasks.registry.openlineage import listens, run_events
from tasks.registry.lineage import lineage
from tasks.registry.markup import table
from tasks.registry.register import check_bytes, registered, registered_name
from tasks.registry.trained_on import current_md5, current_rows, rows_before, trained_on
from tasks.stages import graph
from tasks.stages.lifeline import die_with_parent
from tasks.stages.lock import STATE, exclusive
from tasks.stages.params import load_application, model_names
from tasks.stages.server import PARENT_TASK_RUN, end_below, end_lost, quiet_stops

RETRAIN = "retrain"
OF_A_WORKER = f"{graph.OF_A_RUN}FLOW_RUN_ID"  # set where a worker of Prefect's started this process
PREPROCESS = "preprocess@"
HOUR = 3600

Hours = Annotated[float, Field(gt=0)]


@dataclass
class Report:
    """What a run did, as the page that Prefect shows of it."""

    name: str
    stages: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Name, what became of it, why it was stale, seconds."""
    drift: list[tuple[str, str, str]] = field(default_factory=list)
    """Dataset and champion, what moved, how much."""
    versions: dict[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """The page."""
        lines = [f"# {self.name}", ""]
        if self.stages:
            lines += table(("stage", "what became of it", "why", "seconds"), self.stages, right={3})
        if self.drift:
            lines += ["", "## Since the champion's data", ""]
            lines += table(("data", "what", "stability index"), self.drift)
        if self.versions:
            lines += ["", "## In the registry", "", *table(("model", "version"), self.versions.items())]
        return "\n".join(lines) + "\n"


def _today() -> str:
    return f"{RETRAIN} {datetime.now(UTC):%Y-%m-%d}"


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def reproduce(stage: str, api_url: str, seconds: float) -> None:
    """Run a DVC stage; its own flow run hangs under this task."""
    graph.reproduce(stage, {"PREFECT_API_URL": api_url, PARENT_TASK_RUN: str(task_run.id)}, seconds)


@task(task_run_name="drift of {dataset}", cache_policy=NO_CACHE, persist_result=False)
def measure_drift(dataset: str) -> list[tuple[str, str, str]]:
    """How far a dataset is from what the champions were trained on, which it ends no run to be far from."""
    from tasks.data.drift import drift
    from tasks.datasets import find

    now, found = current_md5(dataset), {}
    for model in model_names():
        if load_application(model).dataset == dataset and (before := trained_on(model, CHAMPION)):
            found.setdefault(before.md5, before)
    if not found:
        return [(dataset, "no champion was trained on it", "")]
    rows = []
    for md5, before in found.items():
        compared = f"{dataset}, {registered_name(before.model)} version {before.version}"
        if md5 == now:
            rows.append((compared, "the same data", "0"))
        elif (old := rows_before(before)) is None:
            rows.append((compared, f"its rows ({md5}) are not in DVC's cache: `dvc pull` may have them", ""))
        else:
            new = current_rows(dataset)
            label = find(dataset).stratify
            label = label if label in new and label in old else None
            texts = [
                name
                for name in new
                if name in old and name not in ("id", "source", label) and new[name].map(type).eq(str).all()
            ]
            rows += [(compared, each.name, f"{each.index:.3f} {each.said}") for each in drift(old, new, texts, label)]
    return rows


@contextmanager
def _alone(flow_run: UUID, seconds: float) -> Iterator[None]:
    """Be the one run in this folder, after any that is before; one whose process is gone is said to have crashed."""
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(RETRAIN, patience=0))
        except UserError as held:
            get_run_logger().info("waiting for the run before: %s", held)
            stack.enter_context(exclusive(RETRAIN, patience=seconds))
        holder = STATE / RETRAIN / "flow_run"
        if holder.exists():
            with suppress(ValueError):
                if (before := UUID(holder.read_text())) != flow_run:
                    end_lost(before, Crashed(message="Its process is gone."))
        write_atomic(holder, str(flow_run))
        yield
        holder.unlink()


def _word(client: SyncPrefectClient, flow_run: UUID, stop: BaseException) -> State:
    """How a run ends that was stopped: Crashed where its worker went away, else somebody cancelled it."""
    state = client.read_flow_run(flow_run).state
    asked = state is not None and (state.is_cancelling() or state.is_cancelled())
    if OF_A_WORKER in os.environ and isinstance(stop, TerminationSignal) and not asked:
        return Crashed(message="Its worker is gone.")
    return Cancelled(message="The run was cancelled.")


def _depend_on_worker() -> None:
    """End with the worker, but well: nothing here or below writes to its console, which breaks off with it."""
    log = STATE / RETRAIN / "log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    die_with_parent()


@flow(flow_run_name=_today)
def retrain(hours: Hours = 20, stage_hours: Hours = 12) -> dict[str, str]:
    """Run each stale stage in order, then make the models challengers. Returns the version of each.

    Args:
        hours: all of it may take
        stage_hours: one stage may take; the next run goes on from its last checkpoint
    """
    if OF_A_WORKER in os.environ:
        _depend_on_worker()
    quiet_stops()
    context = FlowRunContext.get()
    client, flow_run = context.client, context.flow_run.id
    try:
        facts = lineage(None) if listens() else {}
        with _alone(flow_run, hours * HOUR), run_events(RETRAIN, ("PREFECT", "FLOW"), facts):
            return _retrain(client, flow_run, time.monotonic() + hours * HOUR, stage_hours * HOUR)
    except (KeyboardInterrupt, TerminationSignal) as stop:
        end_below(client, flow_run, _word(client, flow_run, stop))
        raise


def _retrain(client: SyncPrefectClient, flow_run: UUID, deadline: float, stage_seconds: float) -> dict[str, str]:
    plan = graph.plan()
    report = Report(_today())

    def rename(what: str) -> None:
        report.name = f"{_today()}: {what}"
        client.set_flow_run_name(flow_run, report.name)

    def left() -> float:
        if (seconds := deadline - time.monotonic()) <= 0:
            raise UserError("the run took longer than it may (`hours`); the next one goes on where it ended")
        return seconds

    try:
        if not plan.why and (versions := _registered()):
            rename("nothing new")
            get_run_logger().info("nothing new: all %d stages are up to date and registered", len(plan.stages))
            report.versions = versions
            return versions
        rename(f"{len(plan.behind)} of {len(plan.stages)} stages")
        ran = 0
        for stage in plan.behind:
            if stage not in plan.why and not graph.is_stale(stage):
                report.stages.append((stage, "up to date", "what it reads came out as it was", ""))
                continue
            why = ", ".join(plan.why.get(stage, ["what it reads changed"]))
            began = time.monotonic()
            try:
                reproduce(stage, str(client.api_url), min(stage_seconds, left()))
            except UserError as error:
                report.stages.append((stage, f"failed: {error}", why, f"{time.monotonic() - began:.0f}"))
                raise
            report.stages.append((stage, "ran", why, f"{time.monotonic() - began:.0f}"))
            ran += 1
            if stage.startswith(PREPROCESS):
                report.drift += _drift(stage.removeprefix(PREPROCESS))
        report.versions = register.with_options(flow_run_name="register", timeout_seconds=left())()
        rename(f"{ran} of {len(plan.stages)} stages")
        return report.versions
    finally:
        create_markdown_artifact(report.markdown(), key=RETRAIN, description=report.name)


def _registered() -> dict[str, str]:
    """The version of each model; none where one is not registered. Raises UserError where bytes are damaged."""
    found = registered(model_names())
    if not all(found.values()):
        return {}
    for model in found:
        check_bytes(model)
    return {registered_name(model): str(version) for model, version in found.items()}


def _drift(dataset: str) -> list[tuple[str, str, str]]:
    try:
        return measure_drift(dataset)
    except UserError as error:  # which is no reason not to train
        return [(dataset, str(error), "")]
