"""The record of a dataset's cleaning: counts and examples of each rule, and the rows that it dropped.

A rule reports with `changed` and `left_out`, from anywhere, like a logger; outside `recorded` they do nothing.
Everything is kept in the order of the rows, so that equal runs write equal bytes.
"""

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from llm.files import write_atomic
from tasks.data.cleaning.page import difference, page

EXAMPLES = 5  # of a rule
KEPT = 1_000  # characters of a row in the quarantine
IN_MEMORY = 50_000  # dropped rows that are held before they are written to the quarantine
QUARANTINE = "quarantine.parquet"
COLUMNS = ["id", "source", "rule", "reason", "text"]


@dataclass(frozen=True)
class Rule:
    """A rule of cleaning."""

    does: str
    """What it does, in a sentence."""
    counts: bool = True
    """Whether its dropped rows count in the share of dropped rows, which has a gate.

    They don't if they say nothing about the quality of the others.
    """


RULES: dict[str, Rule] = {
    "unreadable": Rule("A message that no parser can read is left out."),
    "parts": Rule("A body that still holds the parts of a message becomes the text of all of them."),
    "quoted_printable": Rule("Quoted-printable that does not say so is decoded."),
    "markup": Rule("HTML becomes the text that a person sees, and below it what its style hides."),
    "characters": Rule("Mojibake, entities, control characters, look-alike letters and line ends are mended."),
    "spelled": Rule("Words that are written letter by letter are put together."),
    "encoded": Rule("Blocks of base64 and the marks of PGP, which no person reads, are cut out."),
    "footers": Rule("Fixed lines that list servers and filters add are cut out: most lists have only one label."),
    "quotes": Rule("Marks of quoted lines are cut off; what is quoted stays."),
    "personal_data": Rule("Made-up ones replace addresses and numbers of phones, cards and accounts."),
    "unanswered": Rule("A chat in which one side alone speaks is left out.", counts=False),
    "blank": Rule("A row without any text is left out."),
    "contradictions": Rule("Equal rows with different labels are left out."),
    "feedback": Rule(
        "Nearly equal rows of feedback become one: the answer that most networks gave last.", counts=False
    ),
    "lengths": Rule("A row with a field that is too short or too long is left out."),
    "repetition": Rule("A row whose lines mostly repeat each other is left out."),
    "near_duplicates": Rule("All near duplicates but the first are left out."),
    "train_only": Rule(
        "A row of validation or test whose group (a thread, a question) has rows of a `train_only` source is left out."
    ),
    "long_lines": Rule("A row of validation or test with half of its long lines in an earlier split is left out."),
    "inbox": Rule(
        "A row of the inbox that is tested on is left out. A person's own file, and feedback of three networks that "
        "agree, replace a nearly equal row of train. Feedback over its share of train is left out.",
        counts=False,
    ),
}


