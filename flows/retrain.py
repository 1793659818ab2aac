"""Bring everything up to date in one flow: the stale stages of DVC, the registry, the reviews.

`threestage run` runs it where there is anything to do; prefect.yaml schedules it. A failure stops only what depends on
it, and the run fails at its end, with all reasons. The stages' runs have the tag of this folder's nights.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from prefect import Task, flow, get_run_logger, tags, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.states import Completed, State
from pydantic import Field

from llm.errors import UserError
from tasks.data.inbox import INBOX
from tasks.registry import result_branch
from tasks.registry.decide import WHY_LENGTH, carry_out
from tasks.registry.register import register_model
from tasks.registry.store import ServerAwayError
from tasks.registry.versions import registered_name
from tasks.review.review import Review, review
from tasks.stages import dvc
from tasks.stages.lock import LONGEST_WAIT, exclusive, workspace
from tasks.stages.names import evaluation_stage, model_names
from tasks.stages.prefect import NIGHT, check_answers, end_left, leave_artifact
from tasks.stages.process import end_with_worker, forget_ends, lasted, read_end

RETRAIN = "retrain"
PUSHES_WITHIN = 3600  # seconds
DONE, FAILED, SKIPPED = "done", "failed", "skipped"
AGAIN_AFTER = [5, 15, 45, 120]
"""Seconds before each retry of a registration or review: enough for a tracking server to restart."""
WAITS = "threestage.version.waits"
"""The event that `deploy/automations.yaml` sends as a message."""


@flow(flow_run_name=RETRAIN)
def retrain(
    hours: Annotated[float, Field(gt=0)] = 20,
    decide: Literal["person", "gates", "nobody"] = "person",
    share: bool = True,
    push_to: str = "",
    stages: list[str] | None = None,
) -> State:
    """Run the stale stages, make the models challengers, and compare these with the champions.

    Returns the version of each model. A second run waits for the first.

    Args:
        hours: the stages may take; the next run goes on from the last checkpoint
        decide: who decides on a challenger that was compared: a person, whenever they like, or the gates at once;
            nobody: it is not compared
        share: commit dvc.lock, params.yaml and metrics to the branch retrain/<date>, push the data where DVC has a
            remote, and put the files here back as git has them
        push_to: the git remote to which that branch is pushed, such as origin; without one it stays here
        stages: run only these stages and what they need, such as evaluate@assistant; by default all
    """
    end_with_worker(RETRAIN)
    began = time.monotonic()
    last = stages or []
    api_url = str(FlowRunContext.get().client.api_url)
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    failures: list[str] = []
    rows: list[dict[str, str]] = []
    outcomes: dict[str, str] = {}
    with exclusive(RETRAIN), _tagged(f"{RETRAIN}:{workspace()}", failures) as night:
        try:
            with _collect(failures):
                dvc.track(INBOX, wait=True)
                if reasons := dvc.stale(last, wait=True):
                    rows, failed = run_stages(api_url, night, last=last, reasons=reasons, hours=hours)
                    failures += failed
            with _collect(failures):
                check_answers(api_url, LONGEST_WAIT)
            versions = {}
            for model in _whole_models(last, failures):
                with _collect(failures):
                    versions[model] = _again(register_model, f"register {model}")(model)
            if share and rows:
                with _collect(failures):
                    outcomes |= _share(day, rows, versions=versions, push_to=push_to, failures=failures)
            for model in versions if decide != "nobody" else ():
                with _collect(failures):
                    outcomes[model] = _review(model, by_gates=decide == "gates")
        finally:
            if share:
                with _collect(failures):
                    result_branch.put_back(dvc.results()[0])
        done = sum(row["result"] == DONE for row in rows)
        name = f"{RETRAIN} {day}: {f'{done} of {len(rows)} stale stages' if rows else 'nothing to train'}"
        lines = [*failures, *(f"{what}: {outcome}" for what, outcome in outcomes.items())]
        with _collect(failures):
            context = FlowRunContext.get()
            context.client.set_flow_run_name(context.flow_run.id, name)
        leave_artifact(create_table_artifact, RETRAIN, table=rows, description="\n\n".join([name, *lines]))
    if failures:
        raise UserError(f"{'; '.join(failures)}; the next run tries again")
    return Completed(message=f"{name}; finished in {lasted(began)}", data=outcomes)


@contextmanager
def _collect(failures: list[str]) -> Generator[None]:
    """Collect failures for the end of the run, bugs too: their tracebacks are in the log."""
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        get_run_logger().error(reason, exc_info=not isinstance(error, UserError))
        failures.append(reason)


@contextmanager
def _tagged(night: str, failures: list[str]) -> Generator[str]:
    """Give this run the night's tag while the block lasts, after the open runs that have it, whose processes are gone,
    are marked as crashed."""
    context = FlowRunContext.get()
    with _collect(failures):
        end_left(night)
        context.client.update_flow_run(context.flow_run.id, tags=[*context.flow_run.tags, night])
    with tags(night):
        try:
            yield night
        finally:
            with _collect(failures):
                context.client.update_flow_run(context.flow_run.id, tags=context.flow_run.tags)


def _whole_models(last: list[str], failures: list[str]) -> list[str]:
    """The models that these stages evaluate, all for none, whose stages are up to date."""
    with _collect(failures):
        needed = dvc.stages()
        chosen = dvc.stages(last)
        behind = dvc.stale(wait=True).keys()
        stage_of = {model: evaluation_stage(model) for model in model_names()}
        return [model for model, stage in stage_of.items() if stage in chosen and not behind & {stage, *needed[stage]}]
    return []


def _again(work: Callable[..., Any], name: str) -> Task[..., Any]:
    """A task of this work, which is tried again while the tracking server is away."""
    return task(
        work,
        task_run_name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(AGAIN_AFTER),
        retry_delay_seconds=AGAIN_AFTER,
        retry_condition_fn=_is_away,
    )


def _is_away(_: Task[..., Any], __: TaskRun, state: State) -> bool:
    return isinstance(state.result(raise_on_failure=False), ServerAwayError)


def _review(model: str, *, by_gates: bool) -> str:
    """Compare a model's challenger; the gates decide if `by_gates` and they are clear. Returns the outcome."""
    reviewed = _again(review, f"review {model}")(model)
    if not isinstance(reviewed, Review):
        return reviewed
    gates = [asdict(gate) for gate in reviewed.gates]
    leave_artifact(create_table_artifact, f"review-{model}", table=gates, description=" ".join(reviewed.verdict))
    if by_gates and reviewed.is_clear:
        decision = "reject" if reviewed.failed else "approve"
        return carry_out(decision, model, reviewed.version, by="gates", reason=reviewed.verdict.gates[:WHY_LENGTH])[1]
    if reviewed.is_new:
        name = registered_name(model)
        title = f"{name} version {reviewed.version}"
        resource = {"prefect.resource.id": f"{name}.{reviewed.version}", "prefect.resource.name": title}
        emit_event(WAITS, resource=resource, payload={"review": str(reviewed)})
    return str(reviewed)


