"""The training data of a registered version: its hash, and its rows if DVC's cache still has them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from llm.formats.tokenizer_json import load_tokenizer
from llm.tokenizer import end_of_text
from llm.tokens import open_tokens
from tasks.registry.record import read_record
from tasks.stages.hashes import md5_of

PROCESSED = "data/processed/"
TRAIN_TABLE = "train.parquet"
SPANS, SPAN = 64, 2**18  # spans of tokens; larger token files are sampled


@dataclass(frozen=True)
class TrainedOn:
    """The processed dataset that a version of a model was trained on."""

    dataset: str
    md5: str
    """DVC's hash of its folder."""


def data_of(version: ModelVersion) -> TrainedOn | None:
    """The dataset of a version; None without a record of it."""
    record = read_record(version.run_id)
    for path, md5 in record.hashes.deps.items() if record else ():
        if path.startswith(PROCESSED):
            return TrainedOn(path.removeprefix(PROCESSED), md5)
    return None


def current_md5(dataset: str) -> str:
    """The MD5 of a processed dataset as it is in the workspace."""
    return md5_of(Path(PROCESSED, dataset))


def current_rows(dataset: str) -> pd.DataFrame:
    """The train rows of a processed dataset as they are in the workspace: its table, or the texts of its tokens."""
    return rows_in(Path(PROCESSED, dataset))


def rows_in(folder: Path) -> pd.DataFrame:
    """The train rows of a processed dataset in a folder; large token files are sampled evenly."""
    return _rows({path.name: path for path in folder.iterdir()})


def rows_before(data: TrainedOn) -> pd.DataFrame | None:
    """The train rows that a version was trained on; None if DVC's cache lacks them."""
    files = _cached_files(data)
    return _rows(files) if files else None


def learned_units(data: TrainedOn) -> np.ndarray | None:
    """The hashes by which the train and validation rows of a version were split, int64.

    None if DVC's cache lacks the rows, and for token files, which have no such hashes.
    """
    files = _cached_files(data)
    if TRAIN_TABLE not in files:
        return None
    train = pd.read_parquet(files[TRAIN_TABLE], columns=["unit"])
    validation = pd.read_parquet(files["validation.parquet"], columns=["unit"])
    return np.asarray(pd.concat([train, validation])["unit"].unique())


def _cached_files(data: TrainedOn) -> dict[str, Path]:
    """The files of a dataset in DVC's cache by name; empty if one of them, or the repository, is missing."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            cache = repo.cache.local
            listing = Path(cache.oid_to_path(data.md5))
            entries = json.loads(listing.read_text()) if listing.exists() else []
            files = {entry["relpath"]: Path(cache.oid_to_path(entry["md5"])) for entry in entries}
    except NotDvcRepoError:
        return {}
    return files if all(path.exists() for path in files.values()) else {}


def _rows(files: dict[str, Path]) -> pd.DataFrame:
    if TRAIN_TABLE in files:
        return pd.read_parquet(files[TRAIN_TABLE])
    encoding = load_tokenizer(files["tokenizer.json"])
    meta = json.loads(files["meta.json"].read_text())
    tokens = open_tokens(meta, "train", files.__getitem__)
    spans, size = 1, len(tokens)
    if size > SPANS * SPAN:
        spans, size = SPANS, SPAN
    texts: list[str] = []
    for start in np.linspace(0, len(tokens) - size, spans).astype(np.int64):
        span = np.asarray(tokens[start : start + size])
        ends = np.flatnonzero(span == end_of_text(encoding))
        first, *documents = np.split(span, ends)[: len(ends)] or [span[:0]]
        documents = [document[1:].tolist() for document in documents]  # without the previous document's end
        if start == 0 and len(ends):  # a later span begins within a document
            documents.insert(0, first.tolist())
        texts += encoding.decode_batch(documents)
    return pd.DataFrame({"text": texts})
