"""Decide on a version by Prefect's form: a run of the deployment `decide`."""

from typing import Annotated

from prefect import flow, get_run_logger
from prefect.context import FlowRunContext
from prefect.events import emit_event
from pydantic import Field

from tasks.registry.decide import BY_LENGTH, Decision, carry_out
from tasks.registry.versions import registered_name
from tasks.review.page import version_page

DECIDED = "threestage.version.decided"
"""The event that `deploy/automations.yaml` sends as a message."""


@flow(name="decide", flow_run_name="decide: {decision} {model}")
def decide(
    model: str,
    decision: Decision,
    reason: Annotated[str, Field(pattern=r"\S")],
    by: Annotated[str, Field(pattern=r"\S", max_length=BY_LENGTH)],
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
        despite_gates: approve a version that failed gates; its tags keep that
    """
    version, outcome = carry_out(decision, model, version, by=by, reason=reason, despite_gates=despite_gates)
    get_run_logger().info("%s: %s", model, outcome)
    name = registered_name(model)
    emit_event(
        DECIDED,
        resource={"prefect.resource.id": f"{name}.{version}", "prefect.resource.name": f"{name} version {version}"},
        payload={"outcome": outcome, "page": version_page(name, version)},
    )
    context = FlowRunContext.get()
    context.client.set_flow_run_name(context.flow_run.id, f"decide: {decision} {model} {version}")
    return outcome
