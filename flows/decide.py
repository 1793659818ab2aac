"""Decide on a version: `threestage review approve`, `reject` or `rollback`, or a run of the deployment `decide`."""

from collections.abc import Sequence
from typing import Annotated, Literal

from prefect import flow, get_run_logger
from prefect.context import FlowRunContext
from pydantic import Field

from llm.errors import UserError
from tasks.registry.decide import approve, model_state, reject, roll_back
from tasks.registry.history import Event
from tasks.registry.outcomes import BY_LENGTH, check_name
from tasks.registry.versions import PENDING
from tasks.stages.names import model_names

Decision = Literal["approve", "reject", "rollback"]
Reason = Annotated[str, Field(pattern=r"\S")]
Name = Annotated[str, Field(pattern=r"\S", max_length=BY_LENGTH)]


def chosen_models(models: Sequence[str] | None) -> list[str]:
    """These models, or all if there are none. Raises UserError for an unknown name."""
    names = model_names()
    for model in models or ():
        if model not in names:
            raise UserError(f"there is no model {model!r}; those are: {', '.join(names)}")
    return list(dict.fromkeys(models or names))


def carry_out(
    decision: Decision, model: str, version: str, *, by: str, reason: str, despite_gates: bool = False
) -> Event:
    """Carry out a person's decision.

    Without a version, the challenger is approved or rejected, or else the newest version that waits, and the champion
    is rolled back. Raises UserError for an unknown model, and if the decision is not possible.
    """
    chosen_models([model])
    by = check_name(by)
    state = model_state(model)
    if decision == "rollback":
        return roll_back(model, by=by, reason=reason, instead_of=version or state.champion)
    waiting = [number for number, word in state.state_of.items() if word == PENDING]
    version = version or state.challenger or next(iter(waiting), "")
    if not version:
        raise UserError(f"{model}: no version waits for a decision; name one as {model}/VERSION")
    if decision == "approve":
        return approve(model, version, by=by, reason=reason, despite_gates=despite_gates)
    return reject(model, version, by=by, reason=reason)


@flow(name="decide", flow_run_name="decide: {decision} {model}")
def decide(
    model: str,
    decision: Decision,
    reason: Reason,
    by: Name,
    version: str = "",
    despite_gates: bool = False,
) -> str:
    """Approve or reject a version, or roll back to the previous champion. Returns what happened.

    Args:
        model: such as classifier
        decision: approve makes the version champion; rollback makes the previous champion champion again
        reason: is kept with the decision
        by: your name; Prefect knows no users
        version: such as 3; by default the challenger, or for a rollback the champion
        despite_gates: approve a version that failed gates; the history keeps that
    """
    event = carry_out(decision, model, version, by=by, reason=reason, despite_gates=despite_gates)
    get_run_logger().info("%s: %s", model, event)
    context = FlowRunContext.get()
    context.client.set_flow_run_name(context.flow_run.id, f"decide: {model} {event.version} {event.outcome}")
    return str(event)
