"""Rows of instruction data: tasks of every kind, worded for each split."""

import logging
import re
import zlib
from collections.abc import Iterator, Sequence
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
        instruction, line, given = wording.partition("\n")
        wording = f"{instruction} {hint}" if instruction[-1] in ".?!" else f"{hint} {instruction}"
        wording += line + given
    instruction, _, given = fill(wording, task.values, SPLITS.index(split)).partition("\n")
    return instruction, given


def told(kind: Kind, task: Task) -> list[str]:
    """Every right answer as a sentence, starting with the answer to learn."""
    values = {name: value for name, value in task.values.items() if not isinstance(value, BySplit)}
    short = [answer for answer in task.answers if not SENTENCE.search(answer)]
    found = [fill(sentence, values | {"answer": answer}) for answer in short for sentence in kind.sentences]
    # A sentence that ends in E.R.N. needs no second full stop.
    return [text[0].upper() + text[1:-2] + text[-2:].replace("..", ".") for text in found]


def tasks_of(packs: Packs, name: str, sources: Sources, seed: int, count: int) -> list[Task]:
    """The first `count` tasks of a kind. Raises UserError, naming its file, for an unknown column or list."""
    kind, place = packs.kinds[name], f"{packs.files[f'kinds.{name}']}, kinds.{name}"
    try:
        found = tasks(kind, stream(name, seed), sources, count)
    except UserError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{place}: there is no such column, list, function or form of a step: {error}") from None
    for task in found[:1]:
        for wording in (wording for split in SPLITS for wording in getattr(kind.wordings, split)):
            if unknown := unknown_fields(wording, task.values):
                columns = ", ".join(sorted(task.values))
                raise UserError(f"{place}: {wording!r}: there is no column {unknown[0]!r}; columns are {columns}")
    return found


def made_rows(
    packs: Packs, paths: Sequence[Path], *, seed: int, rows_of: dict[str, int], rows_a_kind: int
) -> Iterator[Values]:
    """Rows of every kind in the packs whose sources are among the files `paths`: `rows_of` it, else
    `rows_a_kind`.

    A row is worded for train; the columns `validation_…` and `test_…` have the wordings of those splits, as splits are
    drawn later. `wording` is the wording with its {fields}.
    """
    sources = Sources({name: path for path in paths if (name := source_of(path))}, packs.lists)
    for name, kind in packs.kinds.items():
        if missing := sorted(set(kind.needs) - sources.paths.keys()):
            logger.info("no %s rows: the source %s is not there", name, " and ".join(missing))
            continue
        wanted = rows_of.get(name, rows_a_kind)
        found = tasks_of(packs, name, sources, seed, wanted)
        if len(found) < wanted:
            logger.info("%d rows of %s: there are no more", len(found), name)
        numbers, manners = (stream(name, seed, of).permutation(len(found)) for of in ("phrasings", "manners"))
        hints = packs.lists["briefly"] if kind.sentences else {split: [""] for split in SPLITS}
        for task, number, manner in zip(found, numbers, manners, strict=True):
            yield _row(name, kind, task, int(number), int(manner), hints)


def _row(name: str, kind: Kind, task: Task, number: int, manner: int, hints: dict[str, list[str]]) -> Values:
    """One row. In a kind with sentences, every other row asks for the answer alone; in the others a sentence is right,
    too, and the model learns one unless the wording asks for less."""
    wordings = {split: texts[number % len(texts)] for split in SPLITS if (texts := getattr(kind.wordings, split))}
    is_brief = bool(manner % 2)
    answers = task.answers if kind.checkable else []
    if kind.sentences and not is_brief:
        sentences = told(kind, task)
        best = answers[0] if BRIEF.search(wordings["train"]) else sentences[manner // 2 % len(kind.sentences)]
        answers = list(dict.fromkeys([best, *sentences, *answers]))
    asked = f"{name}: {task.asked}"
    row = {
        "id": asked,
        "source": ", ".join(kind.needs) or "written here",
        "kind": name,
        "group": task.group or asked,
        "output": (answers or task.answers)[0],
        "answers": answers,
        "history": task.history,
        "system": task.system,
    }
    for split, wording in wordings.items():
        hint = hints[split][manner // 2 % len(hints[split])] if is_brief else ""
        prefix = "" if split == "train" else f"{split}_"
        texts = (*put(wording, task, split, hint), wording)
        row |= {f"{prefix}{column}": text for column, text in zip(WORDED, texts, strict=True)}
    return row
