"""Models and their evidence into the MLflow registry, as challengers: `python -m flows.register`, after `dvc repro`."""

import sys
from argparse import ArgumentParser
from typing import get_args

from prefect import flow, task
from prefect.artifacts import create_table_artifact

from tasks.params import Model
from tasks.registry import register_model, registered_name
from tasks.stages import prefect_server, run_as_child, run_command


@flow(name="register")
def register() -> dict[str, str]:
    """Make each model and its evaluation a challenger; what is registered already is not registered again."""
    versions = {
        registered_name(model): task(register_model, task_run_name=f"register {model}")(model)
        for model in get_args(Model)
    }
    table = [{"model": name, "challenger": version} for name, version in versions.items()]
    create_table_artifact(table, key="registry", description="The challengers in the MLflow registry")
    return versions


def main() -> None:
    """Run the flow on the configured Prefect server or on a temporary one."""
    ArgumentParser(prog="python -m flows.register", description=register.fn.__doc__).parse_args()
    with prefect_server():
        run_as_child(register, {})


if __name__ == "__main__":
    sys.exit(run_command(main))
