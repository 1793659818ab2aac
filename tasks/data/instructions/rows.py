"""Rows of instruction data: tasks of every kind, worded for each split."""

import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm.errors import UserError
from tasks.data.instructions.choose import SPLITS, BySplit, Generator, Sources, Values
from tasks.data.instructions.draw import Task, tasks
from tasks.data.instructions.fill import fill, unknown_fields
from tasks.data.instructions.packs import Kind, Packs

FILES = {
    "lemminflect": "resources/infl_lu.csv.gz",
    "wordnet": "index.sense",
    "world-countries": "dist/countries.json",
}
"""The end of the path of each source's file."""
WORDED = ("instruction", "input", "wording")
"""The columns that differ between splits."""
BRIEF = re.compile(r"in one word|one word is enough|nothing else|just the|only the answer", re.IGNORECASE)
"""A wording that asks for the answer alone by itself."""
SENTENCE = re.compile(r"^(it|this|you|yes|no)\b|\b(is|live|like)\b", re.IGNORECASE)  # fits into no other sentence

logger = logging.getLogger(__name__)


def source_of(path: Path) -> str | None:
    """The source of a file; None for other files."""
    return next((name for name, end in FILES.items() if path.as_posix().endswith(f"/{end}")), None)


def stream(name: str, seed: int, purpose: str = "") -> Generator:
    """A random generator for one kind; other kinds do not affect it."""
    return np.random.default_rng([seed, zlib.crc32(f"{name} {purpose}".encode())])


def put(wording: str, task: Task, split: str, hint: str = "") -> tuple[str, str]:
    """Instruction and input of a task in a wording; with a `hint` it asks for the answer alone."""
    if hint and not BRIEF.search(wording):
        instruction, newline, task_input = wording.partition("\n")
        instruction = f"{instruction} {hint}" if instruction[-1] in ".?!" else f"{hint} {instruction}"
        wording = instruction + newline + task_input
    instruction, _, task_input = fill(wording, task.values, SPLITS.index(split)).partition("\n")
    return instruction, task_input


def in_sentences(kind: Kind, task: Task) -> list[str]:
    """Every right answer as a sentence, starting with the answer to learn."""
    values = {name: value for name, value in task.values.items() if not isinstance(value, BySplit)}
    answers = [answer for answer in task.answers if not SENTENCE.search(answer)]
    texts = [fill(sentence, values | {"answer": answer}) for answer in answers for sentence in kind.sentences]
    # A sentence that ends in E.R.N. needs no second full stop.
    return [text[0].upper() + text[1:-2] + text[-2:].replace("..", ".") for text in texts]


def tasks_of(packs: Packs, name: str, sources: Sources, *, seed: int, count: int) -> list[Task]:
    """The first `count` tasks of a kind. Raises UserError, naming its file, for an unknown column or list."""
    kind = packs.kinds[name]
    where = f"{packs.files[f'kinds.{name}']}, kinds.{name}"
    try:
        kind_tasks = tasks(kind, stream(name, seed), sources=sources, count=count)
    except UserError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{where}: there is no such column, list, function or form of a step: {error}") from None
    wordings = [*kind.wordings.train, *kind.wordings.validation, *kind.wordings.test]
    for wording in wordings if kind_tasks else []:
        if unknown := unknown_fields(wording, kind_tasks[0].values):
            columns = ", ".join(sorted(kind_tasks[0].values))
            raise UserError(f"{where}: {wording!r}: there is no column {unknown[0]!r}; columns are {columns}")
    return kind_tasks


def made_rows(
    packs: Packs, paths: Sequence[Path], *, seed: int, rows_of: dict[str, int], rows_a_kind: int
) -> Iterator[Values]:
    """Rows of every kind in the packs whose sources are among the files `paths`: `rows_of` it, else
    `rows_a_kind`.

    A row is worded for train; the columns `validation_…` and `test_…` have the wordings of those splits, as splits are
    drawn later. `wording` is the wording with its {fields}.
    """
    source_paths = {source_of(path): path for path in paths}
    sources = Sources({name: path for name, path in source_paths.items() if name}, packs.lists)
    for name, kind in packs.kinds.items():
        if missing := sorted(set(kind.needs) - sources.paths.keys()):
            logger.info("no %s rows: the source %s is not there", name, " and ".join(missing))
            continue
        count = rows_of.get(name, rows_a_kind)
        kind_tasks = tasks_of(packs, name, sources, seed=seed, count=count)
        if len(kind_tasks) < count:
            logger.info("%d rows of %s: there are no more", len(kind_tasks), name)
        phrasings = stream(name, seed, "phrasings").permutation(len(kind_tasks))
        manners = stream(name, seed, "manners").permutation(len(kind_tasks))
        hints = packs.lists["briefly"] if kind.sentences else {split: [""] for split in SPLITS}
        for task, phrasing, manner in zip(kind_tasks, phrasings, manners, strict=True):
            row = _Row(name=name, kind=kind, task=task, phrasing=int(phrasing), manner=int(manner), hints=hints)
            yield row.values()


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One row, before it is worded.

    In a kind with sentences, every other row asks for the answer alone; in the others a sentence is right, too, and the
    model learns one unless the wording asks for less.
    """

    name: str
    kind: Kind
    task: Task
    phrasing: int
    """Chooses the wording of each split."""
    manner: int
    """Chooses whether to ask for the answer alone, the hint that does so, and the sentence to learn."""
    hints: dict[str, list[str]]

    def values(self) -> Values:
        """The row by column."""
        question = f"{self.name}: {self.task.asked}"
        answers = self._answers()
        row: Values = {
            "id": question,
            "source": ", ".join(self.kind.needs) or "written here",
            "kind": self.name,
            "group": self.task.group or question,
            "output": (answers or self.task.answers)[0],
            "answers": answers,
            "history": self.task.history,
            "system": self.task.system,
        }
        for split in SPLITS:
            prefix = "" if split == "train" else f"{split}_"
            wording = self._wording(split)
            hints = self.hints[split]
            hint = hints[self.manner // 2 % len(hints)] if self._is_brief else ""
            instruction, task_input = put(wording, self.task, split, hint=hint)
            row |= {f"{prefix}instruction": instruction, f"{prefix}input": task_input, f"{prefix}wording": wording}
        return row

    @property
    def _is_brief(self) -> bool:
        return self.manner % 2 == 1

    def _wording(self, split: str) -> str:
        wordings: Sequence[str] = getattr(self.kind.wordings, split)
        return wordings[self.phrasing % len(wordings)]

    def _answers(self) -> list[str]:
        """Every right answer, the one to learn first; none if any answer may be right."""
        answers = self.task.answers if self.kind.checkable else []
        if not self.kind.sentences or self._is_brief:
            return answers
        sentences = in_sentences(self.kind, self.task)
        learned = sentences[self.manner // 2 % len(self.kind.sentences)]
        if BRIEF.search(self._wording("train")):
            learned = answers[0]
        return list(dict.fromkeys([learned, *sentences, *answers]))
