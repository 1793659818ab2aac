import mlflow
import pytest
from mlflow import MlflowClient

from llm.errors import UserError
from tasks.registry.record import find_run, holds
from tasks.registry.tracking import configure_tracking
from tasks.registry.versions import find_version

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _registry(mlflow_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configure_tracking()


def make() -> None:
    """One more version of the classifier."""
    client, name = MlflowClient(), "threestage-classifier"
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    with mlflow.start_run() as run:
        client.create_model_version(name, f"{run.info.artifact_uri}/m", run.info.run_id)


@pytest.mark.parametrize(
    ("named", "version"),
    [
        ("models:/threestage-classifier/1", "1"),
        ("models:/threestage-classifier@challenger", "2"),
        ("models:/threestage-classifier", "1"),
        ("threestage-classifier/3", "3"),
        ("classifier@champion", "1"),
        ("classifier", "1"),
    ],
)
def test_a_version_is_named_in_several_ways(named, version):
    for _ in range(3):
        make()
    MlflowClient().set_registered_model_alias("threestage-classifier", "champion", "1")
    MlflowClient().set_registered_model_alias("threestage-classifier", "challenger", "2")
    assert str(find_version(named).version) == version


def test_a_name_alone_is_the_champion_or_else_the_challenger_or_else_the_newest():
    for _ in range(3):
        make()
    found = [str(find_version("classifier").version)]
    for alias, version in (("challenger", "2"), ("champion", "1")):
        MlflowClient().set_registered_model_alias("threestage-classifier", alias, version)
        found.append(str(find_version("classifier").version))
    assert found == ["3", "2", "1"]


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("models:/spam/1", "models:/spam/1: there is no such registered model; there are: threestage-classifier"),
        ("models:/", "models:/: there is no such registered model; there are: threestage-classifier"),
        ("classifier/9", "classifier/9: threestage-classifier has no such version; there are: 1, 2 (champion)"),
        ("classifier@best", "classifier@best: threestage-classifier has no such version; there are: 1, 2 (champion)"),
        ("classifier/x/1", "classifier/x/1: threestage-classifier has no such version; there are: 1, 2 (champion)"),
    ],
)
def test_what_is_not_there_is_said_with_what_there_is(named, reason):
    for _ in range(2):
        make()
    MlflowClient().set_registered_model_alias("threestage-classifier", "champion", "2")
    with pytest.raises(UserError) as caught:
        find_version(named)
    assert str(caught.value) == reason


def test_an_empty_registry_says_how_to_fill_it():
    with pytest.raises(UserError, match=r"^classifier: .*; there are none yet: run `python -m flows`$"):
        find_version("classifier")


def test_a_run_that_is_gone_or_of_another_store_holds_nothing():
    with mlflow.start_run() as run:
        mlflow.log_text("hello", "said/hello.txt")
    assert find_run(run.info.run_id).info.run_id == run.info.run_id
    assert holds(run.info.run_id, "said/hello.txt")
    assert not holds(run.info.run_id, "said/other.txt")
    for missing in ("0" * 32, "none", "", None):
        assert find_run(missing) is None
        assert not holds(missing, "said/hello.txt")
