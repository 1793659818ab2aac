"""What waits in the quarantine, for a person who decides: nearly equal rows are one text, with what it would change."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pandas as pd

from app.quarantine import Waiting
from tasks.data.inbox import FEEDBACK, IN_INBOX, NEAR, lines_of_feedback, same_answer
from tasks.data.splits import near_pairs
from tasks.datasets import find

CHANGES = ("contradicts", "new", "repeats", "bad answer", "not known")
"""What a text would do to train: say another thing than a row of it, be a new row, say what a row says, nothing; and
`not known` where the dataset is not here."""
COLUMNS = ("ID", "dataset", "would change", "says", "train says", "text", "wordings", "rows of networks", "versions")
SHOWN = 100
"""Characters of a text in a line."""


@dataclass(frozen=True)
class Text:
    """Nearly equal rows that say the same; its id is that of the row that came first."""

    id: str
    dataset: str
    change: str
    says: str
    train_says: str
    text: str
    rows: dict[str, str]
    """The id of each row, with its client."""
    versions: list[str]
    wordings: dict[str, list[str]]
    """Each different text among these rows, that of the first row first, with the clients that sent it."""

    def cells(self) -> list[str]:
        """What a person sees of it, under COLUMNS."""
        networks = " ".join(f"{client} x{count}" for client, count in Counter(self.rows.values()).items())
        wordings = f"{len(self.wordings)} wordings" if len(self.wordings) > 1 else ""
        shown = (self.id, self.dataset, self.change, self.says, self.train_says, self.text, wordings, networks)
        return [*map(one_line, shown), " ".join(self.versions)]

    def whole(self) -> str:
        """All that its rows say, each wording with its networks. Texts are indented, so none passes for a heading."""
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
    """What waits, by what it would change and then as it came."""
    by_dataset = groupby(sorted(waiting, key=lambda each: each.dataset), key=lambda each: each.dataset)
    found = [each for dataset, rows in by_dataset for each in _texts(dataset, list(rows))]
    return sorted(found, key=lambda each: CHANGES.index(each.change))


def select(found: Sequence[Text], words: Sequence[str]) -> list[str]:
    """The ids of the rows that words mean: ids of texts or rows, networks, datasets, `all`. What means none stays."""
    chosen: list[str] = []
    for word in words:
        chosen += [
            row
            for each in found
            for row, client in each.rows.items()
            if word in ("all", each.dataset, each.id, client, row)
        ] or [word]
    return chosen


def one_line(text: str) -> str:
    """The beginning of a text, without characters that could change what a terminal or a page shows around it."""
    return printable(" ".join(text.split())[:SHOWN])


def printable(line: str) -> str:
    """A line without characters that could change what is shown around it."""
    return "".join(each if each.isprintable() else "\ufffd" for each in line)


def _texts(name: str, rows: Sequence[Waiting]) -> Iterator[Text]:
    dataset = find(name)
    empty = {**dict.fromkeys(dataset.feedback or (), ""), "history": [], "verdict": "good"}
    table = pd.DataFrame([{**empty, **each.row} for each in rows])
    asked = dataset.text(table.assign(**{dataset.answer: ""}))
    lines = lines_of_feedback(table, asked, table[dataset.answer])
    train = Path("data/processed", name, "train.parquet")
    said: dict[int, list[str]] = {}
    if train.exists():
        known = pd.read_parquet(train)
        known = known[~known["id"].str.startswith(f"{IN_INBOX}{FEEDBACK}#")]
        firsts = lines["text"].unique().tolist()
        texts_of_train = dataset.text(known.assign(**{dataset.answer: ""})).tolist()
        for one, other in near_pairs([asked[place] for place in firsts], texts_of_train, NEAR).tolist():
            said.setdefault(firsts[one], []).append(known[dataset.answer].iloc[other])
    for (first, says, good), line in lines.groupby(["text", "answer", "good"], sort=False):
        place, there, change = line.index[0], said.get(first, []), "new"
        if not good or not train.exists():
            change = "not known" if good else "bad answer"
        elif there:
            change = "repeats" if says in map(same_answer, there) else "contradicts"
        yield Text(
            rows[place].id,
            name,
            change,
            table[dataset.answer][place],
            there[0] if change == "contradicts" else "",
            asked[place],
            {rows[each].id: rows[each].client for each in line.index},
            sorted({str(rows[each].row.get("version")) for each in line.index}),
            line.groupby("asked", sort=False)["client"].agg(list).to_dict(),
        )
