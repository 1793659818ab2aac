"""Rows of a dataset as the models of params.yaml learn them."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from tasks.params.load import load_training
from tasks.params.slices import find_training
from tasks.training.setup import TrainingFiles
from tasks.training.shown_row import ShownRow

EXAMPLES = 3


def show_row(model: str, split: str, number: int) -> ShownRow | None:
    """A row of a model's dataset as it reads it, counted from 0; None for a model that does not say how.

    Raises UserError for a row that is not there.
    """
    training = find_training(model)
    if training.show is None:
        return None
    block = load_training(model)
    base = getattr(block, "base", None)
    files = TrainingFiles(dataset=Path("data/processed", block.dataset), base=base and Path("models", base))
    return training.show(block.train, files, split=split, number=number)


def learned_examples(model: str) -> Iterable[list[str]]:
    """Some rows of the train split, evenly spaced, as lines; the first window of a dataset of tokens."""
    table = Path("data/processed", load_training(model).dataset, "train.parquet")
    count = len(pd.read_parquet(table, columns=["id"])) if table.exists() else 1
    for number in sorted({count * example // EXAMPLES for example in range(EXAMPLES)}):
        shown = show_row(model, "train", number)
        if shown is not None:
            yield shown.lines(model)
