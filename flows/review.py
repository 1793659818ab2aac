"""Compare challengers with their champions: `threestage review`. A person, or the gates alone, then decide."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from pydantic import Field

from flows.form import ask, decided_elsewhere, pending
from llm.errors import UserError
from tasks.registry.decide import GATES, approve, model_state, reject, settle
from tasks.registry.events import WAITS, emit, is_announced, send_unsent
from tasks.stages.end_states import quiet_stops
from tasks.stages.names import model_names
from tasks.stages.server import leave_artifact

if TYPE_CHECKING:
    from tasks.review.challenger import Reviewed

LONGEST = 10_080  # minutes: a week
STATES = r"version (\d+) (approved|rejected|superseded|withdrawn|waits)"

Minutes = Annotated[float, Field(ge=0, le=LONGEST)]


class NotReviewedError(UserError):
    """Some models could not be reviewed; `outcomes` holds the others."""

    def __init__(self, failed: Mapping[str, UserError], outcomes: dict[str, str]) -> None:
        super().__init__("; ".join(f"{model}: {error}" for model, error in failed.items()))
        self.outcomes = outcomes


@task(task_run_name="review {model}", cache_policy=NO_CACHE, persist_result=False)
def review_model(model: str) -> "Reviewed | str":
    """Carry out decisions made in MLflow, then compare. Returns the review, or the reason why there is none."""
    from tasks.review.challenger import review_challenger

    for event in settle(model):
        get_run_logger().info("%s: %s", model, event)
    reviewed = review_challenger(model)
    if not isinstance(reviewed, str):
        page, verdict = reviewed.page, reviewed.verdict
        leave_artifact(create_markdown_artifact, f"review-{model}", markdown=page, description=verdict)
    return reviewed


def _decide(reviewed: "Reviewed", auto: bool, deadline: float | None) -> str:
    if outcome := decided_elsewhere(reviewed):
        return outcome
    if auto and reviewed.is_clear:
        decide = approve if reviewed.passed else reject
        return str(decide(reviewed.model, reviewed.version, by=GATES, reason=reviewed.reason))
    return pending(reviewed) if deadline is None else ask(reviewed, deadline)


def remind(model: str) -> None:
    """Announce again, once a day, a challenger that was compared and waits for a decision."""
    now = model_state(model)
    if now.challenger in (None, now.champion) or is_announced(now.name, now.challenger):
        return
    last = now.last(now.challenger)
    if last and (last.event, last.champion) == ("compared", now.champion):
        emit(WAITS, now.name, now.challenger, model=model, verdict=f"It still waits: {last}.")


def chosen_models(models: Sequence[str] | None) -> list[str]:
    """These models, or all if there are none. Raises UserError for an unknown name."""
    names = model_names()
    for model in models or ():
        if model not in names:
            raise UserError(f"there is no model {model!r}; those are: {', '.join(names)}")
    return list(dict.fromkeys(models or names))


@flow(name="review", flow_run_name="review")
def review(models: list[str] | None = None, auto: bool = False, wait_minutes: Minutes = 0) -> dict[str, str]:
    """Compare challengers with their champions, then decide or wait. Returns the outcome of each model.

    Args:
        models: the models whose challengers are reviewed; all by default
        auto: the gates decide; if one could not be computed, a person does
        wait_minutes: how long this run's form waits for a person; after that the versions stay pending
    """
    if auto and wait_minutes:
        raise UserError("auto and wait_minutes: either the gates decide or a person does")
    quiet_stops()
    send_unsent()
    waiting: list[Reviewed] = []
    outcomes: dict[str, str] = {}
    failed: dict[str, UserError] = {}
    for model in chosen_models(models):
        try:
            reviewed = review_model(model)
        except UserError as error:  # the other models are reviewed all the same
            failed[model] = error
            continue
        if isinstance(reviewed, str):
            outcomes[model] = reviewed
            continue
        waiting.append(reviewed)
        if reviewed.new and not (auto and reviewed.is_clear):
            reviewed.announce()
    deadline = time.monotonic() + wait_minutes * 60 if wait_minutes else None
    for reviewed in waiting:
        try:
            outcomes[reviewed.model] = _decide(reviewed, auto, deadline)
        except UserError as error:
            failed[reviewed.model] = error
    for model, outcome in outcomes.items():
        get_run_logger().info("%s: %s", model, outcome.partition("\n")[0])
    states = ((model, re.match(STATES, outcome)) for model, outcome in outcomes.items())
    decided = ", ".join(f"{model} {state[1]} {state[2]}" for model, state in states if state)
    context = FlowRunContext.get()
    context.client.set_flow_run_name(context.flow_run.id, f"review: {decided or 'nothing to decide'}")
    if failed:
        raise NotReviewedError(failed, outcomes)
    return outcomes
