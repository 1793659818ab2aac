import pytest
from decisions import NAME
from mlflow import MlflowClient

from tasks.registry.versions import own_models, versions

pytestmark = pytest.mark.slow


def test_own_models_are_those_of_the_namespace_alone(mlflow_store, monkeypatch):
    client = MlflowClient(f"sqlite:///{mlflow_store}")
    for name in ("team_a-m", "team_a-n", "team-m", "team_ab-m", "teamXa-m", "team.a-m", "threestage.anna-m", "m"):
        client.create_registered_model(name)
    for namespace, expected in (("team_a", ["m", "n"]), ("team", ["m"]), ("threestage", [])):
        monkeypatch.setenv("THREESTAGE_NAMESPACE", namespace)
        assert [model for model, _ in own_models(client)] == expected


def test_versions_come_newest_first_and_by_their_tags(new):
    assert [int(version.version) for version in versions(new, NAME)] == [5, 4, 3, 2, 1]
    new.set_model_version_tag(NAME, "3", key="threestage.key", value="k")
    assert [int(version.version) for version in versions(new, NAME, "tags.`threestage.key` = 'k'")] == [3]
