"""Whether a challenger becomes champion: `python -m flows.review`, then a person decides, or the gates alone."""

import os
import re
import signal
import sys
import threading
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from getpass import getuser
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

import httpx
from mlflow.exceptions import MlflowException
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.settings import PREFECT_API_URL
from pydantic import Field

from llm.errors import UserError
from tasks.registry import decisions, standing
from tasks.stages.command import run_command
from tasks.stages.lock import STATE
from tasks.stages.params import model_names
from tasks.stages.server import (
    TEMPORARY,
    artifact_key,
    prefect_page,
    prefect_server,
    quiet_stops,
    run_as_child,
    tag_with_workspace,
)

if TYPE_CHECKING:
    from tasks.review.challenger import Reviewed

GATES = "gates"  # who decides with --auto
POLL = 2  # seconds between two looks at what people said
SPARE = 600  # seconds that a form stays open beyond the wait, whose end this process says itself
LONGEST = 10_080  # minutes, a week
HISTORY = "history"
DECIDE = ("approve", "reject", "rollback")
HELP = """\
Compare each model's challenger with its champion, or with its baseline while there is none, on the same test rows, and
hold it against its gates in params.yaml. The page of the comparison is linked in the version's description. Then a
person decides: here, in MLflow, or in Prefect's form."""
MORE = """\
to decide:
  python -m flows.review approve MODEL[/VERSION] --reason TEXT [--by NAME]   makes it champion
  python -m flows.review reject MODEL[/VERSION] --reason TEXT [--by NAME]    it is no challenger any more
  python -m flows.review rollback MODEL --reason TEXT [--by NAME]            makes the champion before champion again
  python -m flows.review history MODEL                                       who decided what, when and why

exit codes: 0 done, whatever was decided, also where it still waits for a person; 1 an error, said in a line, such as a
decision that can't be carried out or a model that can't be compared; 2 a wrong option; 130 interrupted; 143 terminated
"""

Minutes = Annotated[float, Field(ge=0, le=LONGEST)]


class NotReviewedError(UserError):
    """Some models could not be reviewed; `outcomes` has the others."""

    def __init__(self, failed: Mapping[str, UserError], outcomes: dict[str, str]) -> None:
        super().__init__("; ".join(f"{model}: {error}" for model, error in failed.items()))
        self.outcomes = outcomes


class Answer(RunInput):
    """What a person says in Prefect's form."""

    decision: Literal["approve", "reject", "later"] = Field(description="later: it stays pending")
    reason: str = Field(pattern=r"\S", description="for those who ask later")
    by: str = Field(pattern=r"\S", title="Your name")


@task(task_run_name="review {model}", cache_policy=NO_CACHE, persist_result=False)
def review_model(model: str) -> "Reviewed | str":
    """Carry out what people said by hand, then compare; what there is to decide, or why there is nothing."""
    from tasks.review.challenger import review_challenger

    for version, said in decisions.settle(model).items():
        get_run_logger().info("%s version %s %s by %s: %s", model, version, said.decision, said.by, said.reason)
    found = review_challenger(model)
    if not isinstance(found, str):
        create_markdown_artifact(found.page, key=artifact_key(f"review-{model}"), description=found.verdict)
    return found


def _by_gates(found: "Reviewed") -> str:
    decide = decisions.approve if found.passed else decisions.reject
    return str(decide(found.model, found.version, by=GATES, reason=found.reason))


def _meanwhile(found: "Reviewed") -> str | None:
    """What became of a pending version elsewhere, in MLflow or on the command line; None while it waits."""
    said = standing.said(found.model, found.version)
    champion = standing.standing(found.model).champion
    if champion not in (found.champion, found.version) and not (said and said.done):
        now = f"version {champion} is champion" if champion else "there is no champion"
        return f"version {found.version} waits, but {now} now: review it again"
    if said is None or said.decision == "unclear":
        return None
    decisions.carry_out(found.model, found.version)
    return f"version {found.version} {said.decision} by {said.by}: {said.reason}"


