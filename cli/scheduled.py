"""`threestage deploy`, `notify` and `overdue`: commands around scheduled runs."""

import re
import sys
from typing import Annotated

import typer

from cli.shared import Verbose, quick_imports, run_and_exit
from llm.errors import UserError

REMOVE = "remove"


def deploy(verbose: Verbose = False) -> None:
    """Bring the merged code to this checkout.

    Scheduled runs do this first. If it fails the exit code is still 0, and the run goes on with the code that is here.
    """
    from flows.deploy import bring_merged_code

    def work() -> None:
        typer.echo(bring_merged_code())

    run_and_exit("deploy", work, verbose)


def _check_name(name: str) -> str:
    if name == "threestage-notification" or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise typer.BadParameter(f"{name!r} is not of lower-case letters, digits and single dashes")
    return name


def notify(
    url: Annotated[str, typer.Argument(metavar="URL", help=f"The address, or `{REMOVE}`.")],
    name: Annotated[
        str, typer.Option(callback=_check_name, help="A name for the address, if there are several.")
    ] = "team",
    verbose: Verbose = False,
) -> None:
    """Send messages about failures, challengers and decisions.

    Messages to an address are about

    \b
      a run of retrain or smoke that failed or crashed
      a work pool `local` that no worker has polled for some minutes
      a retrain that is overdue: none has finished for 26 hours
      a version that was compared and waits for a decision
      a version that was approved, rejected, rolled back
        or removed as champion

    A URL has apprise's form; `-` asks for it, or reads it from a pipe:

    \b
      slack://TOKEN_A/TOKEN_B/TOKEN_C
      https://hooks.slack.com/services/...
      mailtos://USER:PASSWORD@HOST?to=ADDRESS
      json://HOST:PORT/PATH, jsons:// with TLS: a webhook

    It is a secret: Prefect encrypts it, and nothing shows it again. `remove` sends the address --name nothing any more.

    The texts and triggers of the messages are in deploy/automations.yaml. Run this again after you have edited them.
    """
    with quick_imports():
        from getpass import getpass

        from prefect.settings import PREFECT_API_URL

        from flows.notify import remove, set_up
        from tasks.stages.server import prefect_server

    def work() -> None:
        if not PREFECT_API_URL.value():
            raise UserError("a standing Prefect server sends the messages: set PREFECT_API_URL (`make ui` starts one)")
        with prefect_server():
            if url == REMOVE:
                outcome = remove(name)
            elif url != "-":
                outcome = set_up(url.strip(), name)
            else:  # keeps the URL out of the shell's history and the list of processes
                secret = getpass("URL: ") if sys.stdin.isatty() else sys.stdin.readline()
                outcome = set_up(secret.strip(), name)
        typer.echo(outcome)

    run_and_exit("notify", work, verbose)


def overdue(
    hours: Annotated[float, typer.Option(help="How long is too long.")] = 26,
    verbose: Verbose = False,
) -> None:
    """Fail if no retrain has finished lately."""
    with quick_imports():
        from prefect.settings import PREFECT_API_URL

        from flows.overdue import check
        from tasks.stages.server import prefect_server

    def work() -> None:
        if not PREFECT_API_URL.value():
            raise UserError("a standing Prefect server knows the runs: set PREFECT_API_URL")
        with prefect_server():
            typer.echo(check(hours))

    run_and_exit("overdue", work, verbose)
