"""Make everything in the project of this folder: each stage in a fork of one process that has imported what they need.

Imports are most of what such small stages take. `dvc commit` then records what they made as `dvc repro` does, which the
tests of changed projects run.
"""

import os
import runpy
import sys
from importlib import import_module

from dvc.repo import Repo

from tasks.applications import evaluation, training
from tasks.stages.graph import stages
from tasks.stages.params import model_names

LATER = (  # what stages import only when they come to it
    *("mlflow.store.tracking.sqlalchemy_store", "mlflow.system_metrics.system_metrics_monitor", "mlflow.pyfunc"),
    *("git", "graphviz", "great_expectations", "matplotlib.backends.backend_svg"),
    "torch._dynamo",
)


def run_in_fork(module: str, *arguments: str) -> None:
    """Run a module as a command line, and end with it unless it ends well."""
    child = os.fork()
    if not child:
        sys.argv = [module, *arguments]
        del sys.modules[module]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(f"{module} {' '.join(arguments)}: exit code {code}")


def main() -> None:
    """All stages in order, and the registry."""
    for name in ("fetch", "preprocess", "pretrain", "load_published", "finetune", "evaluate", "register"):
        import_module(f"flows.{name}")
    for name in LATER:
        import_module(name)
    for model in model_names():
        training(model)
        evaluation(model)
    for stage in stages():
        name, _, key = stage.replace("evaluate_foundation", "evaluate@foundation").partition("@")
        run_in_fork(f"flows.{name}", *([key] if key else []))
    with Repo() as repo:
        repo.commit(force=True)
    run_in_fork("flows.register")


if __name__ == "__main__":
    main()