def _close(flow_run: UUID, deadline: float, over: Callable[[], bool], closed: threading.Event) -> None:
    """Close a run's form, by an answer of its own, where it was decided elsewhere or nobody answers in time."""
    answer = {"decision": "later", "reason": "decided elsewhere, or not in time", "by": "the review"}
    with get_client(sync_client=True) as client:
        while not closed.wait(POLL):
            with suppress(UserError, MlflowException, httpx.HTTPError):  # a store or server that is away for a moment
                state = client.read_flow_run(flow_run).state
                if state and (state.is_cancelling() or state.is_cancelled()):
                    os.kill(os.getpid(), signal.SIGTERM)  # as Prefect's worker would
                    return
                if time.monotonic() > deadline or over():
                    client.resume_flow_run(flow_run, run_input=answer)


def _ask(found: "Reviewed", deadline: float) -> str:
    """Wait in Prefect's form for a person's decision, or for one that is made elsewhere; what came of it."""
    context, closed = FlowRunContext.get(), threading.Event()
    flow_run, what = context.flow_run.id, f"{found.model} version {found.version}"
    over = (flow_run, deadline, lambda: _meanwhile(found) is not None, closed)
    watch = threading.Thread(target=copy_context().run, args=(_close, *over), daemon=True)
    watch.start()
    has_pages = PREFECT_API_URL.value() != os.environ.get(TEMPORARY)
    place = f"; the form: {prefect_page(str(flow_run))}" if has_pages else "; without a standing Prefect server no form"
    seconds = max(0.0, deadline - time.monotonic())
    get_run_logger().info("%s: for %.0f minutes%s; %s", found.model, seconds / 60, place, _pending(found))
    context.client.set_flow_run_name(flow_run, f"review: {found.model} {found.version} waits")
    form = Answer.with_initial_data(description=f"**{what}**\n\n{found.verdict}\n\nThe page: `{found.address}`")
    try:
        answer = pause_flow_run(form, timeout=int(seconds) + SPARE, poll_interval=POLL, key=artifact_key(what))
    finally:
        closed.set()
        watch.join()
    if said := _meanwhile(found):
        return said
    if answer.decision == "later":
        return _pending(found)
    decide = decisions.approve if answer.decision == "approve" else decisions.reject
    return str(decide(found.model, found.version, by=answer.by, reason=answer.reason))


def _decided(found: "Reviewed", auto: bool, deadline: float | None) -> str:
    if said := _meanwhile(found):
        return said
    if auto:
        return _by_gates(found)
    return _pending(found) if deadline is None else _ask(found, deadline)


def _pending(found: "Reviewed") -> str:
    from tasks.review.challenger import text, ways

    lines = [text(found.verdict), f"page: {found.address}", *map(text, ways(found.model, found.version))]
    return "\n".join([f"version {found.version} waits for a decision", *(f"  {line}" for line in lines)])


def _chosen(models: Sequence[str] | None) -> list[str]:
    known = model_names()
    if unknown := [model for model in models or () if model not in known]:
        raise UserError(f"there is no model {unknown[0]!r}; those are: {', '.join(known)}")
    return list(dict.fromkeys(models or known))


def _name(outcomes: dict[str, str]) -> str:
    """What a run is called by what became of the versions."""
    states = r"version (\d+) (approved|rejected|withdrawn|waits)"
    found = {model: re.match(states, outcome) for model, outcome in outcomes.items()}
    said = [f"{model} {each[1]} {each[2]}" for model, each in found.items() if each]
    return f"review: {', '.join(said) or 'nothing to decide'}"


@flow(name="review", flow_run_name="review")
def review(models: list[str] | None = None, auto: bool = False, wait_minutes: Minutes = 0) -> dict[str, str]:
    """Compare the challengers with their champions, and see who becomes champion. Returns what became of each model.

    Args:
        models: those whose challengers are reviewed; without any, all
        auto: the gates alone decide
        wait_minutes: how long a person has to decide in this run's form; after that versions stay pending
    """
    if auto and wait_minutes:
        raise UserError("auto and wait_minutes: either the gates decide or a person does")
    quiet_stops()
    context, log = FlowRunContext.get(), get_run_logger()
    tag_with_workspace(context.client, context.flow_run)
    found: dict[str, Reviewed] = {}
    outcomes: dict[str, str] = {}
    failed: dict[str, UserError] = {}
    for model in _chosen(models):
        try:
            reviewed = review_model(model)
        except UserError as error:  # the other models are reviewed all the same
            failed[model] = error
        else:
            (outcomes if isinstance(reviewed, str) else found)[model] = reviewed
            if model in found and reviewed.new and not auto:
                reviewed.announce()
    deadline = time.monotonic() + wait_minutes * 60
    for model, reviewed in found.items():
        try:
            outcomes[model] = _decided(reviewed, auto, deadline if wait_minutes else None)
        except UserError as error:
            failed[model] = error
    for model, outcome in outcomes.items():
        log.info("%s: %s", model, outcome.partition("\n")[0])
    context.client.set_flow_run_name(context.flow_run.id, _name(outcomes))
    if failed:
        raise NotReviewedError(failed, outcomes)
    return outcomes


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")


