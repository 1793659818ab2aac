"""A review that waits for a person: it shows Prefect's form until somebody decides there, in MLflow or by command."""

import os
import signal
import threading
import time
from contextlib import suppress
from contextvars import copy_context
from itertools import count
from typing import TYPE_CHECKING, Literal

import httpx
from mlflow.exceptions import MlflowException
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.settings import PREFECT_API_URL
from pydantic import Field

from llm.errors import UserError
from tasks.registry.decide import approve, check_name, model_state, reject, settle
from tasks.registry.outcomes import BY_LENGTH
from tasks.stages.server import TEMPORARY, artifact_key, prefect_page

if TYPE_CHECKING:
    from tasks.review.challenger import Reviewed

POLL = 15  # seconds between two looks for a decision made elsewhere
SPARE = 600  # seconds that a form outlasts the wait, so that this process ends the wait itself


class Answer(RunInput):
    """A person's decision in Prefect's form."""

    decision: Literal["approve", "reject", "later"] = Field(description="later: it stays pending")
    reason: str = Field(pattern=r"\S", description="for those who ask later")
    by: str = Field(pattern=r"\S", max_length=BY_LENGTH, title="Your name")
    despite_gates: bool = Field(default=False, description="Approve a version that failed gates; the history keeps it.")


def decide_as(decision: str, *, model: str, version: str, by: str, reason: str, despite_gates: bool) -> str:
    """Carry out a person's decision, `approve` or `reject`."""
    by = check_name(by)
    if decision == "approve":
        return str(approve(model, version, by=by, reason=reason, despite_gates=despite_gates))
    return str(reject(model, version, by=by, reason=reason))


def decided_elsewhere(reviewed: "Reviewed") -> str | None:
    """The decision that somebody made on a version in MLflow or by command; None while it waits."""
    settle(reviewed.model)
    now = model_state(reviewed.model)
    if (last := now.last(reviewed.version)).event != "compared":
        return str(last)
    if now.champion == reviewed.champion:
        return None
    champion = f"version {now.champion} is champion" if now.champion else "there is no champion"
    return f"version {reviewed.version} waits, but {champion} now: review it again"


def pending(reviewed: "Reviewed") -> str:
    """The verdict on a version that waits, and how to decide."""
    from tasks.review.challenger import text

    lines = [text(reviewed.verdict), f"page: {reviewed.address}", *map(text, reviewed.ways)]
    return "\n".join([f"version {reviewed.version} waits for a decision", *(f"  {line}" for line in lines)])


def ask(reviewed: "Reviewed", deadline: float) -> str:
    """Wait for a decision in Prefect's form or elsewhere, and return the outcome.

    If a decision can't be carried out, the form is shown again with the reason.
    """
    context = FlowRunContext.get()
    flow_run = context.flow_run.id
    closed = threading.Event()
    title = f"{reviewed.model} version {reviewed.version}"
    has_pages = PREFECT_API_URL.value() != os.environ.get(TEMPORARY)
    form = f"the form: {prefect_page(str(flow_run))}" if has_pages else "without a standing Prefect server no form"
    minutes = max(0.0, deadline - time.monotonic()) / 60
    get_run_logger().info(f"{reviewed.model}: for {minutes:.0f} minutes; {form}; {pending(reviewed)}")
    context.client.set_flow_run_name(flow_run, f"review: {reviewed.model} {reviewed.version} waits")
    watch = threading.Thread(target=copy_context().run, args=(_close, reviewed, deadline, closed), daemon=True)
    watch.start()
    text = f"**{title}**\n\n{reviewed.verdict}\n\nThe page: `{reviewed.address}`"
    try:
        for number in count(1):
            answer = pause_flow_run(
                Answer.with_initial_data(description=text),
                timeout=int(max(0.0, deadline - time.monotonic())) + SPARE,
                poll_interval=POLL,
                key=artifact_key(f"{title} {number}"),
            )
            if outcome := decided_elsewhere(reviewed):
                return outcome
            if answer.decision == "later":
                return pending(reviewed)
            try:
                return decide_as(
                    answer.decision,
                    model=reviewed.model,
                    version=reviewed.version,
                    by=answer.by,
                    reason=answer.reason,
                    despite_gates=answer.despite_gates,
                )
            except UserError as error:
                text = f"**Not done**: {error}\n\n{text}"
    finally:
        closed.set()
        watch.join()


def _close(reviewed: "Reviewed", deadline: float, closed: threading.Event) -> None:
    """Answer a run's form, to close it, once somebody decides elsewhere or the time is up."""
    flow_run = FlowRunContext.get().flow_run.id
    answer = {"decision": "later", "reason": "decided elsewhere, or not in time", "by": "the review"}
    with get_client(sync_client=True) as client:
        while not closed.wait(POLL):
            with suppress(UserError, MlflowException, httpx.HTTPError):  # the store or server may be away for a moment
                state = client.read_flow_run(flow_run).state
                if state and (state.is_cancelling() or state.is_cancelled()):
                    os.kill(os.getpid(), signal.SIGTERM)  # as Prefect's worker would
                    return
                if time.monotonic() > deadline or decided_elsewhere(reviewed):
                    client.resume_flow_run(flow_run, run_input=answer)
