import pytest
from mlflow import MlflowClient

from tasks.registry.versions import own_models, versions

pytestmark = pytest.mark.slow


def test_the_models_of_a_namespace_are_all_found_and_no_others(mlflow_store, monkeypatch):
    client, count = MlflowClient(f"sqlite:///{mlflow_store}"), 101  # a page has 100
    for number in range(count):
        client.create_registered_model(f"team_a-m{number:03}")
    for other in ("team-m", "team_ab-m", "teamXa-m", "team.a-m", "threestage.anna.laptop-m", "m"):
        client.create_registered_model(other)
    for namespace, expected in (
        ("team_a", [f"m{number:03}" for number in range(count)]),
        ("team", ["m"]),
        ("threestage", []),
    ):
        monkeypatch.setenv("THREESTAGE_NAMESPACE", namespace)
        assert [model for model, _ in own_models(client)] == expected


def test_versions_come_newest_first_and_by_their_tags(mlflow_store):
    client = MlflowClient(f"sqlite:///{mlflow_store}")
    client.create_registered_model("team-m")
    for number in range(11):
        client.create_model_version("team-m", "somewhere", tags={"even": str(number % 2 == 0)})
    assert [int(each.version) for each in versions(client, "team-m")] == [*range(11, 0, -1)]
    assert [int(each.version) for each in versions(client, "team-m", "tags.even = 'False'")] == [10, 8, 6, 4, 2]
