"""The record of a dataset's cleaning: counts and examples of each rule, and the rows that it dropped.

A rule reports with `changed` and `left_out`, from anywhere, like a logger; outside `recorded` they do nothing.
Everything is kept in the order of the rows, so that equal runs write equal bytes.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from llm.files import write_atomic

EXAMPLES = 5  # of a rule
LINES, LONGEST, BEFORE = 3, 160, 40  # of an example: lines, characters of a line, and characters before the difference
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
    "language": Rule("A row in a language that `languages` does not name is left out.", counts=False),
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
        examples = self.examples.setdefault(rule, [])
        if len(examples) < EXAMPLES:
            parts = _difference(before, after)
            example = {side: self.mask(text.encode(errors="replace").decode()) for side, text in parts.items()}
            examples += [] if example in examples else [example]

    def left_out(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Record dropped rows, by COLUMNS."""
        for row in rows:
            self.dropped[row["rule"]] += 1
            shown = self.shown.setdefault(row["rule"], [])
            if len(shown) < EXAMPLES:
                shown.append(row)
            self.rows.append(row)
            if self.folder and len(self.rows) >= IN_MEMORY:
                self._flush(self.folder)

    def absorb(self, other: Self, rule: str | None = None) -> None:
        """Add the contents of another record, or only those of one rule."""
        for name, count in other.changes.items():
            if rule in (None, name):
                self.changes[name] = self.changes.get(name, 0) + count
                examples = self.examples.setdefault(name, [])
                more = [each for each in other.examples.get(name, []) if each not in examples]
                examples += more[: EXAMPLES - len(examples)]
        self.left_out(row for row in other.rows if rule in (None, row["rule"]))

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
        found = {rule: self.changes.get(rule, 0) + self.dropped[rule] for rule in RULES}
        return {rule: count for rule, count in found.items() if count}

    def write(self, folder: Path, dataset: str) -> None:
        """Write `cleaning.json`, `cleaning.md` for people, and `quarantine.parquet`."""
        content = {
            rule: {
                "does": RULES[rule].does,
                "texts_changed": self.changes.get(rule, 0),
                "rows_left_out": self.dropped[rule],
                "examples": self.examples.get(rule, []),
                "left_out": [
                    {name: str(row[name]) for name in COLUMNS if name != "rule"} for row in self.shown.get(rule, [])
                ],
            }
            for rule in self.counts()
        }
        write_atomic(folder / "cleaning.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        write_atomic(folder / "cleaning.md", "\n".join(_page(dataset, content)) + "\n")
        self._flush(self.folder or folder)
        self._file.close()


_current: ContextVar[Record | None] = ContextVar("cleaning", default=None)


@contextmanager
def recorded(mask: Callable[[str], str] = str, folder: Path | None = None) -> Iterator[Record]:
    """Record the work of rules inside the block, with texts masked; the quarantine is written to `folder` as it
    grows."""
    token = _current.set(record := Record(mask, folder=folder))
    try:
        yield record
    finally:
        _current.reset(token)


def changed(rule: str, before: str, after: str) -> None:
    """Report that a rule changed a text; changes to spaces alone do not count."""
    if record := _current.get():
        record.changed(rule, before, after)


def absorb(other: Record, rule: str | None = None) -> None:
    """Add a record made elsewhere, or only that of one rule."""
    if record := _current.get():
        record.absorb(other, rule)


def left_out(rule: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Report the rows that a rule dropped: id, reason and, if there are, source and text."""
    if record := _current.get():
        record.left_out(
            {"source": ""} | dict(row) | {"rule": rule, "text": record.mask(str(row.get("text", ""))[:KEPT])}
            for row in rows
        )


def drop(rule: str, table: pd.DataFrame, reasons: pd.Series, text: pd.Series) -> pd.DataFrame:
    """The table without the rows that have a reason; these are recorded with their `text`."""
    out = reasons.notna()
    if out.any():
        rows = table[out]
        ids, sources = rows.get("id", rows.index), rows.get("source", [""] * len(rows))
        found = zip(ids, sources, reasons[out], text[out], strict=True)
        left_out(rule, (dict(zip(("id", "source", "reason", "text"), row, strict=True)) for row in found))
    return table[~out]


def _difference(before: str, after: str) -> dict[str, str]:
    """The first lines that differ, without blank ones; a long line is shown from shortly before the difference."""
    lines = [[" ".join(line.split()) for line in text.split("\n") if line.strip()] for text in (before, after)]
    pairs = enumerate(zip_longest(*lines, fillvalue=""))
    first, pair = next(((number, pair) for number, pair in pairs if pair[0] != pair[1]), (0, ("", "")))
    same = next(
        (place for place, (one, other) in enumerate(zip(*pair, strict=False)) if one != other), min(map(len, pair))
    )
    start = same - BEFORE if same > LONGEST - BEFORE else 0
    shown = ([line[start:] for line in each[first : first + 1]] + each[first + 1 : first + LINES] for each in lines)
    found = ("\n".join(line[:LONGEST] for line in each) for each in shown)
    return dict(zip(("before", "after"), found, strict=True))


def _page(dataset: str, content: Mapping[str, Any]) -> Iterator[str]:
    yield f"# What cleaning did to {dataset}"
    yield ""
    if not content:
        yield "Nothing."
        return
    yield "| rule | what it does | texts changed | rows left out |"
    yield "|---|---|--:|--:|"
    for rule, found in content.items():
        yield f"| {rule} | {found['does']} | {found['texts_changed']} | {found['rows_left_out']} |"
    yield ""
    yield "All rows left out are in `quarantine.parquet`."
    for rule, found in content.items():
        yield from ("", f"## {rule}")
        for example in found["examples"]:
            yield from ("", "```diff", *_marked("-", example["before"]), *_marked("+", example["after"]), "```")
        for row in found["left_out"]:
            text = " ".join(row["text"].split())[:LONGEST].replace("`", "'")
            yield from ("", f"`{row['id']}`: {row['reason']}" + (f": `{text}`" if text else ""))


def _marked(mark: str, text: str) -> Iterator[str]:
    return (f"{mark} {line}".rstrip().replace("```", "'''") for line in text.split("\n"))
