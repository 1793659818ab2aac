"""The list on which a person decides: nearly equal rows of feedback are one text, with what it would change."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from app.quarantine import Waiting
from llm.errors import UserError
from tasks.data.feedback import FEEDBACK, NEAR, lines_of_feedback, same_answer
from tasks.data.inbox import IN_INBOX
from tasks.data.shingles import near_pairs
from tasks.params.slices import find_dataset
from tasks.registry.markup import cut, printable

CHANGES = ("contradicts", "new", "repeats", "bad answer", "not known")
"""The effect of a text on train: it contradicts a row, adds one, or repeats one.

A bad answer changes nothing, and the effect is unknown for a dataset that was never preprocessed here.
"""
COLUMNS = ("ID", "dataset", "would change", "says", "train says", "text", "wordings", "rows of networks", "versions")
SHOWN = 100
"""Characters of a text in a line."""


@dataclass(frozen=True)
class Text:
    """Nearly equal rows with the same answer; its id is that of the oldest row."""

    id: str
    dataset: str
    change: str
    says: str
    train_says: str
    text: str
    rows: dict[str, str]
    """Maps the id of each row to its client."""
    versions: list[str]
    wordings: dict[str, list[str]]
    """The clients that sent each different text, the text of the oldest row first."""

    def cells(self) -> list[str]:
        """Its line under COLUMNS."""
        networks = " ".join(f"{client} x{count}" for client, count in Counter(self.rows.values()).items())
        wordings = f"{len(self.wordings)} wordings" if len(self.wordings) > 1 else ""
        cells = (self.id, self.dataset, self.change, self.says, self.train_says, self.text, wordings, networks)
        return [*(cut(each, SHOWN) for each in cells), " ".join(self.versions)]

    def whole(self) -> str:
        """Its answers and all its wordings with their networks. They are indented, so none passes for a heading."""
        parts = [("says", self.says), ("train says", self.train_says)]
        for text, clients in self.wordings.items():
            name = "text" if text == self.text else "another wording"
            parts.append((f"{name}, from {' '.join(dict.fromkeys(clients))}", text))
        lines = [f"{self.id}  {self.dataset}  {self.change}"]
        for name, text in parts:
            if text:
                lines += [f"{name}:", *(f"    {printable(line)}" for line in text.expandtabs(4).split("\n"))]
        return "\n".join(lines)


def texts(waiting: Sequence[Waiting]) -> list[Text]:
    """The texts of the rows that wait, by CHANGES and then by age."""
    by_dataset = groupby(sorted(waiting, key=lambda each: each.dataset), key=lambda each: each.dataset)
    found = [each for dataset, rows in by_dataset for each in _texts(dataset, list(rows))]
    return sorted(found, key=lambda each: CHANGES.index(each.change))


def select(found: Sequence[Text], words: Sequence[str]) -> list[str]:
    """The ids of the rows that words name: ids of texts or rows, networks, datasets, or `all`.

    Raises UserError for a word that names no row; `all` may name none.
    """
    chosen: dict[str, None] = {}
    for word in words:
        rows = [
            row
            for each in found
            for row, client in each.rows.items()
            if word in ("all", each.dataset, each.id, client, row)
        ]
        if not rows and word != "all":
            raise UserError(f"no feedback {word!r} waits; `threestage feedback` lists what does")
        chosen |= dict.fromkeys(rows)
    return list(chosen)


def _texts(name: str, rows: Sequence[Waiting]) -> Iterator[Text]:
    dataset = find_dataset(name)
    empty = {**dict.fromkeys(dataset.feedback or (), ""), "history": [], "verdict": "good"}
    table = pd.DataFrame([{**empty, **each.row} for each in rows])
    asked = dataset.text(table.assign(**{dataset.answer: ""}))
    lines = lines_of_feedback(table, asked, table[dataset.answer])
    train = Path("data/processed", name, "train.parquet")
    in_train = _answers_in_train(train, dataset, asked[lines["text"].unique()]) if train.exists() else {}
    for (first, says, good), line in lines.groupby(["text", "answer", "good"], sort=False):
        oldest, answers = line.index[0], in_train.get(first, [])
        if not good:
            change = "bad answer"
        elif not train.exists():
            change = "not known"
        elif answers:
            change = "repeats" if says in map(same_answer, answers) else "contradicts"
        else:
            change = "new"
        yield Text(
            rows[oldest].id,
            name,
            change,
            table[dataset.answer][oldest],
            answers[0] if change == "contradicts" else "",
            asked[oldest],
            {rows[each].id: rows[each].client for each in line.index},
            sorted({str(rows[each].row.get("version")) for each in line.index}),
            line.groupby("asked", sort=False)["client"].agg(list).to_dict(),
        )


def _answers_in_train(train: Path, dataset: Any, asked: pd.Series) -> dict[int, list[str]]:
    """The answers of the curated rows of train that are nearly equal to each text, by the text's index."""
    known = pd.read_parquet(train)
    known = known[~known["id"].str.startswith(f"{IN_INBOX}{FEEDBACK}#")]
    curated = dataset.text(known.assign(**{dataset.answer: ""})).tolist()
    found: dict[int, list[str]] = {}
    for one, other in near_pairs(asked.tolist(), curated, NEAR).tolist():
        found.setdefault(asked.index[one], []).append(known[dataset.answer].iloc[other])
    return found
