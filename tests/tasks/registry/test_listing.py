"""The versions in the registry: MLflow's own answers are the oracle."""

import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.registry import listing
from tasks.registry.decide import approve, compared
from tasks.registry.listing import list_versions
from tasks.registry.store import configure_tracking


@pytest.fixture
def versions(mlflow_store) -> MlflowClient:
    """Two models of ours, one of them with an approved and a deleted version, and a model of somebody else."""
    configure_tracking()
    client, source = MlflowClient(), str(Path.cwd() / "mlartifacts")
    for name, count in (("threestage-classifier", 12), ("threestage-assistant", 1), ("threestageX-other", 1)):
        client.create_registered_model(name)
        for _ in range(count):
            client.create_model_version(name, source)
    client.delete_model_version("threestage-classifier", "3")
    client.set_registered_model_alias("threestage-classifier", "challenger", "12")
    client.set_registered_model_tag("threestage-classifier", "threestage.history.0", "somebody's note")
    compared("classifier", "1", champion=None, failed=["f1", "drift"])
    approve("classifier", "1", by="reviewer-1", reason="we need one", despite_gates=True)
    return client


def test_list_versions_of_a_file_equals_mlflow(versions):
    rows = list_versions()
    assert rows == listing._from_mlflow()
    assert [(row.model, row.version) for row in rows] == [
        ("assistant", "1"),
        *(("classifier", str(n)) for n in range(12, 0, -1) if n != 3),
    ]
    assert (rows[1].aliases, rows[-1].aliases, rows[-1].despite) == (["challenger"], ["champion"], ["f1", "drift"])


def test_list_versions_of_a_broken_file_is_mlflow_s_error(mlflow_store, monkeypatch, tmp_path):
    (tmp_path / "broken.db").write_text("no database at all, but long enough to be one" * 9)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'broken.db'}")
    with pytest.raises(ValueError, match=r"broken\.db: file is not a database"):
        list_versions()
    with pytest.raises(sqlite3.DatabaseError):
        listing._from_file(tmp_path / "broken.db")
