"""Compare challengers with their champions: `threestage review`. A person, or the gates alone, then decide."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext

from flows.decide import chosen_models
from llm.errors import UserError
from tasks.registry.decide import approve, reject, settle
from tasks.registry.history import GATES, Event
from tasks.stages.prefect import leave_artifact

if TYPE_CHECKING:
    from tasks.review.challenger import Reviewed


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


def pending(reviewed: "Reviewed") -> str:
    """The verdict on a version that waits, and how to decide."""
    from tasks.review.challenger import text

    lines = [text(reviewed.verdict), f"page: {reviewed.address}", *map(text, reviewed.ways)]
    return "\n".join([f"version {reviewed.version} waits for a decision", *(f"  {line}" for line in lines)])


def decide_by_gates(reviewed: "Reviewed") -> Event:
    """Approve a version that passed all gates, reject one that failed some."""
    decide = approve if reviewed.passed else reject
    return decide(reviewed.model, reviewed.version, by=GATES, reason=reviewed.reason)


@flow(name="review", flow_run_name="review")
def review(models: list[str] | None = None, auto: bool = False) -> dict[str, str]:
    """Compare challengers with their champions. Returns the outcome of each model.

    Args:
        models: the models whose challengers are reviewed; all by default
        auto: the gates decide; if one could not be computed, a person does
    """
    outcomes: dict[str, str] = {}
    states: list[str] = []
    failed: dict[str, UserError] = {}
    for model in chosen_models(models):
        try:
            reviewed = review_model(model)
            if isinstance(reviewed, str):
                outcomes[model] = reviewed
            elif auto and reviewed.is_clear:
                event = decide_by_gates(reviewed)
                outcomes[model] = str(event)
                states.append(f"{model} {event.version} {event.event}")
            else:
                if reviewed.new:
                    reviewed.announce()
                outcomes[model] = pending(reviewed)
                states.append(f"{model} {reviewed.version} waits")
        except UserError as error:  # the other models are reviewed all the same
            failed[model] = error
    for model, outcome in outcomes.items():
        get_run_logger().info("%s: %s", model, outcome.partition("\n")[0])
    context = FlowRunContext.get()
    context.client.set_flow_run_name(context.flow_run.id, f"review: {', '.join(states) or 'nothing to decide'}")
    if failed:
        raise NotReviewedError(failed, outcomes)
    return outcomes
