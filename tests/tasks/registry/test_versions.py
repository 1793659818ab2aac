import shutil

import mlflow
import pytest
from mlflow import MlflowClient

from llm.errors import UserError
from tasks.registry.record import find_run, holds
from tasks.registry.store import configure_tracking
from tasks.registry.versions import find_version, own_models, versions

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"


@pytest.fixture(scope="module")
def store(ready_store, tmp_path_factory):
    """A classifier with three versions, whose first is the champion and whose second is the challenger."""
    folder = tmp_path_factory.mktemp("three")
    shutil.copy(ready_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        configure_tracking()
        client = MlflowClient()
        client.create_registered_model(NAME)
        for number in range(3):
            with mlflow.start_run() as run:
                mlflow.log_text("hello", "notes/hello.txt")
            tags = {"even": str(number % 2 == 1)}
            client.create_model_version(NAME, f"{run.info.artifact_uri}/m", run.info.run_id, tags=tags)
        client.set_registered_model_alias(NAME, "champion", "1")
        client.set_registered_model_alias(NAME, "challenger", "2")
    mlflow.set_tracking_uri(None)
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture
def client(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    configure_tracking()
    return MlflowClient()


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("models:/threestage-classifier/1", "1"),
        ("models:/threestage-classifier@challenger", "2"),
        ("models:/threestage-classifier", "1"),
        ("threestage-classifier/3", "3"),
        ("classifier@champion", "1"),
        ("classifier", "1"),
    ],
)
def test_find_version_by_each_form_of_its_name(client, name, version):
    assert str(find_version(name).version) == version


def test_find_version_by_model_is_champion_or_else_challenger_or_else_newest(client):
    client.create_registered_model("threestage-alone")
    numbers = []
    for number, alias in enumerate(("", "challenger", "champion"), 1):
        client.create_model_version("threestage-alone", "somewhere")
        if alias:
            client.set_registered_model_alias("threestage-alone", alias, str(number - 1))
        numbers.append(str(find_version("alone").version))
    client.delete_registered_model("threestage-alone")
    assert numbers == ["1", "1", "2"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("models:/spam/1", "there is no such registered model; there are: threestage-classifier"),
        ("models:/", "there is no such registered model; there are: threestage-classifier"),
        *(
            (name, "threestage-classifier has no such version; there are: 1 (champion), 2 (challenger), 3")
            for name in ("classifier/9", "classifier@best", "classifier/x/1")
        ),
    ],
)
def test_find_version_error_lists_the_names_that_there_are(client, name, reason):
    with pytest.raises(UserError) as caught:
        find_version(name)
    assert str(caught.value) == f"{name}: {reason}"


def test_find_version_error_in_an_empty_registry_says_how_to_fill_it(mlflow_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^classifier: .*; there are none yet: run `threestage run`$"):
        find_version("classifier")


def test_holds_nothing_of_a_missing_run(client):
    run_id = client.get_model_version(NAME, "1").run_id
    assert find_run(run_id).info.run_id == run_id
    assert holds(run_id, "notes/hello.txt")
    assert not holds(run_id, "notes/other.txt")
    for missing in ("0" * 32, "none", "", None):
        assert find_run(missing) is None
        assert not holds(missing, "notes/hello.txt")


def test_own_models_are_those_of_the_namespace_alone(mlflow_store, monkeypatch):
    client = MlflowClient(f"sqlite:///{mlflow_store}")
    for name in ("team_a-m", "team_a-n", "team-m", "team_ab-m", "teamXa-m", "team.a-m", "threestage.anna-m", "m"):
        client.create_registered_model(name)
    for namespace, expected in (("team_a", ["m", "n"]), ("team", ["m"]), ("threestage", [])):
        monkeypatch.setenv("THREESTAGE_NAMESPACE", namespace)
        assert [model for model, _ in own_models(client)] == expected


def test_versions_come_newest_first_and_by_their_tags(client):
    assert [int(version.version) for version in versions(client, NAME)] == [3, 2, 1]
    assert [int(version.version) for version in versions(client, NAME, "tags.even = 'False'")] == [3, 1]
