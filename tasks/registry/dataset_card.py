"""The dataset card of a version: where its data comes from, how it was cleaned, split and checked, and examples.

Nothing is measured again: the numbers of rows and rules are those that `preprocess` left in `reports/quality/`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from llm.errors import UserError
from tasks.data.drift import LABELS, Drift, moved
from tasks.data.splits import SPLITS, Split
from tasks.registry.markup import render_markdown
from tasks.registry.trained_on import PROCESSED, TRAIN_TABLE
from tasks.stages.hashes import Hashes, locked

DATASET_CARD = "card/dataset.md"
"""Among the artifacts of a version's run."""
TEMPLATE = Path(__file__).with_name("dataset_card.md.j2")
QUALITY = Path("reports/quality")

Examples = Callable[[], Iterable[list[str]]]
"""Some rows as a model learns them: a title, then a line for each part."""


@dataclass(frozen=True)
class DataSource:
    """A pinned source of a dataset."""

    name: str
    licence: str
    note: str


@dataclass
class Check:
    """A number of the dataset with its bounds."""

    name: str
    observed: float
    bounds: dict[str, float] = field(default_factory=dict)
    """`warn` and `fail`, as far as there are bounds."""
    passed: bool = True


def learned_from(training: Hashes) -> str:
    """The processed dataset that a training reads; empty if it reads none."""
    return next((path for path in training.deps if path.startswith(PROCESSED)), "")


def data_sources(dataset: str) -> list[DataSource]:
    """The pinned sources of a dataset; none if the data was pulled, not fetched."""
    entries = _locked_stage(f"fetch@{dataset}").params.get(f"datasets.{dataset}.sources", [])
    sources: list[DataSource] = []
    for entry in entries:
        values = {"source": entry} if isinstance(entry, str) else entry
        sources.append(DataSource(values["source"], values.get("licence", ""), values.get("note", "")))
    return sources


def _locked_stage(stage: str) -> Hashes:
    """A stage of dvc.lock; empty if it never ran here."""
    try:
        return locked(stage)
    except UserError:
        return Hashes({}, {}, {})


def dataset_card(dataset: str, data_hash: str, examples: Iterable[list[str]] = ()) -> str:
    """The card in Markdown. The same files of the project give the same bytes."""
    folder = Path(PROCESSED, dataset)
    preprocess = _locked_stage(f"preprocess@{dataset}")
    tables = _split_tables(folder)
    return render_markdown(
        TEMPLATE,
        dataset=dataset,
        data_hash=data_hash,
        raw_hash=preprocess.deps.get(f"data/raw/{dataset}"),
        sources=data_sources(dataset),
        split=_split_params(preprocess.params.get(f"datasets.{dataset}.preprocess", {})),
        counts=_counts(tables),
        tokens=_read_json(folder / "meta.json").get("splits", {}),
        dropped=_read_json(QUALITY / dataset / "summary.json").get("dropped", {}),
        checks=_checks(_read_json(QUALITY / dataset / "validation.json")),
        drifts=_drifts(tables),
        examples=examples,
    )


def _split_params(values: Mapping[str, Any]) -> Split:
    """The parameters that all datasets share, from a dataset's `preprocess` section."""
    shared = {name: value for name, value in values.items() if name in Split.model_fields}
    return Split.model_validate(shared)


def _read_json(path: Path) -> dict[str, Any]:
    """The content of a file; empty if there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def _split_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The rows of each split; none for a dataset that is written as tokens."""
    if not (folder / TRAIN_TABLE).exists():
        return {}
    return {split: pd.read_parquet(folder / f"{split}.parquet") for split in SPLITS}


def _counts(tables: Mapping[str, pd.DataFrame]) -> dict[str, list[list[Any]]]:
    """The numbers of rows in each split by label or kind, and by source."""
    if not tables:
        return {}
    rows = pd.concat(tables, names=["split"]).reset_index("split")
    counts: dict[str, list[list[Any]]] = {}
    for column in (*LABELS, "source"):
        if column in rows:
            by_split = pd.crosstab(rows[column], rows["split"]).reindex(columns=SPLITS, fill_value=0)
            counts[column] = by_split.reset_index().to_numpy().tolist()
    return counts


def _checks(validation: Mapping[str, Any]) -> list[Check]:
    """The numbers that `preprocess` held against bounds, from validation.json."""
    checks: dict[str, Check] = {}
    for finding in validation.get("expectations", []):
        if finding["check"] != "summary":
            continue
        name = finding["column"]
        check = checks.setdefault(name, Check(name, finding["observed"]))
        (check.bounds[finding["level"]],) = finding["expected"].values()
        check.passed = check.passed and finding["success"]
    return list(checks.values())


def _drifts(tables: Mapping[str, pd.DataFrame]) -> list[Drift]:
    """How far the rows that a model is tested on are from those that it learns from."""
    return moved(tables["train"], tables["test"]) if tables else []
