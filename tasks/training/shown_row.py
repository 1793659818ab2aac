"""A row of a dataset as a model reads it, token by token, with what is learned of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import tiktoken

from llm.errors import UserError
from llm.tokenizer import token_bytes
from tasks.training.setup import TrainingFiles, split_file

if TYPE_CHECKING:
    from tasks.training.description import Training


@dataclass(frozen=True)
class ShownRow:
    """A row as tokens."""

    name: str
    """Its id."""
    tokens: list[str]
    learned: list[bool]
    """Whether the model learns to say each token."""
    label: str | None = None
    """The label that it learns to give."""

    def lines(self, model: str, between: str = "") -> list[str]:
        """A title, then what the model reads and what it learns to say: a line for each part, with its tokens joined by
        `between`."""
        title = f"{self.name}, as {model} reads it: {len(self.tokens)} tokens, {sum(self.learned)} learned"
        verbs = {True: "learns", False: "reads "}
        lines = [title]
        for is_learned, pairs in groupby(zip(self.learned, self.tokens, strict=True), key=itemgetter(0)):
            lines.append(f"{verbs[is_learned]}  {between.join(token for _, token in pairs)}")
        if self.label is not None:
            lines.append(f"learns  the label {self.label}")
        return lines


def shown_row(
    name: str,
    encoding: tiktoken.Encoding,
    tokens: Sequence[int],
    *,
    learned: Iterable[bool],
    label: str | None = None,
) -> ShownRow:
    """A row from its tokens; a token that is part of a character is shown as its bytes."""
    texts = [_spelled(encoding, token) for token in tokens]
    return ShownRow(name=name, tokens=texts, learned=list(learned), label=label)


def _spelled(encoding: tiktoken.Encoding, token: int) -> str:
    content = token_bytes(encoding, token)
    try:
        return content.decode().replace("\n", "↵").replace("\t", "⇥")
    except UnicodeDecodeError:
        return "".join(f"<{byte:02x}>" for byte in content)


def show_row(training: "Training", block: Any, *, split: str, number: int) -> ShownRow | None:
    """A row of the dataset that a model's block names, counted from 0; None for a training that does not say how.

    Raises UserError for a row that is not there.
    """
    if training.show is None:
        return None
    base = getattr(block, "base", None)
    files = TrainingFiles(dataset=Path("data/processed", block.dataset), base=base and Path("models", base))
    return training.show(block.train, files, split=split, number=number)


def read_row(dataset: Path, split: str, number: int) -> pd.Series:
    """A row of a split, counted from 0. Raises UserError for one that it does not have."""
    table = pd.read_parquet(split_file(dataset, split))
    check_number(number, len(table), f"{dataset.name}'s {split} split")
    return table.iloc[number]


def check_number(number: int, count: int, of: str) -> None:
    """Raise UserError for the number of a row that is not there."""
    if not 0 <= number < count:
        raise UserError(f"{of} has no row {number}: it has {count}, from 0 on")