def _reviewing(options: Namespace) -> None:
    """Run the flow on the configured Prefect server or on a temporary one, and print what came of it."""
    parameters = {"models": _chosen(options.words), "auto": options.auto, "wait_minutes": options.wait}
    with prefect_server():
        try:
            outcomes = run_as_child(review, parameters)
        except NotReviewedError as error:
            _print(f"{model}: {outcome}" for model, outcome in error.outcomes.items())
            raise
    _print(f"{model}: {outcome}" for model, outcome in outcomes.items())


def _decide(options: Namespace) -> None:
    """Carry out what is said on the command line."""
    word, (model, _, version) = options.words[0], options.words[1].partition("/")
    _chosen([model])
    try:
        by = options.by or getuser()
    except (KeyError, OSError):  # a container's user has no name
        raise UserError("nobody knows who you are: --by NAME") from None
    said = {"by": by, "reason": options.reason}
    if word == "rollback":
        champion = version or standing.standing(model).champion
        now = decisions.rollback(model, instead_of=champion, **said)
        return _print([f"{model}: version {now} is champion again"])
    version = version or _waiting(model)
    _print([f"{model}: {(decisions.approve if word == 'approve' else decisions.reject)(model, version, **said)}"])


def _waiting(model: str) -> str:
    """The version that a decision without one means: the challenger, else the newest that is pending."""
    now = standing.standing(model)
    pending = [version for version, state in now.state_of.items() if state == standing.PENDING]
    version = now.challenger or next(iter(pending), None)
    if version is None:
        raise UserError(f"{model}: no version waits for a decision; name one as {model}/VERSION")
    return version


def _show_history(options: Namespace) -> None:
    (model,) = _chosen(options.words[1:])
    now = standing.standing(model)
    aliases = {"champion": now.champion, "previous": now.previous, "challenger": now.challenger}
    _print(str(each) for each in standing.history(model))
    _print([f"now: {', '.join(f'{alias} {version}' for alias, version in aliases.items() if version) or 'no alias'}"])


def _parse() -> Namespace:
    parser = ArgumentParser(
        prog="python -m flows.review",
        usage="%(prog)s [MODEL ...] [--auto | --wait MINUTES]",
        description=HELP,
        epilog=MORE,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="MODEL", help="whose challenger is reviewed; without any, all")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--auto", action="store_true", help="the gates alone decide: all must pass")
    who.add_argument(
        "--wait", type=float, default=0, metavar="MINUTES", help="wait for a person; Prefect shows a form meanwhile"
    )
    parser.add_argument("--reason", metavar="TEXT", help="of a decision; it is kept with it")
    parser.add_argument("--by", metavar="NAME", help="who decides; without it, this user")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of every error")
    options = parser.parse_intermixed_args()
    word = options.words[0] if options.words else ""
    deciding = word in DECIDE
    if (deciding or word == HISTORY) and len(options.words) != 2:
        parser.error(f"{word} takes one MODEL")
    if deciding != (options.reason is not None) or (options.by and not deciding):
        parser.error(f"{word} takes --reason TEXT" if deciding else "--reason and --by are of a decision")
    if (deciding or word == HISTORY) and (options.auto or options.wait):
        parser.error(f"--auto and --wait are not for {word}")
    if not 0 <= options.wait <= LONGEST:
        parser.error(f"--wait: {options.wait:g} is not from 0 to {LONGEST}")
    return options


def main() -> int:
    """Review, or carry out a decision; the exit code."""
    options = _parse()
    word = options.words[0] if options.words else ""
    work = _decide if word in DECIDE else _show_history if word == HISTORY else _reviewing
    return run_command(lambda: work(options), STATE / "review" / "log", verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main())
