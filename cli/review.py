"""`threestage review`: compare challengers with champions, decide on them, and read who decided what."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from app.project import in_project
from cli.shared import Verbose, run_and_exit
from llm.errors import UserError

if TYPE_CHECKING:
    from tasks.registry.history import ModelState

COMPARE = "compare"
WEEK = 7 * 24 * 60
"""Minutes."""
Version = Annotated[str, typer.Argument(metavar="MODEL[/VERSION]", help="By default the version that waits.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="It is kept with the decision.")]
By = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who decides; by default MLflow's user, else this system's.")
]
DespiteGates = Annotated[bool, typer.Option("--despite-gates", help="Approve even a version that failed gates.")]


class ComparesByDefault(TyperGroup):
    """`threestage review classifier` is `threestage review compare classifier`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Insert the default command."""
        if not args or args[0] not in (*self.commands, "--help"):
            args = [COMPARE, *args]
        return super().parse_args(ctx, args)


review = typer.Typer(
    name="review",
    cls=ComparesByDefault,
    help="Compare challengers with champions, and decide.\n\n"
    "`threestage review [MODEL]...` is short for `threestage review compare [MODEL]...`.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@review.command(COMPARE)
def compare(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Models whose challengers are reviewed; else all.")
    ] = None,
    auto: Annotated[bool, typer.Option("--auto", help="The gates decide; if one is not known, a person does.")] = False,
    wait: Annotated[
        int, typer.Option(min=0, max=WEEK, metavar="MINUTES", help="Wait for a person; Prefect shows a form meanwhile.")
    ] = 0,
    verbose: Verbose = False,
) -> None:
    """Compare challengers with champions, then decide or wait.

    While there is no champion, the challenger is compared with its baseline. Both answer the same test rows, and the
    gates in params.yaml are checked. The version's description links the page of the comparison. Then a person decides:
    here, in MLflow, or in Prefect's form.
    """
    if auto and wait:
        raise typer.BadParameter("not allowed with --auto", param_hint="--wait")
    in_project()
    from flows.review import NotReviewedError, chosen_models
    from flows.review import review as flow
    from tasks.stages.parent_death import tie_to_parent
    from tasks.stages.server import prefect_server, run_as_child

    tie_to_parent()

    def work() -> None:
        parameters = {"models": chosen_models(models), "auto": auto, "wait_minutes": wait}
        with prefect_server():
            try:
                _print(run_as_child(flow, parameters))
            except NotReviewedError as error:
                _print(error.outcomes)
                raise

    run_and_exit("review", work, verbose)


@review.command()
def approve(
    model: Version,
    reason: Reason,
    by: By = None,
    despite_gates: DespiteGates = False,
    verbose: Verbose = False,
) -> None:
    """Make a version champion.

    A version that failed a gate needs --despite-gates; the history keeps that.
    """
    _decide("approve", model, reason, by=by, despite_gates=despite_gates, verbose=verbose)


@review.command()
def reject(model: Version, reason: Reason, by: By = None, verbose: Verbose = False) -> None:
    """Turn a version down: it is no longer the challenger."""
    _decide("reject", model, reason, by=by, verbose=verbose)


@review.command()
def rollback(model: Version, reason: Reason, by: By = None, verbose: Verbose = False) -> None:
    """Make the previous champion champion again."""
    in_project()
    from tasks.registry.decide import check_name, roll_back

    def work() -> None:
        choice = _find(model)
        current = choice.version or choice.state.champion
        outcome = roll_back(choice.model, by=check_name(by or _user()), reason=reason, instead_of=current)
        _print({choice.model: outcome})

    run_and_exit("review", work, verbose)


@review.command()
def history(model: Annotated[str, typer.Argument(metavar="MODEL")], verbose: Verbose = False) -> None:
    """Show who decided what, when and why."""
    in_project()

    def work() -> None:
        state = _find(model).state
        aliases = {"champion": state.champion, "previous": state.previous, "challenger": state.challenger}
        present = ", ".join(f"{alias} {version}" for alias, version in aliases.items() if version)
        for event in state.history:
            typer.echo(event)
        typer.echo(f"now: {present or 'no alias'}")

    run_and_exit("review", work, verbose)


def _decide(
    decision: str, model: str, reason: str, *, by: str | None, despite_gates: bool = False, verbose: bool
) -> None:
    """Decide on the named version, else the challenger, else the newest that waits."""
    in_project()
    from flows.form import decide_as
    from tasks.registry.versions import PENDING

    def work() -> None:
        choice = _find(model)
        waiting = [version for version, state in choice.state.state_of.items() if state == PENDING]
        version = choice.version or choice.state.challenger or next(iter(waiting), "")
        if not version:
            raise UserError(f"{choice.model}: no version waits for a decision; name one as {choice.model}/VERSION")
        outcome = decide_as(
            decision,
            model=choice.model,
            version=version,
            by=by or _user(),
            reason=reason,
            despite_gates=despite_gates,
        )
        _print({choice.model: outcome})

    run_and_exit("review", work, verbose)


@dataclass(frozen=True)
class Choice:
    """What MODEL[/VERSION] names."""

    model: str
    version: str
    """Empty if none is named."""
    state: "ModelState"


def _find(name: str) -> Choice:
    """The model and version of a name, and the model's state. Raises UserError for an unknown model."""
    from flows.review import chosen_models
    from tasks.registry.decide import model_state

    model, _, version = name.partition("/")
    chosen_models([model])
    return Choice(model=model, version=version, state=model_state(model))


def _user() -> str:
    """MLflow's user, or this system's. Raises UserError if there is none."""
    from getpass import getuser

    from mlflow.environment_variables import MLFLOW_TRACKING_USERNAME

    try:
        return MLFLOW_TRACKING_USERNAME.get() or getuser()
    except (KeyError, OSError):  # a container's user may have no name
        raise UserError("this system's user has no name: give yours with --by NAME") from None


def _print(outcomes: Mapping[str, object]) -> None:
    for model, outcome in outcomes.items():
        typer.echo(f"{model}: {outcome}")
