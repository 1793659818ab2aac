"""`threestage deploy`, with which a scheduled run begins."""

import typer

from cli.shared import Verbose, run_and_exit


def deploy(verbose: Verbose = False) -> None:
    """Bring the merged code to this checkout.

    Scheduled runs do this first. If it fails the exit code is still 0, and the run goes on with the code that is here.
    """
    from flows.deploy import bring_merged_code

    def work() -> None:
        typer.echo(bring_merged_code())

    run_and_exit("deploy", work, verbose)
