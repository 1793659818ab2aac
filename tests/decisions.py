"""Versions to decide on, and what a decision leaves in the registry."""

from pathlib import Path

from mlflow import MlflowClient

from tasks.registry.decide import approve, compared, model_state

NAME = "threestage-classifier"
ME = {"by": "reviewer-1", "reason": "f1 is up, see the page"}


def register(model, versions, namespace="threestage"):
    name, client = f"{namespace}-{model}", MlflowClient()
    client.create_registered_model(name)
    for _ in range(versions):
        version = client.create_model_version(name, str(Path.cwd() / "mlartifacts")).version
    client.set_registered_model_alias(name, "challenger", str(version))


def compare(version, *failed, unknown=()):
    return compared("classifier", version, model_state("classifier").champion, failed, unknown)


def promote(*versions):
    for version in versions:
        compare(version)
        approve("classifier", version, **ME)


def aliases(model="classifier"):
    now = model_state(model)
    return now.champion, now.previous, now.challenger


def states():
    return {version: state for version, state in model_state("classifier").state_of.items() if state}
