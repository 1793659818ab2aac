"""Preprocess: a raw dataset, cleaned, de-duplicated, split and checked, becomes `data/processed/<dataset>/`.

python -m flows.preprocess emails
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import mlflow
import pandas as pd
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from llm.files import atomic_folder
from llm.tokenizer import save_tokenizer, train_bpe
from tasks.cluster import map_in_order
from tasks.foundation import encoding_by_name, published_tokenizer
from tasks.params import SCRATCH, Corpus, Dataset, Emails, Instructions
from tasks.quality import summarise, summary_expectations, validate
from tasks.splits import SPLITS, deduplicate, split
from tasks.stages import stage_command
from tasks.tracking import stage_run

Table = pd.DataFrame
step = partial(task, cache_policy=NO_CACHE, persist_result=False)


@dataclass(frozen=True)
class Recipe:
    """What is a dataset's own."""

    read: Callable[[Path], Table]
    text: Callable[[Table], pd.Series]
    """What makes two rows the same."""
    stratify: str
    """The column whose values each split has in the same shares."""
    expectations: Callable[[], list]
    write: Callable[[dict[str, Table], Path], Any]
    groups: str | None = None
    """The column whose equal values stay in one split; it is not written."""
    labels: tuple[str, ...] = ()


def _write_parquet(splits: dict[str, Table], folder: Path) -> None:
    for name, table in splits.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)


def _recipe(dataset: Dataset, params: Corpus | Emails | Instructions) -> Recipe:
    """Imports a dataset's own module alone, so that a change in another's leaves the stage as it is."""
    match dataset:
        case "corpus":
            from tasks.corpus import corpus_expectations, read_corpus, write_tokens

            def write(splits: dict[str, Table], folder: Path) -> None:
                if params.foundation != SCRATCH:
                    encoding = published_tokenizer(params.foundation)
                elif params.tokenizer == "bpe":
                    encoding = train_bpe(splits["train"]["text"], params.vocabulary_size)
                else:
                    encoding = encoding_by_name(params.tokenizer)
                save_tokenizer(encoding, folder / "tokenizer.json")
                write_tokens(encoding, splits, folder, map_in_order)

            return Recipe(read_corpus, lambda table: table["text"], "source", corpus_expectations, write)
        case "emails":
            from tasks.emails import LABELS, email_expectations, email_text, read_emails

            return Recipe(read_emails, email_text, "label", email_expectations, _write_parquet, labels=tuple(LABELS))
        case "instructions":
            from tasks.instructions import instruction_expectations, read_instructions

            return Recipe(
                partial(read_instructions, params=params),
                lambda table: table["instruction"] + "\n" + table["input"] + "\n" + table["output"],
                "kind",
                instruction_expectations,
                _write_parquet,
                groups="group",
            )


@step
def read(dataset: Dataset, recipe: Recipe) -> Table:
    """Read the raw files."""
    return recipe.read(Path("data/raw") / dataset)


@step
def drop_duplicates(table: Table, recipe: Recipe, threshold: float) -> Table:
    """Keep one row of each group of near duplicates."""
    return deduplicate(table, recipe.text(table), threshold)


@step
def split_rows(table: Table, recipe: Recipe, params: Corpus | Emails | Instructions) -> Table:
    """Give every row its split."""
    groups = table[recipe.groups] if recipe.groups else None
    return split(table, params, groups=groups, stratify=recipe.stratify)


@step
def check(dataset: Dataset, rows_read: int, table: Table, recipe: Recipe, threshold: float, report: Path) -> Table:
    """Hold rows and splits against what is expected of them, and give the summary."""
    summary = summarise(rows_read, table, recipe.text(table), threshold, groups=recipe.groups, labels=recipe.labels)
    checks = {
        "rows": (table.drop(columns="split"), recipe.expectations()),
        "summary": (summary, summary_expectations(recipe.labels)),
    }
    validate(dataset, checks, report)
    return summary


@step
def write(table: Table, recipe: Recipe, folder: Path) -> None:
    """Write the splits as what trains and evaluates reads them."""
    kept = table.drop(columns=["split", recipe.groups] if recipe.groups else "split")
    recipe.write({name: kept[table["split"] == name] for name in SPLITS}, folder)


@flow(flow_run_name="preprocess-{dataset}")
def preprocess(dataset: Dataset, params: Corpus | Emails | Instructions) -> None:
    """Clean, de-duplicate, split and check a raw dataset; nothing is written unless every check passes."""
    recipe = _recipe(dataset, params)
    processed, quality = Path("data/processed") / dataset, Path("reports/quality") / dataset
    with stage_run(params), atomic_folder(processed) as folder, atomic_folder(quality) as report:
        raw = read(dataset, recipe)
        table = split_rows(drop_duplicates(raw, recipe, params.near_duplicate), recipe, params)
        summary = check(dataset, len(raw), table, recipe, params.near_duplicate, report)
        write(table, recipe, folder)
        mlflow.log_metrics(summary.drop(columns="id").iloc[0].to_dict())
        create_table_artifact(
            summary.to_dict("records"), key=f"preprocess-{dataset}", description=f"The rows of {dataset}"
        )


if __name__ == "__main__":
    sys.exit(stage_command(preprocess, "preprocess", get_args(Dataset)))
