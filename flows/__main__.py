"""The main job: `python -m flows`. Asks DVC and the registry what there is to do before it starts anything."""

import argparse
import gc
import sys
import time
from typing import get_args


def main() -> int:
    """Retrain where anything is stale or not registered, then say what there is; the exit code."""
    description = "Bring the models, their evaluations and the registry up to date."
    argparse.ArgumentParser(prog="python -m flows", description=description).parse_args()
    started = time.monotonic()
    gc.disable()  # looking for garbage among what DVC and MLflow import took half of the 5 s of an answer
    from tasks.graph import is_stale
    from tasks.params import Model, load_params
    from tasks.registry import registered
    from tasks.summary import print_summary

    try:
        load_params()
        stale = is_stale()
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if not stale and all((versions := registered(get_args(Model))).values()):
        print_summary(versions, "Everything is up to date")
        gc.freeze()
        return 0

    gc.enable()
    from flows.retrain import retrain
    from tasks.stages import prefect_server, run_as_child, run_command

    def work() -> None:
        with prefect_server():
            run_as_child(retrain, {})
        minutes, seconds = divmod(round(time.monotonic() - started), 60)
        print_summary(registered(get_args(Model)), f"Done in {minutes} min {seconds} s")

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
