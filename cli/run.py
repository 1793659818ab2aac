"""`threestage run`: bring everything up to date.

It asks DVC and the registry what there is to do before it starts anything.
"""

import time

from app.project import in_project
from cli.shared import Verbose, quick_imports, run_and_exit, tracebacks
from llm.errors import UserError


def run(verbose: Verbose = False) -> None:
    """Bring models, evaluations, registry and reviews up to date."""
    in_project()
    from tasks.stages.parent_death import tie_to_parent

    tie_to_parent()
    started = time.monotonic()
    with quick_imports(), tracebacks(verbose):
        stale = _is_something_stale()
        if not stale and _print_if_all_is_registered():
            return
    from tasks.params.load import check_params
    from tasks.stages.command import lasted
    from tasks.stages.names import model_names
    from tasks.stages.server import prefect_server, run_as_child

    def check() -> None:
        if stale:  # if nothing is stale, the parameters ran before; checking them imports the models' libraries
            check_params()

    def work() -> str:
        with prefect_server(meanwhile=check):
            from flows.retrain import retrain
            from tasks.stages.libraries import write_libraries

            write_libraries()  # the checks are done: from here on DVC must know what computes
            run_as_child(retrain, {"share": False})
        from tasks.registry.register import registered
        from tasks.registry.summary import next_step, print_summary

        print_summary(registered(model_names()), f"Done in {lasted(started)}")
        return next_step(model_names())

    run_and_exit("flows", work, verbose)


def _is_something_stale() -> bool:
    """Whether a stage is stale, or a library that computes has another version than the recorded one."""
    from tasks.params.load import check_outline, check_params

    check_outline()
    from tasks.stages.graph import is_stale
    from tasks.stages.libraries import installed, recorded

    try:
        return recorded() != installed() or is_stale()
    except UserError:
        check_params()  # if params.yaml is the reason, this names the key
        raise


def _print_if_all_is_registered() -> bool:
    """Print the summary if every model is registered with the bytes in this folder; whether it is."""
    from tasks.registry.register import check_bytes, registered
    from tasks.registry.summary import print_summary
    from tasks.stages.names import model_names

    versions = registered(model_names())
    if not all(versions.values()):
        return False
    for model in versions:
        check_bytes(model)
    print_summary(versions, "Everything is up to date")
    return True
