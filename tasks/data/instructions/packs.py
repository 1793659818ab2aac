"""Packs: the YAML files with kinds of tasks and lists of words, read and checked."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from llm.config import Config
from llm.errors import UserError
from tasks.data.instructions import compute, countries, words
from tasks.data.instructions.choose import Lists, Values
from tasks.data.instructions.countries import Correction
from tasks.stages.yaml_text import read_yaml

PACKS = Path("data/instructions")
TABLES: dict[str, Callable[..., Iterator[Values]]] = {
    rows.__name__: rows
    for rows in (
        *(compute.as_much_spam_as_ham, compute.numbers, compute.times_tables, countries.countries),
        *(words.adjectives, words.common_words, words.past_tenses),
    )
}
"""Functions that yield rows: of a random generator, the sources and what a kind says under `with`."""
Texts = tuple[str, ...]


def as_rows(content: Any) -> Any:
    """The content with rows by column for each table, whose lines have bars between their cells."""
    match content:
        case {"columns": str(columns), "rows": [*lines]} if len(content) == 2:
            names = columns.split(" | ")
            rows = [[cell.strip() for cell in str(line).split("|")] for line in lines]
            if wrong := [line for line, row in zip(lines, rows, strict=True) if len(row) != len(names)]:
                raise ValueError(f"{wrong[0]!r} has not one cell for each column of {columns!r}")
            return [dict(zip(names, row, strict=True)) for row in rows]
        case dict():
            return {key: as_rows(value) for key, value in content.items()}
        case list():
            return [as_rows(value) for value in content]
    return content


class Wordings(Config):
    """Wordings of a task: an instruction and, on a second line, its input. Each split has its own."""

    train: Annotated[Texts, Field(min_length=3)]
    validation: Annotated[Texts, Field(min_length=2)]
    test: Annotated[Texts, Field(min_length=3)]

    @model_validator(mode="after")
    def _each_is_there_once(self) -> Self:
        every = [*self.train, *self.validation, *self.test]
        if twice := [text for text in every if every.count(text) > 1]:
            raise ValueError(f"{twice[0]!r} is there twice")
        return self


class Kind(Config):
    """A kind of task."""

    about: str
    """A description of its tasks, in a sentence."""
    wordings: Wordings
    answers: Annotated[Texts, Field(min_length=1)]
    """The answer to learn, then others that are right; one that ends in … is how a right answer begins."""
    checkable: bool = True
    """Whether answers can be checked. If not, any answer may be right, and the model learns the first."""
    sentences: Texts = ()
    """Sentences that tell the {answer}: half of the rows ask for the answer alone, half learn a sentence."""
    asked: str
    """The text that identifies a task within its kind."""
    group: str = ""
    """Tasks of one group stay in one split, whatever their kind, because each would give away the others' answers."""
    history: Texts = ()
    """Earlier turns, of user and assistant in turn."""
    system: str = ""
    """A system prompt of its own."""
    rows: str | dict[str, str] | tuple[Any, ...] = ()
    """The rows that tasks are made from: a list, the name of a list, or {column: name of a list of texts}."""
    each: str = ""
    """A column that holds a list: each of its texts makes a row."""
    table: str = ""
    """Rows that Python makes, instead of `rows`."""
    needs: Texts = ()
    """The sources of that table; if one is missing, the kind is left out."""
    given: dict[str, Any] = Field(default={}, alias="with")
    """Arguments of that table."""
    order: Literal["shuffled", "again"] = "shuffled"
    """Whether to use all rows once, or again and again, as `draw` makes new tasks from them."""
    where: Texts = ()
    """Columns that must not be empty; otherwise the row is left out."""
    draw: tuple[dict[str, Any], ...] = ()
    """The steps that draw columns for each row, in this order: docs/your-data.md lists their forms."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.sentences and not self.checkable:
            raise ValueError("only answers that can be checked are told in sentences")
        if self.table and (self.rows or self.table not in TABLES):
            raise ValueError(f"table {self.table!r} with `rows`, or none of {', '.join(sorted(TABLES))}")
        return self


class Pack(Config):
    """One file."""

    countries: dict[str, Correction] = Field(default={})
    """Countries by their ISO code, the best known first."""
    lists: dict[str, Any] = Field(default={})
    """Words, texts and rows, by a name that all packs share."""
    kinds: dict[str, Kind] = Field(default={})


class Packs(NamedTuple):
    """The contents of all files."""

    kinds: dict[str, Kind]
    lists: Lists
    files: dict[str, Path]
    """The file of each kind and list."""


def read_packs(folder: Path = PACKS) -> Packs:
    """Read every `.yaml` of the folder. Raises UserError, naming file, kind and reason, for the first mistake."""
    packs = Packs({}, {}, {})
    for path in sorted(folder.glob("*.yaml")):
        content = read_yaml(path)
        try:
            pack = Pack.model_validate(as_rows(content))
        except ValidationError as error:
            places = [(".".join(map(str, each["loc"])), each["msg"], each["type"]) for each in error.errors()]
            wrong = [f"{at}: {'unknown key' if of == 'extra_forbidden' else text}" for at, text, of in places]
            raise UserError(f"{path}: {'; '.join(wrong)}") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
        for what, known, found in (("kinds", packs.kinds, pack.kinds), ("lists", packs.lists, pack.lists)):
            for name in found:
                if name in known:
                    raise UserError(f"{path}: {what}.{name}: {packs.files[f'{what}.{name}']} has one of this name")
                packs.files[f"{what}.{name}"] = path
            known.update(found)
        packs.lists.setdefault("countries", {}).update(pack.countries)
    return packs
