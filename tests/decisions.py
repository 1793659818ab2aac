"""Versions to decide on, and what a decision leaves in the registry."""

from pathlib import Path

from mlflow import MlflowClient

from tasks.registry.decide import approve, model_state
from tasks.registry.versions import AGAINST, BASELINE, GATES, STATE

NAME = "threestage-classifier"
ME = {"by": "reviewer-1", "reason": "f1 is up, see the page"}


def register(model: str, versions: int, namespace: str = "threestage") -> None:
    """Versions of a model without weights, the newest of them the challenger."""
    client = MlflowClient()
    name = f"{namespace}-{model}"
    client.create_registered_model(name)
    for _ in range(versions):
        version = client.create_model_version(name, str(Path.cwd() / "mlartifacts"), tags={STATE: "pending"}).version
    client.set_registered_model_alias(name, "challenger", str(version))


def compare(version: str, *gates: str) -> None:
    """Tag a version as a review does that found these gates not passed."""
    client = MlflowClient()
    champion = model_state("classifier").champion
    client.set_model_version_tag(NAME, version, key=GATES, value="; ".join(gates))
    client.set_model_version_tag(NAME, version, key=AGAINST, value=champion or BASELINE)


def promote(*versions: str) -> None:
    """Compare and approve versions, one after the other."""
    for version in versions:
        compare(version)
        approve("classifier", version, **ME)


def aliases(model: str = "classifier") -> tuple[str | None, ...]:
    """The versions that are champion, previous and challenger."""
    return tuple(model_state(model).aliases.get(alias) for alias in ("champion", "previous", "challenger"))


def tags(client: MlflowClient, version: str) -> dict[str, str]:
    """The tags of a version without their prefix."""
    tags = client.get_model_version(NAME, version).tags
    return {key.removeprefix("threestage."): value for key, value in tags.items()}
