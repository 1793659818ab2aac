"""Bring everything up to date, as one observed flow: the stale part of the DVC graph, the registry, a review.

`python -m flows` runs it where there is anything to do, up to the registry; prefect.yaml schedules all of it.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.runtime import task_run
from pydantic import Field

from flows.register import register
from flows.review import GATES, review
from llm.errors import UserError
from llm.files import write_atomic
from tasks.data.inbox import INBOX
from tasks.registry.branch import share
from tasks.registry.lineage import prefect_page
from tasks.registry.markup import plain, table
from tasks.registry.register import check_bytes, registered, registered_name
from tasks.registry.standing import CHAMPION, is_open
from tasks.registry.trained_on import current_md5, current_rows, rows_before, trained_on
from tasks.stages import graph
from tasks.stages.lock import STATE
from tasks.stages.params import load_application, model_names
from tasks.stages.server import PARENT_TASK_RUN, quiet_stops, tag_with_workspace
from tasks.stages.worker import alone, depend_on_worker, end_stopped

RETRAIN, RAN = "retrain", "ran"
UNSHARED = STATE / RETRAIN / "unshared"
"""Is there from the beginning of a run that shares what it makes until that is done, by this run or a later one."""
PREPROCESS = "preprocess@"
HOUR = 3600
SAID = 900  # characters of a line of a review

Hours = Annotated[float, Field(gt=0)]
Decide = Literal["person", "gates", "nobody"]


@dataclass
class Report:
    """What a run did, as the page that Prefect shows of it."""

    name: str
    stages: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Name, what became of it, why it was stale, seconds."""
    drift: list[tuple[str, str, str]] = field(default_factory=list)
    """Dataset and champion, what moved, how much."""
    versions: dict[str, str] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)
    """What others have of it now, and what they don't."""
    review: list[str] = field(default_factory=list)
    """Lines of Markdown."""

    @property
    def numbers(self) -> dict[str, str]:
        """The versions that are there, by their numbers alone."""
        found = {model: re.search(r"\d+", said) for model, said in self.versions.items()}
        return {model: number[0] for model, number in found.items() if number}

    def message(self) -> str:
        """What a commit of what the run made says of it."""
        stages = [f"{stage}: {why}" for stage, became, why, _ in self.stages if became == RAN]
        versions = [f"{model} version {number}" for model, number in self.numbers.items()]
        return "\n\n".join([self.name, *("\n".join(lines) for lines in (stages, versions) if lines)]) + "\n"

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
        if self.shared:
            lines += ["", "## For others", "", *(f"- {plain(line, SAID)}" for line in self.shared)]
        if self.review:
            lines += ["", "## Challenger against champion", "", *self.review]
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
    from tasks.review.drift import FETCH, moved

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
            rows.append((compared, f"its rows ({md5}) are not in DVC's cache: {FETCH}", ""))
        else:
            new = current_rows(dataset)
            rows += [(compared, each.name, f"{each.index:.3f} {each.said}") for each in moved(old, new, sources=True)]
    return rows


@task(task_run_name="share", cache_policy=NO_CACHE, persist_result=False)
def share_results(report: Report, push_to: str, seconds: float) -> bool:
    """Commit what was made to a branch of the day and push it; whether all of that went well."""
    branch = report.name.partition(":")[0].replace(" ", "/")
    report.shared, done = share(branch, report.message(), report.numbers, push_to, seconds)
    return done


@flow(flow_run_name=_today)
def retrain(
    hours: Hours = 20,
    stage_hours: Hours = 12,
    decide: Decide = "person",
    share: bool = True,
    push_to: str = "",
) -> dict[str, str]:
    """Run each stale stage in order, make the models challengers, and compare these with the champions.

    Returns the version of each model.

    Args:
        hours: all of it may take
        stage_hours: one stage may take; the next run goes on from its last checkpoint
        decide: who decides on a challenger that was compared: a person, whenever they like, or the gates at once;
            nobody: it is not compared
        share: commit dvc.lock, params.yaml and metrics to the branch retrain/<date>, and push the data where DVC has a
            remote
        push_to: the git remote to which that branch is pushed, such as origin; without one it stays here
    """
    depend_on_worker(RETRAIN)
    quiet_stops()
    context = FlowRunContext.get()
    client, flow_run = context.client, context.flow_run.id
    tag_with_workspace(client, context.flow_run)
    try:
        with alone(RETRAIN, flow_run, hours * HOUR):
            deadline = time.monotonic() + hours * HOUR
            run = _Run(client, flow_run, deadline, stage_hours * HOUR, decide, share, push_to)
            return run.retrain()
    except (KeyboardInterrupt, TerminationSignal) as stop:
        end_stopped(client, flow_run, stop)
        raise


