"""Register models and their evidence in MLflow as challengers: `threestage register`, after `dvc repro`."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from prefect import Task, flow, task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import TaskRun
from prefect.states import State

from llm.errors import UserError
from tasks.params import find_training, load_training
from tasks.registry.lineage import log_lineage
from tasks.registry.register import DELETED, register_model
from tasks.registry.server import ServerAwayError
from tasks.registry.versions import registered_name
from tasks.stages.names import model_names
from tasks.stages.prefect import leave_artifact
from tasks.training.shown_row import show_row

AGAIN_AFTER = (5, 15, 45, 120)
"""Seconds before each retry of a registration: enough for a tracking server to restart."""
EXAMPLES = 3
"""Rows that a model's page shows as it learns them."""


def _is_away(_: Task, __: TaskRun, state: State) -> bool:
    """Whether the tracking server failed, rather than something that you must fix."""
    return isinstance(state.result(raise_on_failure=False), ServerAwayError)


def learned_examples(model: str) -> Iterator[list[str]]:
    """Some rows of the train split, evenly spaced, as lines; the first window of a dataset of tokens."""
    block = load_training(model)
    table = Path("data/processed", block.dataset, "train.parquet")
    count = len(pd.read_parquet(table, columns=["id"])) if table.exists() else 1
    for number in sorted({count * example // EXAMPLES for example in range(EXAMPLES)}):
        shown = show_row(find_training(model), block, split="train", number=number)
        if shown is not None:
            yield shown.lines(model)


def _register(model: str) -> str:
    version = register_model(model, partial(learned_examples, model))
    if version != DELETED:
        log_lineage(registered_name(model), version)
    return version


class NotRegisteredError(UserError):
    """Some models could not be registered; `versions` holds the others."""

    def __init__(self, failed: Mapping[str, Exception], versions: dict[str, str]) -> None:
        super().__init__("; ".join(f"{model} is not registered: {error}" for model, error in failed.items()))
        self.versions = versions


@flow(name="register", flow_run_name="register")
def register(models: Sequence[str] | None = None) -> dict[str, str]:
    """Register each model with its evaluation.

    A new version becomes the challenger, and the one before is superseded; an existing one stays as it is. If a model
    fails, the others are still registered, and NotRegisteredError is raised at the end.

    Args:
        models: the models to register; all by default
    """
    retries = {"retries": len(AGAIN_AFTER), "retry_delay_seconds": list(AGAIN_AFTER), "retry_condition_fn": _is_away}
    versions: dict[str, str] = {}
    failed: dict[str, Exception] = {}
    for model in model_names() if models is None else models:
        try:
            done = task(_register, task_run_name=f"register {model}", **retries)(model)
        except Exception as error:  # even a bug: its traceback is in the log, and the other models are registered
            failed[model] = error
        else:
            versions[registered_name(model)] = done
    table = [{"model": name, "version": version} for name, version in versions.items()]
    leave_artifact(create_table_artifact, "registry", table=table, description="The models in the MLflow registry")
    if failed:
        raise NotRegisteredError(failed, versions)
    return versions
