"""Bring everything up to date, as one observed flow: the stale part of the DVC graph, the registry, a review.

`threestage run` runs it where there is anything to do; prefect.yaml schedules it. A failure stops only what depends on
it, and the run fails at its end, with all reasons.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Literal
from uuid import UUID

from prefect import Flow, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.runtime import task_run
from prefect.states import Completed, Crashed, State
from pydantic import Field

from flows.deploy import outdated
from flows.register import NotRegisteredError, register
from flows.retrain_page import Page, StageRun
from flows.review import NotReviewedError, review
from llm.errors import UserError
from tasks.data.inbox import INBOX
from tasks.registry import result_branch
from tasks.registry.decide import is_open
from tasks.registry.history import GATES
from tasks.registry.parent_run import close_left_runs, parent_run
from tasks.registry.register import check_bytes, registered
from tasks.registry.summary import next_step
from tasks.registry.versions import registered_name
from tasks.stages import dvc_process, graph
from tasks.stages.command import lasted
from tasks.stages.dvc_lock import when_free
from tasks.stages.end_states import end_lost, no_child_open, quiet_stops
from tasks.stages.graph import RAN, RESTORED, UP_TO_DATE
from tasks.stages.lock import exclusive
from tasks.stages.names import evaluation_stage, model_names, training_stage
from tasks.stages.prefect_worker import alone, depend_on_worker, end_stopped
from tasks.stages.server import PARENT_TASK_RUN, leave_artifact, prefect_page, wait_until_back

RETRAIN = "retrain"
HOUR = 3600

Hours = Annotated[float, Field(gt=0)]
Decide = Literal["person", "gates", "nobody"]


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def reproduce(stage: str, api_url: str, seconds: float) -> None:
    """Run a DVC stage; its flow run is a child of this task."""
    with no_child_open(UUID(task_run.id)):
        dvc_process.reproduce(stage, {"PREFECT_API_URL": api_url, PARENT_TASK_RUN: str(task_run.id)}, seconds)


@task(task_run_name="share", cache_policy=NO_CACHE)
def share_results(day: str, message: str, push_to: str, seconds: float) -> result_branch.Shared:
    """Commit the results to a branch of the day, and push it and the data."""
    return result_branch.share(day, message, push_to=push_to, seconds=seconds)


@flow(flow_run_name=RETRAIN)
def retrain(
    hours: Hours = 20,
    stage_hours: Hours = 12,
    decide: Decide = "person",
    share: bool = True,
    push_to: str = "",
    stages: list[str] | None = None,
) -> State:
    """Run each stale stage in order, make the models challengers, and compare these with the champions.

    Returns the version of each model.

    Args:
        hours: all of it may take
        stage_hours: one stage may take; the next run goes on from its last checkpoint
        decide: who decides on a challenger that was compared: a person, whenever they like, or the gates at once;
            nobody: it is not compared
        share: commit dvc.lock, params.yaml and metrics to the branch retrain/<date>, push the data where DVC has a
            remote, and put the files here back as git has them
        push_to: the git remote to which that branch is pushed, such as origin; without one it stays here
        stages: run only these stages and what they need, such as evaluate@assistant; by default all
    """
    depend_on_worker(RETRAIN)
    quiet_stops()
    context = FlowRunContext.get()
    client, flow_run = context.client, context.flow_run.id
    try:
        with alone(RETRAIN, flow_run, hours * HOUR):
            run = _Run(
                client=client,
                flow_run=flow_run,
                hours=hours,
                stage_hours=stage_hours,
                decide=decide,
                share=share,
                push_to=push_to,
                stages=stages or [],
                page=Page(failures=outdated()),
            )
            return run.retrain()
    except (KeyboardInterrupt, TerminationSignal) as stop:
        end_stopped(client, flow_run, stop)
        raise


@retrain.on_crashed
def close_left(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """Close the Prefect and MLflow runs that a killed retrain left open. Its worker calls this hook.

    If the next retrain already runs, it closes them instead.
    """
    with suppress(UserError), exclusive(RETRAIN, patience=0):
        end_lost(flow_run.id, Crashed(message=state.message))
        close_left_runs()


@dataclass
class _Run:
    """A run, and its page."""

    client: SyncPrefectClient
    flow_run: UUID
    hours: float
    stage_hours: float
    decide: Decide
    share: bool
    push_to: str
    stages: list[str]
    """The last ones; none for all."""
    page: Page
    began: float = field(default_factory=time.monotonic)
    day: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d}")
    name: str = RETRAIN
    planned: int = 0
    """The number of stages."""
    models: list[str] = field(default_factory=model_names)
    """Those that are evaluated, registered and reviewed."""
    open_runs: ExitStack = field(default_factory=ExitStack)
    has_parent: bool = False

    def retrain(self) -> State:
        """Train, register and review. Raises UserError at the end that lists every failure."""
        with ExitStack() as self.open_runs:
            try:
                with self._go_on():
                    close_left_runs()
                with self._go_on():
                    self._bring_up_to_date()
                self._review()
                self._rename(self._summary())
            finally:
                self._put_back()
            if self.page.failures:
                raise UserError(f"{'; '.join(self.page.failures)}; the next run tries again")
        message = f"{self.name}; finished in {lasted(self.began)}; {next_step(self.models)}"
        return Completed(message=message, data=self.page.versions)

    def _bring_up_to_date(self) -> None:
        """Run what is stale, unless every model is registered as it is."""
        when_free(partial(graph.track, INBOX))
        plan = when_free(partial(graph.plan, self.stages))
        self.planned = len(plan.stages)
        self.models = [model for model in model_names() if evaluation_stage(model) in plan.stages]
        self.page.versions = {} if plan.why else _registered(self.models)
        if not self.page.versions:
            self._rename(f"{len(plan.behind)} of {len(plan.stages)} stages")
            self._make(plan)

    def _put_back(self) -> None:
        """Put the files of git back, and leave this run's page in Prefect."""
        if self.share:
            with self._go_on():
                result_branch.put_back(graph.results()[0])
        leave_artifact(create_markdown_artifact, RETRAIN, markdown=self.page.markdown(self.name), description=self.name)

    def _summary(self) -> str:
        """What the run did, for its name."""
        ran = sum(run.outcome == RAN for run in self.page.stages)
        failures = len(self.page.failures)
        if failures:
            return f"{ran} of {self.planned} stages; {failures} failed"
        if ran:
            return f"{ran} of {self.planned} stages"
        return "nothing to train, a review" if self.page.review else "nothing new"

    def _open_parent(self) -> None:
        """Have what is made from now on be children of one run in MLflow; without anything to make there is none."""
        if self.has_parent:
            return
        description = f"One retraining, in Prefect the flow run {self.flow_run}."
        self.open_runs.enter_context(parent_run(f"{RETRAIN} {self.day}", description))
        self.has_parent = True

    def _rename(self, what: str) -> None:
        self.name = f"{RETRAIN} {self.day}: {what}"
        with self._go_on():
            self.client.set_flow_run_name(self.flow_run, self.name)

    def _left(self) -> float:
        seconds = self.began + self.hours * HOUR - time.monotonic()
        if seconds <= 0:
            raise UserError("the run took longer than it may (`hours`)")
        return seconds

    @contextmanager
    def _go_on(self) -> Iterator[None]:
        """Collect failures for the end of the run, bugs too: their tracebacks are in the log."""
        try:
            yield
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            get_run_logger().error(reason, exc_info=not isinstance(error, UserError))
            if reason not in self.page.failures:
                self.page.failures.append(reason)

    def _make(self, plan: graph.Plan) -> None:
        """Run the stale stages, register each model whose stages are all up to date, and share the results."""
        failed: set[str] = set()
        for stage, before in plan.behind.items():
            began = time.monotonic()
            outcome = self._run_stage(stage, before & failed)
            if outcome not in (RAN, RESTORED, UP_TO_DATE):
                failed.add(stage)
            why = ", ".join(plan.why.get(stage, ["what it reads changed"]))
            seconds = f"{time.monotonic() - began:.0f}"
            self.page.stages.append(StageRun(stage=stage, outcome=outcome, why=why, seconds=seconds))
        self._register(
            [model for model in self.models if not failed & {training_stage(model), evaluation_stage(model)}]
        )
        if self.share:
            with self._go_on():
                self._share()

    def _register(self, models: list[str]) -> None:
        """Make models challengers, if they are not yet."""
        if not models:
            return
        with self._go_on():
            if not all(registered(models).values()):
                self._open_parent()
            try:
                self.page.versions = self._subflow(register, models).result()
            except NotRegisteredError as error:
                self.page.versions = error.versions
                raise

    def _share(self) -> None:
        """Commit what was made, and push it."""
        lines = [f"{RETRAIN} {self.day}", ""]
        lines += [f"{run.stage}: {run.why}" for run in self.page.stages if run.outcome in (RAN, RESTORED)]
        lines += [f"{model} version {number}" for model, number in self.page.versions.items() if number.isdigit()]
        message = "\n".join(lines) + "\n"
        results = share_results(self.day, message, push_to=self.push_to, seconds=self._left())
        self.page.shared = [*results.done, *results.failed]
        self.page.failures += results.failed

    def _run_stage(self, stage: str, failed: set[str]) -> str:
        """Run a stage unless one that it depends on failed. Returns the outcome."""
        if failed:
            names = ", ".join(sorted(failed))
            get_run_logger().warning("%s is skipped: it depends on %s", stage, names)
            return f"skipped: it depends on {names}"
        with self._go_on():
            expected = when_free(partial(graph.expected, stage))
            if expected == UP_TO_DATE:  # it was stale only for a file that an earlier stage brought back
                return expected
            seconds = min(self.stage_hours * HOUR, self._left())
            if expected == RAN:
                self._open_parent()
            reproduce(stage, str(self.client.api_url), seconds)
            return expected
        return "failed"

    def _review(self) -> None:
        """Compare the challengers that are not compared yet; let the gates decide if `decide` says so."""
        if self.decide == "nobody":
            return
        by_gates = self.decide == GATES
        models: list[str] = []
        with self._go_on():
            models = [model for model in self.models if is_open(model, pending=by_gates)]
        if not models:
            return
        with self._go_on():
            state = self._subflow(review, models, auto=by_gates)
            self.page.review = prefect_page(str(state.state_details.flow_run_id))
            try:
                self.page.outcomes = state.result()
            except NotReviewedError as error:
                self.page.outcomes = error.outcomes
                raise

    def _subflow(self, subflow: Flow[..., dict[str, str]], models: list[str], **options: bool) -> State[dict[str, str]]:
        """The final state of a flow's run, within the time that is left. Waits for a server that is away."""
        wait_until_back(str(self.client.api_url))
        limited = subflow.with_options(flow_run_name=subflow.name, timeout_seconds=self._left())
        return limited(models, **options, return_state=True)


def _registered(models: list[str]) -> dict[str, str]:
    """The version of each model; empty if one is not registered. Raises UserError for damaged files."""
    versions = registered(models)
    if not all(versions.values()):
        return {}
    for model in versions:
        check_bytes(model)
    return {registered_name(model): str(version) for model, version in versions.items()}
