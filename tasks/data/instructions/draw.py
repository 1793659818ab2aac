"""Draws: how a kind's rows and the steps of its `draw` become tasks.

A step is `name: source`; templates then know the value by that name.

- `day: days` picks one of a list, or of the row's own list in that column; `"{part}"` is the list that a column names.
- `day: [Monday, Friday]` picks one of these. A choice with columns adds them all, and its own `draw` runs at once.
- `old, new: days` picks different ones; of `people` the first is also {name}, {he}, {his} and {him}.
- `text: {train: […], validation: […], test: […]}`, or a list of this form, picks a text for each split.
- `reply: {chance: 0.5, yes: …, no: …}` picks one of two texts or sets of columns; `{shuffled: …}` the first of all, mixed.
- `n: {number: [2, 40]}` is a whole number, `a, b: {different: [2, 40]}` are several; a bound may be a column.
- `n: {sum: [a, b]}` calculates: sum, difference, product, smaller, larger.
- `facts: {notes: {key: text}}` are notes in any order, in a layout for each split; or the column that has them.
- `columns: {name: text}` adds columns.
- `unlike: [a, b]` makes no task of two columns that are equal.
- `compute: name` adds what that function of compute.py returns.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from tasks.data.instructions import compute
from tasks.data.instructions.choose import BySplit, Lists, Sources, Values, pick, rounds, shuffled
from tasks.data.instructions.fill import Person, fill, fill_each, number
from tasks.data.instructions.packs import TABLES, Kind

IN_VAIN = 2_000  # draws in a row that gave no new task, after which a kind has no more
SPLITS = BySplit._fields
CALCULATE: dict[str, Callable[[int, int], int]] = {
    "sum": operator.add,
    "difference": operator.sub,
    "product": operator.mul,
    "smaller": min,
    "larger": max,
}
ORDERS = {"shuffled": shuffled, "again": rounds, "written": lambda _, rows: rows}


class Task(NamedTuple):
    """One task of a kind."""

    asked: str
    answers: list[str]
    """The one to learn first."""
    values: Values
    """What wordings are filled in with."""
    group: str
    history: list[str]
    system: str


class Drawing:
    """The values of one task, drawn step by step."""

    def __init__(self, generator: np.random.Generator, lists: Lists, values: Values) -> None:
        self.generator, self.lists, self.values = generator, lists, values

    def add(self, name: str, chosen: Any) -> bool:
        """Add a value, or columns and what their own steps draw; False where that is no task."""
        if not isinstance(chosen, Mapping):
            chosen = {name: chosen}
        self.values |= chosen
        return self.steps(chosen.get("draw", ()))

    def steps(self, steps: Sequence[Mapping[str, Any]]) -> bool:
        """Draw these steps in their order; False where there is no task."""
        return all(self.step(name, source) for step in steps for name, source in step.items())

    def step(self, name: str, source: Any) -> bool:
        """Draw one step; False where there is no task."""
        generator, values, names = self.generator, self.values, name.split(", ")
        match source:
            case [one, other] if name == "unlike":
                return fill(f"{{{one}}}", values) != fill(f"{{{other}}}", values)
            case str() if name == "compute":
                found = getattr(compute, fill(source, values))(generator, values, self.lists)
                return found is not None and self.add(name, found)
            case {"chance": chance, "yes": yes, "no": no}:
                return self.add(name, yes if generator.random() < chance else no)
            case {"shuffled": choices}:
                return self.add(name, shuffled(generator, choices)[0])
            case {"number": bounds}:
                lowest, highest = map(self.number, bounds)
                return self.add(name, int(generator.integers(lowest, highest + 1)))
            case {"different": bounds}:
                lowest, highest = map(self.number, bounds)
                found = generator.choice(np.arange(lowest, highest + 1), len(names), replace=False)
                return self.add(name, dict(zip(names, map(int, found), strict=True)))
            case {"notes": lines}:
                return self.add(name, self.notes(values[lines] if isinstance(lines, str) else lines))
            case dict() if len(source) == 1 and (calculation := CALCULATE.get(*source)):
                return self.add(name, calculation(*map(self.number, *source.values())))
        choices = self.choices(source)
        if isinstance(choices, Mapping) and choices.keys() != set(SPLITS):
            return self.add(name, choices)
        if isinstance(choices, Mapping):
            return self.add(name, BySplit(*(pick(generator, choices[split]) for split in SPLITS)))
        if source != "people" and len(names) == 1:
            return self.add(name, pick(generator, choices))
        found = shuffled(generator, choices)[: len(names)]
        first = found[0]._asdict() if source == "people" else {}
        return self.add(name, first | dict(zip(names, found, strict=True)))

    def number(self, bound: int | str) -> int:
        """A number, or that of a column."""
        return bound if isinstance(bound, int) else number(bound, self.values)

    def choices(self, source: Any) -> Any:
        """The choices that a step names."""
        if not isinstance(source, str):
            return source
        name = fill(source, self.values)
        if name == "people":
            women = [Person(each, "she", "her", "her") for each in self.lists["women"]]
            return women + [Person(each, "he", "his", "him") for each in self.lists["men"]]
        return self.values[name] if isinstance(self.values.get(name), list) else self.lists[name]

    def notes(self, lines: Mapping[str, str]) -> BySplit:
        """Notes in a random order, each split in a layout of its own."""
        layouts = [pick(self.generator, self.lists["layouts"][split]) for split in SPLITS]
        mixed = [(key, fill(note, self.values)) for key, note in shuffled(self.generator, list(lines.items()))]
        return BySplit(*(each["between"].join(fill(each["line"], {"key": k, "note": n}) for k, n in mixed) for each in layouts))


def _rows(kind: Kind, generator: np.random.Generator, sources: Sources, lists: Lists) -> Iterator[Values]:
    """A kind's rows in their order; endless empty ones where it has none."""
    if kind.table:
        yield from TABLES[kind.table].rows(generator, lists, sources, **kind.given)
        return
    rows: Any = lists[kind.rows] if isinstance(kind.rows, str) else kind.rows
    if not rows:
        yield from repeat({})
    if isinstance(rows, dict):
        ((column, name),) = rows.items()
        rows = [{column: text} for text in lists[name]]
    rows = [{"number": number} | row for number, row in enumerate(rows)]
    rows = [row for row in rows if all(row[name] for name in kind.where)]
    if kind.each:
        rows = [row | {kind.each: text, "number": n} for row in rows for n, text in enumerate(row[kind.each])]
    yield from ORDERS[kind.order](generator, rows)


def tasks(kind: Kind, generator: np.random.Generator, sources: Sources, lists: Lists, count: int) -> list[Task]:
    """The first `count` different tasks of a kind."""
    found: dict[str, Task] = {}
    in_vain = 0
    for row in _rows(kind, generator, sources, lists):
        if len(found) == count or in_vain == IN_VAIN:
            break
        in_vain += 1
        drawing = Drawing(generator, lists, dict(row))
        if not all(row[name] for name in kind.where) or not drawing.steps([*row.get("draw", ()), *kind.draw]):
            continue
        values = drawing.values
        answers = [text for template in kind.answers for text in fill_each(template, values)]
        history = [turn for template in kind.history for turn in fill_each(template, values)]
        asked, group, system = (fill(template, values) for template in (kind.asked, kind.group, kind.system))
        if asked not in found:
            in_vain = 0
            found[asked] = Task(asked, list(dict.fromkeys(answers)), values, group, history, system)
    return list(found.values())
