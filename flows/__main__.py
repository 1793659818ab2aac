"""The main command: `python -m flows`. It asks DVC and the registry what there is to do before it starts anything."""

import argparse
import gc
import sys
import time


def main() -> int:
    """Retrain what is stale, register, review new challengers, and print a summary. Returns the exit code."""
    description = "Bring the models, their evaluations, the registry and its reviews up to date."
    parser = argparse.ArgumentParser(prog="python -m flows", description=description)
    parser.add_argument("--verbose", action="store_true", help="show the traceback of every error")
    options = parser.parse_args()
    try:
        return _bring_up_to_date(verbose=options.verbose)
    except KeyboardInterrupt:  # before a stage began
        sys.stderr.write("interrupted\n")
        return 130


def _bring_up_to_date(*, verbose: bool) -> int:
    began = time.monotonic()
    from llm.errors import UserError
    from tasks.params.load import check_outline, check_params
    from tasks.stages.names import model_names

    try:
        check_outline()
        from tasks.registry.register import check_bytes, registered
        from tasks.registry.summary import next_step, print_summary
        from tasks.stages.graph import is_stale
        from tasks.stages.libraries import installed, recorded, write_libraries

        try:
            stale = recorded() != installed() or is_stale()
        except UserError:
            check_params()  # if params.yaml is the reason, this names the key
            raise
        versions = {} if stale else registered(model_names())
        if not stale and all(versions.values()):
            for model in versions:
                check_bytes(model)
            print_summary(versions, "Everything is up to date")
            gc.freeze()
            return 0
    except UserError as error:
        if verbose:
            raise
        sys.stderr.write(f"error: {error}\n")
        return 1

    from tasks.stages.command import lasted, run_command
    from tasks.stages.lock import STATE
    from tasks.stages.server import prefect_server, run_as_child

    def check() -> None:
        if stale:  # if nothing is stale, the parameters ran before; checking them imports the models' libraries
            check_params()

    def work() -> str:
        with prefect_server(meanwhile=check):
            from flows.retrain import retrain

            write_libraries()  # the checks are done: from here on DVC must know what computes
            run_as_child(retrain, {"share": False})
        print_summary(registered(model_names()), f"Done in {lasted(began)}")
        return next_step(model_names())

    return run_command(work, STATE / "flows" / "log", verbose=verbose)


if __name__ == "__main__":
    sys.exit(main())
