"""Draws: how a kind's rows and the steps of its `draw` become tasks.

docs/your-data.md lists the forms of a step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import add, mul, sub
from typing import Any

import numpy as np

from tasks.data.instructions import compute
from tasks.data.instructions.choose import SPLITS, BySplit, Generator, Lists, Sources, Values, pick, rounds, shuffled
from tasks.data.instructions.fill import fill, fill_each, number
from tasks.data.instructions.packs import TABLES, Kind

IN_VAIN = 2_000  # rows in a row without a new task: then a kind has no more
CALCULATE = {"sum": add, "difference": sub, "product": mul, "smaller": min, "larger": max}


@dataclass(frozen=True, kw_only=True)
class Task:
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
        self.generator = generator
        self.lists = lists
        self.values = values

    def steps(self, steps: Sequence[Mapping[str, Any]]) -> bool:
        """Draw these steps in their order."""
        return all(self.step(name, source) for step in steps for name, source in step.items())

    def add(self, name: str, chosen: Any) -> bool:
        """Add a column, or several and the columns that their own steps draw."""
        columns = chosen if isinstance(chosen, Mapping) else {name: chosen}
        self.values |= columns
        return self.steps(columns.get("draw", ()))

    def step(self, name: str, source: Any) -> bool:
        """Draw one step."""
        match source:
            case [left, right] if name == "unlike":
                return fill(f"{{{left}}}", self.values) != fill(f"{{{right}}}", self.values)
            case str() if name == "compute":
                columns = getattr(compute, source)(self.generator, self.values, self.lists)
                return columns is not None and self.add(name, columns)
            case {"chance": chance, "then": likely, "else": unlikely}:
                return self.add(name, likely if self.generator.random() < chance else unlikely)
            case {"shuffled": choices}:
                return self.add(name, shuffled(self.generator, self.choices(choices))[0])
            case {"number": bounds}:
                numbers = self.between(bounds)
                return self.add(name, int(self.generator.integers(numbers.start, numbers.stop)))
            case {"different": bounds}:
                return self.add(name, self.different(name.split(", "), self.between(bounds)))
            case {"notes": lines}:
                return self.add(name, self.notes(self.values[lines] if isinstance(lines, str) else lines))
            case dict() if len(source) == 1 and source.keys() <= CALCULATE.keys():
                operation, operands = next(iter(source.items()))
                return self.add(name, CALCULATE[operation](*[number(operand, self.values) for operand in operands]))
        return self.add(name, self.chosen(name.split(", "), self.choices(source)))

    def between(self, bounds: Sequence[int | str]) -> range:
        """The numbers from one bound to the other."""
        lowest, highest = bounds
        return range(number(lowest, self.values), number(highest, self.values) + 1)

    def different(self, names: Sequence[str], numbers: range) -> Values:
        """As many different numbers as there are names."""
        drawn = self.generator.choice(np.array(numbers), len(names), replace=False)
        return dict(zip(names, map(int, drawn), strict=True))

    def chosen(self, names: Sequence[str], choices: Any) -> Any:
        """One of the choices, or a different one for each name; columns, if the choices are columns themselves."""
        if isinstance(choices, Mapping) and choices.keys() == set(SPLITS):
            choices = [BySplit(*[pick(self.generator, choices[split]) for split in SPLITS])]
        if isinstance(choices, Mapping):
            return choices
        if len(names) == 1:
            return pick(self.generator, choices)
        return dict(zip(names, shuffled(self.generator, choices)[: len(names)], strict=True))

    def choices(self, source: Any) -> Any:
        """The choices that a step names."""
        if not isinstance(source, str):
            return source
        name = fill(source, self.values)
        return self.values[name] if isinstance(self.values.get(name), list) else self.lists[name]

    def notes(self, lines: Mapping[str, str]) -> BySplit:
        """Notes in a random order, each split in a layout of its own."""
        layouts = [pick(self.generator, self.lists["layouts"][split]) for split in SPLITS]
        order = shuffled(self.generator, list(lines.items()))
        notes = [{"key": key, "note": fill(note, self.values)} for key, note in order]
        texts: list[str] = []
        for layout in layouts:
            texts.append(layout["between"].join(fill(layout["line"], note) for note in notes))
        return BySplit(*texts)


def _rows(kind: Kind, generator: Generator, sources: Sources) -> Iterator[Values]:
    """A kind's rows in their order; for a kind without rows, empty rows without end."""
    if kind.table:
        yield from TABLES[kind.table](generator, sources, **kind.arguments)
        return
    rows = _listed_rows(kind, sources.lists)
    if not rows:
        yield from repeat({})
    numbered: list[Values] = [{"number": n} | row for n, row in enumerate(rows) if _has(row, kind.where)]
    if column := kind.list_column:
        numbered = [row | {column: text, "number": n} for row in numbered for n, text in enumerate(row[column])]
    yield from rounds(generator, numbered) if kind.order == "again" else shuffled(generator, numbered)


def _has(row: Values, columns: Sequence[str]) -> bool:
    """Whether none of these columns is empty."""
    return all(row[name] for name in columns)


def _listed_rows(kind: Kind, lists: Lists) -> Sequence[Values]:
    """The rows that a kind lists, or that are in a list that it names."""
    match kind.rows:
        case str(name):
            return lists[name]
        case dict(columns) if columns:
            column, name = next(iter(columns.items()))
            return [{column: text} for text in lists[name]]
        case tuple(rows):
            return rows
    return []


def tasks(kind: Kind, generator: Generator, *, sources: Sources, count: int) -> list[Task]:
    """The first `count` distinct tasks of a kind."""
    drawn: dict[str, Task] = {}
    in_vain = 0
    for row in _rows(kind, generator, sources):
        if len(drawn) == count or in_vain == IN_VAIN:
            break
        in_vain += 1
        task = _task(kind, Drawing(generator, sources.lists, dict(row)))
        if task and task.asked not in drawn:
            in_vain = 0
            drawn[task.asked] = task
    return list(drawn.values())


def _task(kind: Kind, drawing: Drawing) -> Task | None:
    """The task that a kind makes from a row; None if its columns make none."""
    values = drawing.values
    if not _has(values, kind.where) or not drawing.steps([*values.get("draw", ()), *kind.draw]):
        return None
    answers = [text for template in kind.answers for text in fill_each(template, values)]
    return Task(
        asked=fill(kind.asked, values),
        answers=list(dict.fromkeys(answers)),
        values=values,
        group=fill(kind.group, values),
        history=[turn for template in kind.history for turn in fill_each(template, values)],
        system=fill(kind.system, values),
    )
