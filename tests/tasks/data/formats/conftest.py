import pandas as pd
import pytest
from form_files import Content, put

from tasks.data.sources import Source, write_source
from tasks.datasets import instructions

SPLIT = {"seed": 1, "validation": 0.1, "test": 0.1, "near_duplicate": 0.8}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """What a dataset reads of files, by the one source of a line whose paths begin in the folder as in a project."""

    def fetched(dataset, line: str | dict, files: dict[str, Content], **params: object) -> pd.DataFrame:
        put(tmp_path, files)
        monkeypatch.chdir(tmp_path)
        raw = tmp_path / "data/raw"
        raw.mkdir(parents=True)
        write_source(Source.model_validate(line), raw)
        params |= {"rows_a_kind": 0} if dataset is instructions else {}
        return dataset.DATASET.read(raw, dataset.Params(**SPLIT, **params))

    return fetched
