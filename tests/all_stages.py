"""Run stages of the project in this folder, each in a fork of one process that has imported what they need.

`python -m all_stages` runs all of them and registers the models; `python -m all_stages pretrain register` these two.
Imports take most of the time of such small stages. `dvc commit` records what they made as `dvc repro` does.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module

from dvc.repo import Repo

from tasks.params import find_evaluation, find_training
from tasks.registry.register import register_model
from tasks.stages.dvc import stages
from tasks.stages.names import model_names

REGISTER = "register"
LATER = (  # what stages import only when they come to it
    *("mlflow.store.tracking.sqlalchemy_store", "mlflow.system_metrics.system_metrics_monitor", "mlflow.pyfunc"),
    *("git", "graphviz", "great_expectations", "matplotlib.backends.backend_svg"),
    "torch._dynamo",
)


def run_in_fork(name: str, main: Callable[[], None]) -> None:
    """Call the main function of a stage or a command, and end with it unless it ends well."""
    child = os.fork()
    if not child:
        sys.argv = [name, *name.split("@")[1:]]
        main()
        os._exit(1)  # it has exited
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(f"{name}: exit code {code}")


def register_all() -> None:
    """Register all models, as a night does."""
    for model in model_names():
        register_model(model)
    sys.exit()


def main() -> None:
    """Run the stages that the command line names, or all in order, and the registration."""
    for name in ("fetch", "preprocess", "pretrain", "load_published", "replay", "finetune", "evaluate"):
        import_module(f"flows.{name}")
    for name in LATER:
        import_module(name)
    for model in model_names():
        find_training(model)
        find_evaluation(model)
    asked = sys.argv[1:] or [*stages(), REGISTER]
    made = [stage for stage in asked if stage != REGISTER]
    for stage in made:
        command = stage.replace("evaluate_foundation", "evaluate@foundation")
        run_in_fork(command, import_module(f"flows.{command.split('@')[0]}").main)
    with Repo() as repo:
        repo.commit(force=True)
    if REGISTER in asked:
        run_in_fork(REGISTER, register_all)


if __name__ == "__main__":
    main()
