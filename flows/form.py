"""A review that waits for a person: Prefect's form, until somebody decides there, on the command line or in MLflow."""

import os
import signal
import threading
import time
from contextlib import suppress
from contextvars import copy_context
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
from tasks.stages.server import TEMPORARY, artifact_key, prefect_page

if TYPE_CHECKING:
    from tasks.review.challenger import Reviewed

POLL = 5  # seconds between two looks for a decision made elsewhere
SPARE = 600  # seconds that a form stays open beyond the wait, which this process ends itself


class Answer(RunInput):
    """A person's decision in Prefect's form."""

    decision: Literal["approve", "reject", "later"] = Field(description="later: it stays pending")
    reason: str = Field(pattern=r"\S", description="for those who ask later")
    by: str = Field(pattern=r"\S", title="Your name")
    despite_gates: bool = Field(default=False, description="Approve a version that failed gates; the history keeps it.")


def decide_as(word: str, model: str, version: str, by: str, reason: str, despite_gates: bool) -> str:
    """Carry out a person's decision."""
    by = check_name(by)
    if word == "approve":
        return str(approve(model, version, by, reason, despite_gates))
    return str(reject(model, version, by, reason))


def elsewhere(found: "Reviewed") -> str | None:
    """What was decided on a version meanwhile, in MLflow or on the command line; None while it waits."""
    settle(found.model)
    now = model_state(found.model)
    if (last := now.last(found.version)).event != "compared":
        return str(last)
    if now.champion == found.champion:
        return None
    champion = f"version {now.champion} is champion" if now.champion else "there is no champion"
    return f"version {found.version} waits, but {champion} now: review it again"


def _close(found: "Reviewed", deadline: float, closed: threading.Event) -> None:
    """Close a run's form, by an answer of its own, where it was decided elsewhere or nobody answers in time."""
    flow_run = FlowRunContext.get().flow_run.id
    answer = {"decision": "later", "reason": "decided elsewhere, or not in time", "by": "the review"}
    with get_client(sync_client=True) as client:
        while not closed.wait(POLL):
            with suppress(UserError, MlflowException, httpx.HTTPError):  # a store or server that is away for a moment
                state = client.read_flow_run(flow_run).state
                if state and (state.is_cancelling() or state.is_cancelled()):
                    os.kill(os.getpid(), signal.SIGTERM)  # as Prefect's worker would
                    return
                if time.monotonic() > deadline or elsewhere(found):
                    client.resume_flow_run(flow_run, run_input=answer)


def ask(found: "Reviewed", deadline: float) -> str:
    """Wait for a decision in Prefect's form or elsewhere; what came of it. A form that can't be carried out is shown
    again, with the reason."""
    context, closed = FlowRunContext.get(), threading.Event()
    flow_run, what = context.flow_run.id, f"{found.model} version {found.version}"
    has_pages = PREFECT_API_URL.value() != os.environ.get(TEMPORARY)
    place = f"; the form: {prefect_page(str(flow_run))}" if has_pages else "; without a standing Prefect server no form"
    seconds = max(0.0, deadline - time.monotonic())
    get_run_logger().info("%s: for %.0f minutes%s; %s", found.model, seconds / 60, place, pending(found))
    context.client.set_flow_run_name(flow_run, f"review: {found.model} {found.version} waits")
    watch = threading.Thread(target=copy_context().run, args=(_close, found, deadline, closed), daemon=True)
    watch.start()
    text, forms = f"**{what}**\n\n{found.verdict}\n\nThe page: `{found.address}`", 0
    try:
        while True:
            form, forms = Answer.with_initial_data(description=text), forms + 1
            patience = int(max(0.0, deadline - time.monotonic())) + SPARE
            answer = pause_flow_run(form, timeout=patience, poll_interval=POLL, key=artifact_key(f"{what} {forms}"))
            if outcome := elsewhere(found):
                return outcome
            if answer.decision == "later":
                return pending(found)
            given = answer.decision, found.model, found.version, answer.by, answer.reason, answer.despite_gates
            try:
                return decide_as(*given)
            except UserError as error:
                text = f"**Not done**: {error}\n\n{text}"
    finally:
        closed.set()
        watch.join()


def pending(found: "Reviewed") -> str:
    """What there is to decide, and the ways to do it."""
    from tasks.review.challenger import text, ways

    how = ways(found.model, found.version, bool(found.failed))
    lines = [text(found.verdict), f"page: {found.address}", *map(text, how)]
    return "\n".join([f"version {found.version} waits for a decision", *(f"  {line}" for line in lines)])