@task(task_run_name="stages", cache_policy=NO_CACHE)
def run_stages(
    api_url: str, night: str, *, last: list[str], reasons: dict[str, list[str]], hours: float
) -> tuple[list[dict[str, str]], list[str]]:
    """Run the stale stages. Returns a row for each that ran, failed or was skipped, with its reason; and the failures.

    Stages that ended count even if the others took too long or dvc was killed.
    """
    forget_ends()
    failures: list[str] = []
    try:
        behind = dvc.reproduce(last, {"PREFECT_API_URL": api_url, NIGHT: night}, hours * 3600)
    except UserError as error:
        failures.append(str(error))
        behind = dvc.stale(last, wait=True)
    rows = []
    for stage, needed in dvc.stages(last).items():
        end = read_end(stage)
        if stage not in reasons and stage not in behind and end is None:
            continue
        blocked = [name for name in behind if name in needed]
        if stage not in behind:
            result, reason = DONE, ", ".join(reasons.get(stage, ["what it reads changed"]))
        elif blocked:
            result, reason = SKIPPED, f"it depends on {', '.join(blocked)}"
        elif end is None and failures:
            result, reason = SKIPPED, failures[0]
        else:
            result, reason = FAILED, end.reason if end and end.code else "it was killed, or its output says why"
        seconds = f"{end.seconds:.0f}" if end else ""
        rows.append({"stage": stage, "result": result, "seconds": seconds, "reason": reason})
    return rows, [*failures, *(f"{row['stage']} {FAILED}: {row['reason']}" for row in rows if row["result"] == FAILED)]


def _share(
    day: str, rows: list[dict[str, str]], *, versions: dict[str, str], push_to: str, failures: list[str]
) -> dict[str, str]:
    """Commit what was made to a branch of the day, and push it and the data. Returns what became of it."""
    lines = [f"{RETRAIN} {day}", ""]
    lines += [f"{row['stage']}: {row['reason']}" for row in rows if row["result"] == DONE]
    lines += [f"{registered_name(model)} version {number}" for model, number in versions.items()]
    shared = result_branch.share(day, "\n".join(lines) + "\n", push_to=push_to, seconds=PUSHES_WITHIN)
    failures += shared.failed
    return {"shared": "; ".join(shared.done)}
