"""Register models and their evidence in MLflow as challengers: `threestage register`, after `dvc repro`."""

from collections.abc import Mapping, Sequence
from functools import partial

from prefect import Task, flow, task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import TaskRun
from prefect.states import State

from llm.errors import UserError
from tasks.params.shown_rows import learned_examples
from tasks.registry.lineage import log_lineage
from tasks.registry.register import DELETED, register_model
from tasks.registry.server import ServerAwayError
from tasks.registry.versions import registered_name
from tasks.stages.names import model_names
from tasks.stages.prefect import leave_artifact

AGAIN_AFTER = (5, 15, 45, 120)
"""Seconds before each retry of a registration: enough for a tracking server to restart."""


def _is_away(_: Task, __: TaskRun, state: State) -> bool:
    """Whether the tracking server failed, rather than something that you must fix."""
    return isinstance(state.result(raise_on_failure=False), ServerAwayError)


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


@flow(name="register")
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
