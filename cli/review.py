"""`threestage review`, `approve`, `reject` and `rollback`: compare challengers with champions, and decide on them."""

from typing import TYPE_CHECKING, Annotated

import typer

from app.project import in_project
from cli.shared import Verbose, run_and_exit
from llm.errors import UserError

if TYPE_CHECKING:
    from tasks.registry.decide import Decision

Version = Annotated[str, typer.Argument(metavar="MODEL[/VERSION]", help="By default the version that waits.")]
Champion = Annotated[str, typer.Argument(metavar="MODEL[/VERSION]", help="The champion; with its version, only that.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="It is kept with the decision.")]
By = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who decides; by default MLflow's user, else this system's.")
]


def review(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Models whose challengers are reviewed; else all.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Compare challengers with champions, or with the baseline.

    Both have answered the same test rows, and the gates in params.yaml are checked. The page that is named shows the
    comparison. Then a person decides: by `approve` or `reject`, in MLflow, or by Prefect's deployment `decide`.
    """
    in_project()

    def work() -> None:
        from tasks.params import check_params
        from tasks.review.review import review as review_model
        from tasks.stages.names import model_names

        names = model_names()
        if unknown := set(models or ()) - {*names}:
            raise UserError(f"there is no model {', '.join(sorted(unknown))!r}; those are: {', '.join(names)}")
        check_params()
        failures = []
        for model in models or names:
            try:
                typer.echo(f"{model}: {review_model(model)}")
            except UserError as error:  # the other models are reviewed all the same
                failures.append(f"{model}: {error}")
        if failures:
            raise UserError("; ".join(failures))

    run_and_exit("review", work, verbose)


def approve(
    model: Version,
    reason: Reason,
    by: By = None,
    despite_gates: Annotated[
        bool, typer.Option("--despite-gates", help="Approve even a version that failed gates.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Make a version champion.

    A version that failed a gate needs --despite-gates; its tags keep that.
    """
    _decide("approve", model, reason, by=by, despite_gates=despite_gates, verbose=verbose)


def reject(model: Version, reason: Reason, by: By = None, verbose: Verbose = False) -> None:
    """Turn a version down: it is no longer the challenger."""
    _decide("reject", model, reason, by=by, verbose=verbose)


def rollback(model: Champion, reason: Reason, by: By = None, verbose: Verbose = False) -> None:
    """Make the previous champion champion again."""
    _decide("rollback", model, reason, by=by, verbose=verbose)


def _decide(
    decision: "Decision", which: str, reason: str, *, by: str | None, despite_gates: bool = False, verbose: bool
) -> None:
    in_project()

    def work() -> None:
        from tasks.registry.decide import carry_out

        model, _, version = which.partition("/")
        _, outcome = carry_out(decision, model, version, by=by or _user(), reason=reason, despite_gates=despite_gates)
        typer.echo(f"{model}: {outcome}")

    run_and_exit("review", work, verbose)


def _user() -> str:
    """MLflow's user, or this system's. Raises UserError if there is none."""
    from getpass import getuser

    from mlflow.environment_variables import MLFLOW_TRACKING_USERNAME

    try:
        return MLFLOW_TRACKING_USERNAME.get() or getuser()
    except (KeyError, OSError):  # a container's user may have no name
        raise UserError("this system's user has no name: give yours with --by NAME") from None