@dataclass
class _Run:
    """A run and its page."""

    client: SyncPrefectClient
    flow_run: UUID
    deadline: float
    stage_seconds: float
    decide: Decide
    share: bool
    push_to: str
    report: Report = field(default_factory=lambda: Report(_today()))

    def retrain(self) -> dict[str, str]:
        graph.track(INBOX)
        report, plan = self.report, graph.plan()
        try:
            report.versions = {} if plan.why else _registered()
            if new := not report.versions:
                if self.share:
                    write_atomic(UNSHARED, "")
                ran = self._run_stages(plan)
                report.versions = register.with_options(flow_run_name="register", timeout_seconds=self._left())()
                self._rename(f"{ran} of {len(plan.stages)} stages")
            if self.share and UNSHARED.exists() and share_results(report, self.push_to, self._left()):
                UNSHARED.unlink()
            found = self._to_review()
            if not new:
                self._rename("nothing to train, a review" if found else "nothing new")
                get_run_logger().info("nothing new: all %d stages are up to date and registered", len(plan.stages))
            if found:
                self._review(found)
            return report.versions
        finally:
            create_markdown_artifact(report.markdown(), key=RETRAIN, description=report.name)

    def _rename(self, what: str) -> None:
        self.report.name = f"{_today()}: {what}"
        self.client.set_flow_run_name(self.flow_run, self.report.name)

    def _left(self) -> float:
        if (seconds := self.deadline - time.monotonic()) <= 0:
            raise UserError("the run took longer than it may (`hours`); the next one goes on where it ended")
        return seconds

    def _run_stages(self, plan: graph.Plan) -> int:
        """Run what is stale, in order; how many stages ran."""
        self._rename(f"{len(plan.behind)} of {len(plan.stages)} stages")
        report, ran = self.report, 0
        for stage in plan.behind:
            if not graph.is_stale(stage):  # also one that was stale for what a stage before it brought back
                report.stages.append((stage, "up to date", "what it reads came out as it was", ""))
                continue
            why = ", ".join(plan.why.get(stage, ["what it reads changed"]))
            began = time.monotonic()
            try:
                reproduce(stage, str(self.client.api_url), min(self.stage_seconds, self._left()))
            except UserError as error:
                report.stages.append((stage, f"failed: {error}", why, f"{time.monotonic() - began:.0f}"))
                raise
            report.stages.append((stage, RAN, why, f"{time.monotonic() - began:.0f}"))
            ran += 1
            if stage.startswith(PREPROCESS):
                report.drift += _drift(stage.removeprefix(PREPROCESS))
        return ran

    def _to_review(self) -> list[str]:
        """The models of which there is something to compare or to decide."""
        if self.decide == "nobody":
            return []
        return [model for model in model_names() if is_open(model, pending=self.decide == GATES)]

    def _review(self, models: Sequence[str]) -> None:
        """Compare; where that fails the versions are registered all the same, and the next run compares them."""
        state = review.with_options(timeout_seconds=self._left())(
            list(models), auto=self.decide == GATES, return_state=True
        )
        found = state.result(raise_on_failure=False)
        self.report.review.append(f"[The run that compared]({prefect_page(str(state.state_details.flow_run_id))})")
        for model, outcome in (found if isinstance(found, dict) else getattr(found, "outcomes", {})).items():
            first, *more = outcome.splitlines()
            self.report.review += [f"- **{plain(model)}**: {plain(first, SAID)}"]
            self.report.review += [f"  - {plain(line, SAID)}" for line in more]
        if not isinstance(found, dict):
            self.report.review.append(f"- **Not compared**: {plain(found, SAID)}")
            raise UserError(f"all versions are registered, but not all were compared: {found}")


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
