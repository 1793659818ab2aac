"""A stage of the DVC graph as a command: `python -m flows.<flow> [NAME]`."""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any, NoReturn

from prefect import Flow

from llm.errors import UserError
from tasks.params import check_params
from tasks.stages.libraries import check_libraries
from tasks.stages.lock import exclusive
from tasks.stages.parent_death import die_with_parent
from tasks.stages.prefect import prefect_server, run_flow
from tasks.stages.process import LOCK_PATIENCE, STAGE, run_command, state_folder


def run_stage(
    flow: Flow[..., Any],
    stage_of: Callable[..., str],
    load: Callable[..., dict[str, Any]],
    names: Callable[[], list[str]] | None = None,
) -> NoReturn:
    """Run a stage of the DVC graph as a command, `python -m flows.<flow> [NAME]`, and end with its exit code.

    Of its NAME, which is one of `names`, `stage_of` makes that of the stage and `load` the parameters of the flow. Both
    have no argument if there are no names.
    """
    parser = ArgumentParser(prog=f"python -m flows.{flow.fn.__name__}", description=flow.description)
    parser.add_argument("--verbose", action="store_true", help="show the traceback of every error")
    try:
        if names is not None:
            parser.add_argument("name", choices=names())
    except UserError as error:
        parser.exit(1, f"error: {error}\n")
    values = vars(parser.parse_args())
    verbose = values.pop("verbose")
    if STAGE in os.environ:
        die_with_parent()
    stage = os.environ.setdefault(STAGE, stage_of(*values.values()))

    def work() -> None:
        check_params()
        parameters = load(*values.values())
        check_libraries()
        with exclusive(f"stages/{stage}", LOCK_PATIENCE), prefect_server():
            run_flow(flow, parameters)

    sys.exit(run_command(work, state_folder(stage) / "log", verbose=verbose))
