"""Draws: how a kind's rows and the steps of its `draw` become tasks.

docs/your-data.md lists the forms of a step.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from operator import add, mul, sub
from typing import Any, NamedTuple

import numpy as np

from tasks.data.instructions import compute
from tasks.data.instructions.choose import SPLITS, BySplit, Generator, Lists, Sources, Values, pick, rounds, shuffled
from tasks.data.instructions.fill import fill, fill_each, number
from tasks.data.instructions.packs import TABLES, Kind

IN_VAIN = 2_000  # rows in a row without a new task: then a kind has no more
CALCULATE = {"sum": add, "difference": sub, "product": mul, "smaller": min, "larger": max}


class Task(NamedTuple):
    """One task of a kind. The model learns the first answer; the values fill in the wordings."""

    asked: str
    answers: list[str]
    values: Values
    group: str
    history: list[str]
    system: str


class Drawing:
    """Draws the columns of one task, step by step. Its methods return False if the columns make no task."""

    def __init__(self, generator: Generator, lists: Lists, values: Values) -> None:
        self.generator, self.lists, self.values = generator, lists, values

    def steps(self, steps: Sequence[Mapping[str, Any]]) -> bool:
        """Draw these steps in their order."""
        return all(self.step(name, source) for step in steps for name, source in step.items())

    def add(self, name: str, chosen: Any) -> bool:
        """Add a column, or several and the columns that their own steps draw."""
        chosen = chosen if isinstance(chosen, Mapping) else {name: chosen}
        self.values |= chosen
        return self.steps(chosen.get("draw", ()))

    def step(self, name: str, source: Any) -> bool:
        """Draw one step."""
        generator, values, names = self.generator, self.values, name.split(", ")
        match source:
            case [one, other] if name == "unlike":
                return fill(f"{{{one}}}", values) != fill(f"{{{other}}}", values)
            case str() if name == "compute":
                found = getattr(compute, source)(generator, values, self.lists)
                return found is not None and self.add(name, found)
            case {"chance": chance, "then": one, "else": other}:
                return self.add(name, one if generator.random() < chance else other)
            case {"shuffled": choices}:
                return self.add(name, shuffled(generator, self.choices(choices))[0])
            case {"number": bounds}:
                lowest, highest = (number(bound, values) for bound in bounds)
                return self.add(name, int(generator.integers(lowest, highest + 1)))
            case {"different": bounds}:
                lowest, highest = (number(bound, values) for bound in bounds)
                drawn = generator.choice(np.arange(lowest, highest + 1), len(names), replace=False)
                return self.add(name, dict(zip(names, map(int, drawn), strict=True)))
            case {"notes": lines}:
                return self.add(name, self.notes(values[lines] if isinstance(lines, str) else lines))
            case dict() if len(source) == 1 and source.keys() <= CALCULATE.keys():
                ((operation, operands),) = source.items()
                return self.add(name, CALCULATE[operation](*(number(each, values) for each in operands)))
        choices = self.choices(source)
        if isinstance(choices, Mapping) and choices.keys() == set(SPLITS):
            choices = [BySplit(*(pick(generator, choices[split]) for split in SPLITS))]
        if isinstance(choices, Mapping):
            return self.add(name, choices)
        if len(names) == 1:
            return self.add(name, pick(generator, choices))
        return self.add(name, dict(zip(names, shuffled(generator, choices)[: len(names)], strict=True)))

    def choices(self, source: Any) -> Any:
        """The choices that a step names."""
        if not isinstance(source, str):
            return source
        name = fill(source, self.values)
        return self.values[name] if isinstance(self.values.get(name), list) else self.lists[name]

    def notes(self, lines: Mapping[str, str]) -> BySplit:
        """Notes in a random order, each split in a layout of its own."""
        layouts = [pick(self.generator, self.lists["layouts"][split]) for split in SPLITS]
        mixed = [(key, fill(note, self.values)) for key, note in shuffled(self.generator, list(lines.items()))]
        texts = ([fill(each["line"], {"key": key, "note": note}) for key, note in mixed] for each in layouts)
        return BySplit(*(each["between"].join(lines) for each, lines in zip(layouts, texts, strict=True)))


def _rows(kind: Kind, generator: Generator, sources: Sources) -> Iterator[Values]:
    """A kind's rows in their order; for a kind without rows, empty rows without end."""
    if kind.table:
        yield from TABLES[kind.table](generator, sources, **kind.given)
        return
    rows: Any = sources.lists[kind.rows] if isinstance(kind.rows, str) else kind.rows
    if not rows:
        yield from repeat({})
    if isinstance(rows, dict):
        ((column, name),) = rows.items()
        rows = [{column: text} for text in sources.lists[name]]
    rows = [{"number": n} | row for n, row in enumerate(rows) if all(row[name] for name in kind.where)]
    if kind.each:
        rows = [row | {kind.each: text, "number": n} for row in rows for n, text in enumerate(row[kind.each])]
    yield from rounds(generator, rows) if kind.order == "again" else shuffled(generator, rows)


def tasks(kind: Kind, generator: Generator, sources: Sources, count: int) -> list[Task]:
    """The first `count` distinct tasks of a kind."""
    found: dict[str, Task] = {}
    in_vain = 0
    for row in _rows(kind, generator, sources):
        if len(found) == count or in_vain == IN_VAIN:
            break
        in_vain += 1
        drawing = Drawing(generator, sources.lists, dict(row))
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
