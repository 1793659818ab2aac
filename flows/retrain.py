"""Bring everything up to date, as one observed flow: the stale part of the DVC graph, the registry, a review.

`threestage run` runs it where there is anything to do; prefect.yaml schedules it. A failure stops only what depends on
it, and the run fails at its end, with all reasons. The stages' runs have the tag of this folder's nights.
"""

import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Annotated, Literal

from prefect import flow, get_run_logger, tags, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.states import Completed, State
from pydantic import Field

from flows.deploy import outdated
from flows.register import NotRegisteredError, register
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
from tasks.stages import dvc
from tasks.stages.lock import LONGEST_WAIT, exclusive, workspace
from tasks.stages.names import evaluation_stage, model_names
from tasks.stages.prefect import NIGHT, check_answers, end_left, leave_artifact
from tasks.stages.process import end_with_worker, forget_ends, lasted, read_end

RETRAIN = "retrain"
PUSHES_WITHIN = 3600  # seconds
DONE, FAILED, SKIPPED = "done", "failed", "skipped"


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
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    night = f"{RETRAIN}:{workspace()}"
    context = FlowRunContext.get()
    failures = outdated()
    rows: list[dict[str, str]] = []
    versions: dict[str, str] = {}
    notes: list[str] = []
    with exclusive(RETRAIN), tags(night), ExitStack() as parent:
        try:
            with _collect(failures):
                end_left(night)
                context.client.update_flow_run(context.flow_run.id, tags=[*context.flow_run.tags, night])
                parent.callback(_take_tag, failures)
                close_left_runs()
            models = _models(stages)
            with _collect(failures):
                dvc.track(INBOX, wait=True)
                reasons = dvc.stale(stages or (), wait=True)
                if reasons or not all(registered(models).values()):
                    about = f"In Prefect the flow run {context.flow_run.id}."
                    parent.enter_context(parent_run(f"{RETRAIN} {day}", about))
                if reasons:
                    api_url = str(context.client.api_url)
                    rows, failed = run_stages(api_url, night, last=stages or [], reasons=reasons, hours=hours)
                    failures += failed
            with _collect(failures):
                check_answers(str(context.client.api_url), LONGEST_WAIT)
                versions = _register(models, failures)
            if share and rows:
                with _collect(failures):
                    notes += _share(day, rows, versions=versions, push_to=push_to, failures=failures)
            if decide != "nobody":
                with _collect(failures):
                    notes += _review(models, failures, by_gates=decide == GATES)
        finally:
            if share:
                _put_back(failures)
        ran = sum(row["result"] == DONE for row in rows)
        name = f"{RETRAIN} {day}: {f'{ran} of {len(rows)} stale stages' if rows else 'nothing to train'}"
        with _collect(failures):
            context.client.set_flow_run_name(context.flow_run.id, name)
        notes = [*failures, *(f"{model} {version}" for model, version in versions.items()), *notes]
        leave_artifact(create_table_artifact, RETRAIN, table=rows, description="\n\n".join([name, *notes]))
        if failures:  # in the parent's block, so that it ends as failed, too
            raise UserError(f"{'; '.join(failures)}; the next run tries again")
    return Completed(message=f"{name}; finished in {lasted(began)}; {next_step(models)}", data=versions)


@contextmanager
def _collect(failures: list[str]) -> Generator[None]:
    """Collect failures for the end of the run, bugs too: their tracebacks are in the log."""
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        get_run_logger().error(reason, exc_info=not isinstance(error, UserError))
        failures.append(reason)


def _models(stages: list[str] | None) -> list[str]:
    """The models that these stages evaluate; all for none."""
    needed = dvc.stages(stages or ())
    return [model for model in model_names() if evaluation_stage(model) in needed]


def _register(models: list[str], failures: list[str]) -> dict[str, str]:
    """Make the models whose stages are all up to date challengers, if they are not registered. Returns the versions."""
    behind = dvc.stale(wait=True).keys()
    needed = dvc.stages()
    whole = [model for model in models if not behind & {evaluation_stage(model), *needed[evaluation_stage(model)]}]
    versions = registered(whole)
    if all(versions.values()):
        for model in whole:
            check_bytes(model)
        return {registered_name(model): str(version) for model, version in versions.items()}
    try:
        return register(whole)
    except NotRegisteredError as error:
        failures.append(str(error))
        return error.versions


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
) -> list[str]:
    """Commit what was made to a branch of the day, and push it and the data. Returns a line for each step."""
    lines = [f"{RETRAIN} {day}", ""]
    lines += [f"{row['stage']}: {row['reason']}" for row in rows if row["result"] == DONE]
    lines += [f"{model} version {number}" for model, number in versions.items() if number.isdigit()]
    shared = result_branch.share(day, "\n".join(lines) + "\n", push_to=push_to, seconds=PUSHES_WITHIN)
    failures += shared.failed
    return shared.done


def _take_tag(failures: list[str]) -> None:
    """Take the night's tag from this run, which ends by itself: a night that waits ends all runs that have it."""
    context = FlowRunContext.get()
    with _collect(failures):
        context.client.update_flow_run(context.flow_run.id, tags=context.flow_run.tags)


def _put_back(failures: list[str]) -> None:
    """Give the files of git their content in HEAD, so that `git pull` works."""
    with _collect(failures):
        result_branch.put_back(dvc.results()[0])


def _review(models: list[str], failures: list[str], *, by_gates: bool) -> list[str]:
    """Compare the challengers that are not compared yet; the gates decide if `by_gates`. Returns the outcomes."""
    waiting = [model for model in models if is_open(model, pending=by_gates)]
    if not waiting:
        return []
    try:
        outcomes = review(waiting, auto=by_gates)
    except NotReviewedError as error:
        failures.append(str(error))
        outcomes = error.outcomes
    return [f"{model}: {outcome}" for model, outcome in outcomes.items()]
