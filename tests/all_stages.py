"""Run stages of the project in this folder, each in a fork of one process that has imported what they need.

`python -m all_stages` runs all of them and then `register`; `python -m all_stages pretrain register` runs these two.
Imports take most of the time of such small stages. `dvc commit` records what they made as `dvc repro` does.
"""

import os
import sys
from importlib import import_module

from dvc.repo import Repo

from cli.main import cli
from tasks.params import find_evaluation, find_training
from tasks.stages.dvc import stages
from tasks.stages.names import model_names

REGISTER = "register"
LATER = (  # what stages import only when they come to it
    *("mlflow.store.tracking.sqlalchemy_store", "mlflow.system_metrics.system_metrics_monitor", "mlflow.pyfunc"),
    *("git", "graphviz", "great_expectations", "matplotlib.backends.backend_svg"),
    "torch._dynamo",
)


def run_in_fork(*words: str) -> None:
    """Run a command line of `threestage`, and end with it unless it ends well."""
    child = os.fork()
    if not child:
        cli(words)
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(f"{' '.join(words)}: exit code {code}")


def main() -> None:
    """Run the stages that the command line names, or all in order, and the registration."""
    for name in ("fetch", "preprocess", "pretrain", "load_published", "replay", "finetune", "evaluate", "register"):
        import_module(f"flows.{name}")
    for name in LATER:
        import_module(name)
    for model in model_names():
        find_training(model)
        find_evaluation(model)
    asked = sys.argv[1:] or [*stages(), REGISTER]
    made = [stage for stage in asked if stage != REGISTER]
    for stage in made:
        run_in_fork(*stage.replace("evaluate_foundation", "evaluate@foundation").replace("_", "-").split("@"))
    with Repo() as repo:
        for stage in made:
            repo.commit(stage, force=True)
    if REGISTER in asked:
        run_in_fork(REGISTER)


if __name__ == "__main__":
    main()
