"""The models and versions of this namespace: their names, aliases and states, and how to find one."""

from collections.abc import Iterator

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from llm.errors import UserError
from tasks.registry.server import if_there
from tasks.registry.store import namespace
from tasks.stages.hashes import PREFIX

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
"""Aliases of versions."""
PENDING, APPROVED, REJECTED, SUPERSEDED = "pending", "approved", "rejected", "superseded"
"""States of versions."""
KEY = f"{PREFIX}.key"
"""Tag of the versions that `register` makes, and of their runs."""
STATE = f"{PREFIX}.state"
"""Tag of versions: the state."""
BY, AT, WHY = f"{PREFIX}.by", f"{PREFIX}.at", f"{PREFIX}.why"
"""Tags of versions: who decided, when and why."""
DESPITE = f"{PREFIX}.despite"
"""Tag of approved versions: the gates that they did not pass."""


def registered_name(model: str) -> str:
    """The name of a model in the registry."""
    return f"{namespace()}-{model}"


def state_of(version: ModelVersion) -> str | None:
    """The word in a version's tag, which people may write by hand."""
    return version.tags.get(STATE, "").strip().casefold() or None


def own_models(client: MlflowClient) -> Iterator[tuple[str, RegisteredModel]]:
    """The registered models of this namespace, each with its name in the project, such as `classifier`."""
    prefix = f"{namespace()}-"
    for model in client.search_registered_models(f"name LIKE '{prefix}%'", max_results=1000):
        if model.name.startswith(prefix):  # LIKE takes any character for `_`
            yield model.name.removeprefix(prefix), model


def versions(client: MlflowClient, name: str, having: str = "") -> list[ModelVersion]:
    """The versions of a registered model, the newest first; with `having`, those that this filter finds."""
    matching = client.search_model_versions(f"name = '{name}' AND {having}" if having else f"name = '{name}'")
    return sorted(matching, key=_descending)


def number_of(version: ModelVersion) -> str:
    """The number of a version as text; a SQLite store gives an int, whatever MLflow's annotation says."""
    return f"{version.version}"


def run_id_of(version: ModelVersion) -> str:
    """The id of the run that holds a version's evidence. Raises UserError for a version without a run."""
    if version.run_id is None:
        raise UserError(f"models:/{version.name}/{version.version}: it has no run, so no stage of this project made it")
    return version.run_id


def _descending(version: ModelVersion) -> int:
    return -int(version.version)


def find_version(name: str) -> ModelVersion:
    """The version of `models:/NAME/VERSION` or `models:/NAME@ALIAS`, or of a model's name alone.

    The name may be the one in params.yaml, such as `classifier`, and `models:/` may be left out. With neither version
    nor alias it is the champion, or else the challenger, or else the newest. Raises UserError where there is none.
    """
    title, at, alias = name.removeprefix("models:/").partition("@")
    number = ""
    if not at:
        title, _, number = title.partition("/")
    model = registered_model(title) or registered_model(registered_name(title))
    if model is None:
        names = ", ".join(registered.name for registered in mlflow.search_registered_models(max_results=20))
        there = f"there are: {names}" if names else "there are none yet: run `threestage run`"
        raise UserError(f"{name}: there is no such registered model; {there}")
    numbers = [number_of(version) for version in reversed(versions(MlflowClient(), model.name))]
    aliases = {alias: str(version) for alias, version in model.aliases.items()}
    if at:
        number = aliases.get(alias, "")
    elif not number:
        newest = numbers[-1] if numbers else ""
        number = aliases.get(CHAMPION) or aliases.get(CHALLENGER) or newest
    if number not in numbers:
        alias_of = {version: f"{version} ({alias})" for alias, version in aliases.items()}
        there = ", ".join(alias_of.get(version, version) for version in numbers) or "none"
        raise UserError(f"{name}: {model.name} has no such version; there are: {there}")
    return MlflowClient().get_model_version(model.name, number)


def registered_model(name: str) -> RegisteredModel | None:
    """A model in the registry; None if there is none of this name."""
    return if_there(MlflowClient().get_registered_model, name) if name else None
