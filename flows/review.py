"""Compare challengers with their champions: `python -m flows.review`. A person, or the gates alone, then decide."""

import re
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from getpass import getuser
from typing import TYPE_CHECKING, Annotated

from mlflow.environment_variables import MLFLOW_TRACKING_USERNAME
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from pydantic import Field

from flows.form import ask, decide_as, decided_elsewhere, pending
from llm.errors import UserError
from tasks.registry.decide import GATES, approve, check_name, model_state, reject, roll_back, settle
from tasks.registry.events import WAITS, emit, is_announced, send_unsent
from tasks.registry.versions import PENDING
from tasks.stages.command import run_command
from tasks.stages.end_states import quiet_stops
from tasks.stages.lock import STATE
from tasks.stages.names import model_names
from tasks.stages.server import leave_artifact, prefect_server, run_as_child

if TYPE_CHECKING:
    from tasks.review.challenger import Reviewed

LONGEST = 10_080  # minutes: a week
DECIDE, HISTORY = ("approve", "reject", "rollback"), "history"
STATES = r"version (\d+) (approved|rejected|superseded|withdrawn|waits)"
HELP = """\
Compare each model's challenger with its champion, or with its baseline while there is none, on the same test rows, and
check its gates in params.yaml. The version's description links the page of the comparison. Then a person decides: here,
in MLflow, or in Prefect's form.

to decide:
  python -m flows.review approve MODEL[/VERSION] --reason TEXT [--by NAME]   makes it champion
  python -m flows.review reject MODEL[/VERSION] --reason TEXT [--by NAME]    it is no longer the challenger
  python -m flows.review rollback MODEL --reason TEXT [--by NAME]            makes the previous champion champion again
  python -m flows.review history MODEL                                       who decided what, when and why

A version that failed a gate needs --despite-gates to be approved; the history keeps that."""
MORE = """\
exit codes: 0 done, even if a version still waits for a person; 1 an error, printed on one line, such as a decision
that is refused or a model that can't be compared; 2 a wrong option; 130 interrupted; 143 terminated
"""

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


def _chosen(models: Sequence[str] | None) -> list[str]:
    known = model_names()
    if unknown := [model for model in models or () if model not in known]:
        raise UserError(f"there is no model {unknown[0]!r}; those are: {', '.join(known)}")
    return list(dict.fromkeys(models or known))


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
    for model in _chosen(models):
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


def _print(outcomes: Mapping[str, object]) -> None:
    sys.stdout.writelines(f"{model}: {outcome}\n" for model, outcome in outcomes.items())


def _review(options: Namespace) -> None:
    """Run the flow on the configured Prefect server or on a temporary one, and print the outcomes."""
    parameters = {"models": _chosen(options.models), "auto": options.auto, "wait_minutes": options.wait}
    with prefect_server():
        try:
            _print(run_as_child(review, parameters))
        except NotReviewedError as error:
            _print(error.outcomes)
            raise


def _history(options: Namespace) -> None:
    now = model_state(*_chosen([options.model]))
    aliases = {"champion": now.champion, "previous": now.previous, "challenger": now.challenger}
    there = ", ".join(f"{alias} {version}" for alias, version in aliases.items() if version)
    sys.stdout.writelines(f"{line}\n" for line in (*now.history, f"now: {there or 'no alias'}"))


def _decision(options: Namespace) -> None:
    """Carry out a decision given on the command line: on the named version, else the challenger, else the newest that
    waits."""
    model, _, version = options.model.partition("/")
    now = model_state(*_chosen([model]))
    try:
        by = options.by or MLFLOW_TRACKING_USERNAME.get() or getuser()
    except (KeyError, OSError):  # a container's user may have no name
        raise UserError("this system's user has no name: give yours with --by NAME") from None
    if options.word == "rollback":
        leaving = version or now.champion
        event = roll_back(model, by=check_name(by), reason=options.reason, instead_of=leaving)
        return _print({model: event})
    pending_ones = (each for each, state in now.state_of.items() if state == PENDING)
    if not (version := version or now.challenger or next(pending_ones, "")):
        raise UserError(f"{model}: no version waits for a decision; name one as {model}/VERSION")
    despite_gates = getattr(options, "despite_gates", False)
    _print({model: decide_as(options.word, model, version, by, options.reason, despite_gates)})


def _parse() -> Namespace:
    word = next(iter(sys.argv[1:]), "")
    if word in (*DECIDE, HISTORY):
        parser = ArgumentParser(prog=f"python -m flows.review {word}")
        parser.add_argument("model", metavar="MODEL" if word == HISTORY else "MODEL[/VERSION]")
        parser.set_defaults(word=word, work=_history if word == HISTORY else _decision)
        if word in DECIDE:
            parser.add_argument("--reason", required=True, metavar="TEXT", help="it is kept with the decision")
            parser.add_argument(
                "--by", metavar="NAME", help="who decides; by default MLflow's user, else this system's"
            )
        if word == "approve":
            parser.add_argument("--despite-gates", action="store_true", help="approve even a version that failed gates")
    else:
        usage = "%(prog)s [MODEL ...] [--auto | --wait MINUTES]"
        look = {"formatter_class": RawDescriptionHelpFormatter, "description": HELP, "epilog": MORE}
        parser = ArgumentParser(prog="python -m flows.review", usage=usage, **look)
        parser.add_argument(
            "models", nargs="*", metavar="MODEL", help="a model whose challenger is reviewed; all by default"
        )
        who = parser.add_mutually_exclusive_group()
        who.add_argument("--auto", action="store_true", help="the gates decide; if one is not known, a person does")
        minutes = "wait for a person; Prefect shows a form meanwhile"
        who.add_argument("--wait", type=float, default=0, metavar="MINUTES", help=minutes)
        parser.set_defaults(work=_review)
    parser.add_argument("--verbose", action="store_true", help="show the traceback of every error")
    options = parser.parse_intermixed_args(sys.argv[2:] if word in (*DECIDE, HISTORY) else None)
    if not 0 <= getattr(options, "wait", 0) <= LONGEST:
        parser.error(f"--wait: {options.wait:g} is not from 0 to {LONGEST}")
    return options


def main() -> int:
    """Review, or carry out a decision; the exit code."""
    options = _parse()
    return run_command(lambda: options.work(options), STATE / "review" / "log", verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main())
