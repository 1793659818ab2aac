import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from dvc.repo import Repo
from mlflow import MlflowClient
from token_files import write_tokens

from llm.formats.tokenizer_json import save_tokenizer
from tasks.registry.record import Record, write_record
from tasks.registry.store import configure_tracking
from tasks.registry.trained_on import (
    TrainedOn,
    current_md5,
    current_rows,
    data_of,
    learned_units,
    rows_before,
)
from tasks.stages.hashes import Hashes

NAME = "threestage-classifier"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True).close()


def write(dataset, rows):
    folder = Path("data/processed", dataset)
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / "train.parquet", index=False)


def test_data_of_a_version_is_that_of_its_record(project, mlflow_store, tmp_path):
    configure_tracking()
    client = MlflowClient()
    client.create_registered_model(NAME)
    deps = {"models/published": "def.dir", "data/processed/emails": "abc.dir"}
    for recorded, expected in ((deps, TrainedOn("emails", "abc.dir")), ({}, None)):
        with mlflow.start_run() as run:
            write_record(run.info.run_id, Record("register", Hashes({}, recorded, {}), {}))
        assert data_of(client.create_model_version(NAME, str(tmp_path), run.info.run_id)) == expected


def test_rows_before_come_from_the_cache_as_long_as_it_has_them(project):
    rows = pd.DataFrame({"body": ["hello", "win"], "label": ["ham", "spam"]})
    write("emails", rows)
    with Repo() as repo:
        repo.add("data/processed/emails")
    before = TrainedOn("emails", current_md5("emails"))
    assert before.md5.endswith(".dir")
    write("emails", rows.assign(body=["other", "rows"]))
    assert rows_before(before).equals(rows)
    assert current_rows("emails")["body"].tolist() == ["other", "rows"]
    shutil.rmtree(".dvc/cache")
    assert rows_before(before) is None


def test_learned_units_are_those_of_train_and_validation(project):
    folder = Path("data/processed/emails")
    folder.mkdir(parents=True)
    for name, units in (("train", [1, 2, 2]), ("validation", [3]), ("test", [4])):
        pd.DataFrame({"unit": units}).to_parquet(folder / f"{name}.parquet")
    with Repo() as repo:
        repo.add(str(folder))
    before = TrainedOn("emails", current_md5("emails"))
    assert sorted(learned_units(before)) == [1, 2, 3]
    shutil.rmtree(".dvc/cache")
    assert learned_units(before) is None


def test_current_rows_of_tokens_are_the_documents(project, encoding):
    folder = Path("data/processed/corpus")
    folder.mkdir(parents=True)
    texts = ["the cat sat", "", "on the mat . ", "a bird"]
    save_tokenizer(encoding, folder / "tokenizer.json")
    write_tokens(encoding, {"train": pd.DataFrame({"text": texts})}, folder)
    assert current_rows("corpus")["text"].tolist() == texts
