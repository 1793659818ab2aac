"""Versions to decide on, and what a decision leaves in the registry."""

from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient

from tasks.registry.decide import approve, compared, history, model_state
from tasks.registry.history import Event

NAME = "threestage-classifier"
ME = {"by": "reviewer-1", "reason": "f1 is up, see the page"}


def register(model: str, versions: int, namespace: str = "threestage") -> None:
    """Versions of a model without weights, the newest of them the challenger."""
    client = MlflowClient()
    name = f"{namespace}-{model}"
    client.create_registered_model(name)
    for _ in range(versions):
        version = client.create_model_version(name, str(Path.cwd() / "mlartifacts")).version
    client.set_registered_model_alias(name, "challenger", str(version))


def compare(version: str, *failed: str, unknown: Sequence[str] = ()) -> Event:
    """Record a comparison of a version with the present champion."""
    champion = model_state("classifier").champion
    return compared("classifier", version, champion, failed=failed, unknown=unknown)


def promote(*versions: str) -> None:
    """Compare and approve versions, one after the other."""
    for version in versions:
        compare(version)
        approve("classifier", version, **ME)


def aliases(model: str = "classifier") -> tuple[str | None, str | None, str | None]:
    """The versions that are champion, previous and challenger."""
    state = model_state(model)
    return state.champion, state.previous, state.challenger


def states() -> dict[str, str]:
    """The state of each version that has one."""
    return {version: state for version, state in model_state("classifier").state_of.items() if state}


def tags(client: MlflowClient, version: str) -> dict[str, str]:
    """The tags of a version without their prefix."""
    tags = client.get_model_version(NAME, version).tags
    return {key.removeprefix("threestage."): value for key, value in tags.items()}


def set_tags(client: MlflowClient, version: str, **texts: str) -> None:
    """Set tags of a version, as a person does in MLflow."""
    for tag, text in texts.items():
        client.set_model_version_tag(name=NAME, version=version, key=f"threestage.{tag}", value=text)


def entries() -> list[str]:
    """The history without comparisons, without when and why."""
    events = [event for event in history("classifier") if event.event != "compared"]
    return [f"{event.version} {event.outcome} by {event.by}" for event in events]
