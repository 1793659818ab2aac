"""The MLflow run of a retraining, the parent of all runs that it makes, and its end."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress

import mlflow
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from llm.errors import UserError
from tasks.registry.server import server_errors
from tasks.registry.store import configure_tracking
from tasks.registry.tracking import PARENT_RUN, close_open_runs, is_stop
from tasks.stages.hashes import PREFIX
from tasks.stages.lock import workspace

PARENT_OF = f"{PREFIX}.parent_of"
"""Tag of such a run: its machine and folder."""


@contextmanager
def parent_run(name: str, description: str) -> Generator[None]:
    """Start an MLflow run, the parent of all runs that this process and its children start inside the block.

    If the block raises, the run ends as FAILED; if it is interrupted or terminated, as KILLED.
    """
    experiment = configure_tracking()
    client = MlflowClient()
    tags = {PARENT_OF: workspace(), MLFLOW_RUN_NOTE: description}
    with server_errors():
        run_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    os.environ[PARENT_RUN] = run_id
    status = "FINISHED"
    try:
        yield
    except BaseException as error:
        status = "KILLED" if is_stop(error) else "FAILED"
        raise
    finally:
        del os.environ[PARENT_RUN]
        with suppress(UserError), server_errors():
            close_open_runs(_below(run_id))
            client.set_terminated(run_id, status)


def close_left_runs() -> None:
    """End the parent runs that a killed process of this folder left open, and all below them, as KILLED."""
    configure_tracking()
    with server_errors():
        left = f"tags.`{PARENT_OF}` = '{workspace()}'"
        is_open = "attributes.status = 'RUNNING'"
        for run in mlflow.search_runs(filter_string=f"{left} AND {is_open}", output_format="list"):
            close_open_runs(_below(run.info.run_id))
        close_open_runs(left)


def _below(parent: str) -> str:
    """The filter that finds the runs below a parent."""
    return f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'"
