"""The models and versions of this namespace: their names, aliases and tags, and how to find one."""

from collections.abc import Iterator

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from llm.errors import UserError
from tasks.registry.store import if_there, namespace
from tasks.stages.hashes import PREFIX

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
"""Aliases of versions."""
PENDING, APPROVED, REJECTED = "pending", "approved", "rejected"
"""States of versions."""
KEY = f"{PREFIX}.key"
"""Tag of versions: SHA-256 over the hashes of weights and evidence."""
STATE = f"{PREFIX}.state"
BY, AT, WHY = f"{PREFIX}.by", f"{PREFIX}.at", f"{PREFIX}.why"
"""Tags of versions: who decided, when and why."""
GATES = f"{PREFIX}.gates"
"""Tag of versions: the gates that the last review did not find passed, between semicolons; empty if all were."""
UNKNOWN = " (not known)"
"""The end of a gate in this tag that could not be computed."""
AGAINST = f"{PREFIX}.against"
"""Tag of versions: with which version the last review compared it; BASELINE for none."""
BASELINE = "baseline"
DATASET = "dataset"
"""Parameter of a version's run: the dataset that it learned."""
HAD_CHAMPION = f"{PREFIX}.had_champion"
"""Tag of a registered model: it serves champions alone."""


def registered_name(model: str) -> str:
    """The name of a model in the registry."""
    return f"{namespace()}-{model}"


def own_models(client: MlflowClient) -> Iterator[tuple[str, RegisteredModel]]:
    """The registered models of this namespace, each with its name in the project, such as `classifier`."""
    prefix = f"{namespace()}-"
    for model in client.search_registered_models(f"name LIKE '{prefix}%'", max_results=1000):
        if model.name.startswith(prefix):  # LIKE takes any character for `_`
            yield model.name.removeprefix(prefix), model


def registered_model(name: str) -> RegisteredModel | None:
    """A model in the registry; None if there is none of this name."""
    return if_there(MlflowClient().get_registered_model, name) if name else None


def versions(client: MlflowClient, name: str, having: str = "") -> list[ModelVersion]:
    """The versions of a registered model, the newest first; with `having`, those that this filter finds."""
    matching = client.search_model_versions(f"name = '{name}' AND {having}" if having else f"name = '{name}'")
    return sorted(matching, key=_descending)


def _descending(version: ModelVersion) -> int:
    return -int(version.version)


def number_of(version: ModelVersion) -> str:
    """The number of a version as text; a SQLite store gives an int, whatever MLflow's annotation says."""
    return f"{version.version}"


def run_id_of(version: ModelVersion) -> str:
    """The id of the run that holds a version's evidence. Raises UserError for a version without a run."""
    if version.run_id is None:
        raise UserError(f"models:/{version.name}/{version.version}: it has no run, so no stage of this project made it")
    return version.run_id


def had_champion(model: RegisteredModel) -> bool:
    """Whether a model has, or once had, a champion."""
    return CHAMPION in model.aliases or HAD_CHAMPION in model.tags
