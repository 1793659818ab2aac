"""`threestage review`: compare challengers with champions, decide on them, and read who decided what."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from app.project import in_project
from cli.shared import Verbose, run_and_exit
from llm.errors import UserError

if TYPE_CHECKING:
    from flows.decide import Decision

COMPARE = "compare"
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
    verbose: Verbose = False,
) -> None:
    """Compare challengers with champions.

    While there is no champion, the challenger is compared with its baseline. Both answer the same test rows, and the
    gates in params.yaml are checked. The version's description links the page of the comparison. Then a person decides:
    here, in MLflow, or by Prefect's deployment `decide`.
    """
    in_project()
    from flows.decide import chosen_models
    from flows.review import NotReviewedError
    from flows.review import review as flow
    from tasks.stages.parent_death import tie_to_parent
    from tasks.stages.prefect import prefect_server, run_flow

    tie_to_parent()

    def work() -> None:
        parameters = {"models": chosen_models(models), "auto": auto}
        with prefect_server():
            try:
                _print(run_flow(flow, parameters))
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
    _decide("rollback", model, reason, by=by, verbose=verbose)


@review.command()
def history(model: Annotated[str, typer.Argument(metavar="MODEL")], verbose: Verbose = False) -> None:
    """Show who decided what, when and why."""
    in_project()
    from flows.decide import chosen_models
    from tasks.registry.decide import model_state

    def work() -> None:
        name = model.partition("/")[0]
        chosen_models([name])
        state = model_state(name)
        aliases = {"champion": state.champion, "previous": state.previous, "challenger": state.challenger}
        present = ", ".join(f"{alias} {version}" for alias, version in aliases.items() if version)
        for event in state.history:
            typer.echo(event)
        typer.echo(f"now: {present or 'no alias'}")

    run_and_exit("review", work, verbose)


def _decide(
    decision: "Decision", model: str, reason: str, *, by: str | None, despite_gates: bool = False, verbose: bool
) -> None:
    """Decide on the named version, or on the one that `carry_out` chooses."""
    in_project()
    from flows.decide import carry_out

    def work() -> None:
        name, _, version = model.partition("/")
        event = carry_out(decision, name, version, by=by or _user(), reason=reason, despite_gates=despite_gates)
        _print({name: event})

    run_and_exit("review", work, verbose)


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