@dataclass
class Record:
    """The changes and dropped rows of all rules."""

    mask: Callable[[str], str] = str
    """Applied to a text before it is shown."""
    changes: dict[str, int] = field(default_factory=dict)
    """The number of texts that each rule changed."""
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """Some of them, before and after."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Dropped rows that are not in the quarantine's file yet, by COLUMNS."""
    dropped: Counter[str] = field(default_factory=Counter)
    """The number of rows that each rule dropped."""
    shown: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The first dropped rows of each rule."""
    folder: Path | None = None
    """The folder to which the quarantine is written as it grows; without it, it stays in memory."""
    _file: pq.ParquetWriter | None = None

    def changed(self, rule: str, before: str, after: str) -> None:
        """Record that a rule changed a text."""
        if before == after or before.split() == after.split():
            return
        self.changes[rule] = self.changes.get(rule, 0) + 1
        if len(self.examples.setdefault(rule, [])) < EXAMPLES:
            parts = difference(before, after)
            example = {side: self.mask(text.encode(errors="replace").decode()) for side, text in parts.items()}
            self._show(rule, [example])

    def _show(self, rule: str, examples: Iterable[dict[str, str]]) -> None:
        """Keep examples that are no repetitions, up to EXAMPLES."""
        kept = self.examples.setdefault(rule, [])
        for example in examples:
            if len(kept) < EXAMPLES and example not in kept:
                kept.append(example)

    def left_out(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Record dropped rows, by COLUMNS."""
        for row in rows:
            self.dropped[row["rule"]] += 1
            shown = self.shown.setdefault(row["rule"], [])
            if len(shown) < EXAMPLES:
                shown.append(dict(row))
            self.rows.append(dict(row))
            if self.folder and len(self.rows) >= IN_MEMORY:
                self._flush(self.folder)

    def absorb(self, part: Self, rule: str | None = None) -> None:
        """Add the contents of another record, or only those of one rule."""
        for name, count in part.changes.items():
            if rule in (None, name):
                self.changes[name] = self.changes.get(name, 0) + count
                self._show(name, part.examples.get(name, []))
        self.left_out(row for row in part.rows if rule in (None, row["rule"]))

    def to_json(self) -> str:
        """Its contents in memory, for `from_json`."""
        return json.dumps([self.changes, self.examples, self.rows])

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The record of a text from `to_json`."""
        changes, examples, rows = json.loads(text)
        record = cls(changes=changes, examples=examples)
        record.left_out(rows)
        return record

    def quarantine(self) -> pd.DataFrame:
        """The dropped rows in memory, with the rule, its reason and the beginning of the text."""
        return pd.DataFrame(self.rows, columns=COLUMNS, dtype=object).astype(str)

    def _flush(self, folder: Path) -> None:
        table = pa.Table.from_pandas(self.quarantine(), preserve_index=False)
        self._file = self._file or pq.ParquetWriter(folder / QUARANTINE, table.schema)
        self._file.write_table(table)
        self.rows.clear()

    def rules(self) -> set[str]:
        """The rules that changed or dropped anything."""
        return {*self.changes, *self.dropped}

    def counts(self) -> dict[str, int]:
        """For each rule that did anything, the number of texts that it changed and rows that it dropped."""
        return {rule: self.changes.get(rule, 0) + self.dropped[rule] for rule in RULES if rule in self.rules()}

    def write(self, folder: Path, dataset: str) -> None:
        """Write `cleaning.json`, `cleaning.md` for people, and `quarantine.parquet`."""
        content = {rule: self._entry(rule) for rule in self.counts()}
        write_atomic(folder / "cleaning.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        write_atomic(folder / "cleaning.md", page(dataset, content))
        self._flush(self.folder or folder)
        if self._file:
            self._file.close()

    def _entry(self, rule: str) -> dict[str, Any]:
        """What one rule did, as cleaning.json has it."""
        columns = [name for name in COLUMNS if name != "rule"]
        rows = pd.DataFrame(self.shown.get(rule, []), columns=columns, dtype=object).map(str)
        return {
            "does": RULES[rule].does,
            "texts_changed": self.changes.get(rule, 0),
            "rows_left_out": self.dropped[rule],
            "examples": self.examples.get(rule, []),
            "left_out": rows.to_dict("records"),
        }


_current: ContextVar[Record | None] = ContextVar("cleaning", default=None)


@contextmanager
def recorded(mask: Callable[[str], str] = str, folder: Path | None = None) -> Generator[Record]:
    """Record the work of rules inside the block, with texts masked; the quarantine is written to `folder` as it
    grows."""
    record = Record(mask, folder=folder)
    token = _current.set(record)
    try:
        yield record
    finally:
        _current.reset(token)


def changed(rule: str, before: str, after: str) -> None:
    """Report that a rule changed a text; changes to spaces alone do not count."""
    if record := _current.get():
        record.changed(rule, before, after)


def absorb(part: Record, rule: str | None = None) -> None:
    """Add a record made elsewhere, or only that of one rule."""
    if record := _current.get():
        record.absorb(part, rule)


def left_out(rule: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Report the rows that a rule dropped: id, reason and, if there are, source and text."""
    if record := _current.get():
        for row in rows:
            text = record.mask(str(row.get("text", ""))[:KEPT])
            record.left_out([{"source": "", **row, "rule": rule, "text": text}])


def drop(rule: str, table: pd.DataFrame, *, reasons: pd.Series, text: pd.Series) -> pd.DataFrame:
    """The table without the rows that have a reason; these are recorded with their `text`."""
    is_dropped = reasons.notna()
    if is_dropped.any():
        columns = {
            "id": table.get("id", table.index),
            "source": table.get("source", ""),
            "reason": reasons,
            "text": text,
        }
        dropped = pd.DataFrame(columns, table.index, dtype=object)[is_dropped]
        left_out(rule, [dict(zip(columns, row, strict=True)) for row in dropped.to_numpy().tolist()])
    return table[~is_dropped]
