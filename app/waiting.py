"""The list on which a person decides: nearly equal rows of feedback are one text, with what it would change."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from app.quarantine import Waiting
from llm.errors import UserError
from tasks.data.feedback import FEEDBACK, NEAR, lines_of_feedback, same_answer
from tasks.data.inbox import IN_INBOX
from tasks.data.similarity import near_pairs
from tasks.params import find_dataset
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
        return [*map(shortened, cells), " ".join(self.versions)]

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
    by_dataset: dict[str, list[Waiting]] = {}
    for row in waiting:
        by_dataset.setdefault(row.dataset, []).append(row)
    listed: list[Text] = []
    for dataset, rows in sorted(by_dataset.items()):
        listed += _texts(dataset, rows)
    return sorted(listed, key=lambda text: CHANGES.index(text.change))


def shortened(text: str) -> str:
    """A text as it fits into a line."""
    return cut(text, SHOWN)


def select(listed: Sequence[Text], words: Sequence[str]) -> list[str]:
    """The ids of the rows that words name: ids of texts or rows, networks, datasets, or `all`.

    Raises UserError for a word that names no row; `all` may name none.
    """
    chosen: dict[str, None] = {}
    for word in words:
        rows: list[str] = []
        for text in listed:
            rows += [row for row, client in text.rows.items() if word in ("all", text.dataset, text.id, client, row)]
        if not rows and word != "all":
            raise UserError(f"no feedback {word!r} waits; `threestage feedback` lists what does")
        chosen |= dict.fromkeys(rows)
    return list(chosen)


def _texts(name: str, rows: Sequence[Waiting]) -> Iterator[Text]:
    dataset = find_dataset(name)
    empty = {**dict.fromkeys(dataset.feedback or (), ""), "history": [], "verdict": "good"}
    table = pd.DataFrame([{**empty, **waiting.row} for waiting in rows])
    asked = dataset.text(table.assign(**{dataset.answer: ""}))
    lines = lines_of_feedback(table, asked, table[dataset.answer])
    train = Path("data/processed", name, "train.parquet")
    in_train = _answers_in_train(train, dataset, asked[lines["text"].unique()]) if train.exists() else {}
    for (first, says, good), line in lines.groupby(["text", "answer", "good"], sort=False):
        oldest = line.index[0]
        answers = in_train.get(first, [])
        if not good:
            change = "bad answer"
        elif not train.exists():
            change = "not known"
        elif answers:
            change = "repeats" if says in map(same_answer, answers) else "contradicts"
        else:
            change = "new"
        same = [rows[number] for number in line.index]
        yield Text(
            id=rows[oldest].id,
            dataset=name,
            change=change,
            says=table[dataset.answer][oldest],
            train_says=answers[0] if change == "contradicts" else "",
            text=asked[oldest],
            rows={waiting.id: waiting.client for waiting in same},
            versions=sorted({str(waiting.row.get("version")) for waiting in same}),
            wordings=line.groupby("asked", sort=False)["client"].agg(list).to_dict(),
        )


def _answers_in_train(train: Path, dataset: Any, asked: pd.Series) -> dict[int, list[str]]:
    """The answers of the curated rows of train that are nearly equal to each text, by the text's index."""
    curated = pd.read_parquet(train)
    curated = curated[~curated["id"].str.startswith(f"{IN_INBOX}{FEEDBACK}#")]
    curated_texts = dataset.text(curated.assign(**{dataset.answer: ""})).tolist()
    answers: dict[int, list[str]] = {}
    for text, row in near_pairs(asked.tolist(), curated_texts, NEAR).tolist():
        answers.setdefault(asked.index[text], []).append(curated[dataset.answer].iloc[row])
    return answers
