"""Packs: the YAML files with kinds of tasks and lists of words, read and checked."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from llm.config import Config
from llm.errors import UserError
from tasks.data.instructions import compute, countries, words
from tasks.data.instructions.choose import Lists, Table
from tasks.data.textfiles import read_text

PACKS = Path("data/instructions")
TABLES: dict[str, Table] = {
    name: found for module in (compute, countries, words) for name, found in vars(module).items() if isinstance(found, Table)
}
"""Rows that Python makes, by name."""

Texts = list[str]


class Wordings(Config):
    """The ways to put a task: an instruction and, on a second line, its input. No split sees another's."""

    train: Annotated[Texts, Field(min_length=3)]
    validation: Annotated[Texts, Field(min_length=2)]
    test: Annotated[Texts, Field(min_length=3)]

    @model_validator(mode="after")
    def _each_is_there_once(self) -> Self:
        every = [*self.train, *self.validation, *self.test]
        if twice := [text for text in every if every.count(text) > 1]:
            raise ValueError(f"{twice[0]!r} is there twice")
        return self

    def of(self, split: str) -> Texts:
        """Those of one split."""
        return getattr(self, split)


class Kind(Config):
    """A kind of task."""

    about: str
    """What it asks for, in a sentence."""
    wordings: Wordings
    answers: Annotated[Texts, Field(min_length=1)]
    """The answer to learn, then others that are right; one that ends in … is how a right answer begins."""
    checkable: bool = True
    """Whether answers can be checked. If not, any may be right, and the first is learned."""
    sentences: Texts = []
    """Sentences that tell the {answer}: half of the rows ask for the answer alone, half learn a sentence."""
    asked: str
    """What tells a task from the others of its kind."""
    group: str = ""
    """Tasks of one group, in whatever kind, stay in one split, as they would give each other away."""
    history: Texts = []
    """Earlier turns, of user and assistant in turn; a field with a list of texts stands for all of them."""
    system: str = ""
    """A system prompt of its own."""

    rows: str | dict[str, str] | list[Any] = []
    """Rows to make tasks of: a list, the name of one, or {column: name of a list of texts}."""
    each: str = ""
    """A column with a list: a row becomes one for each text in it."""
    table: str = ""
    """Rows that Python makes, instead of `rows`: a name of TABLES."""
    given: dict[str, Any] = Field(default={}, alias="with")
    """What that table needs to know."""
    order: Literal["shuffled", "again", "written"] = "shuffled"
    """Rows in random order; again and again, while `draw` makes new tasks of them; or as they are written."""
    where: Texts = []
    """Columns that must not be empty, or the row is left out."""
    draw: list[dict[str, Any]] = []
    """What is drawn for each row, in this order; tasks/data/instructions/draw.py says how."""

    @field_validator("rows", mode="before")
    @classmethod
    def _rows_have_columns(cls, rows: Any) -> Any:
        return as_rows(rows)

    @field_validator("draw")
    @classmethod
    def _choices_have_columns(cls, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: as_rows(source) for name, source in step.items()} for step in steps]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.sentences and not self.checkable:
            raise ValueError("only answers that can be checked are told in sentences")
        if self.table and self.rows:
            raise ValueError("rows come from `rows` or from `table`, not from both")
        if self.table and self.table not in TABLES:
            raise ValueError(f"there is no table {self.table!r}; tables are {', '.join(sorted(TABLES))}")
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """Sources without which the kind is left out."""
        return TABLES[self.table].needs if self.table else ()


class Pack(Config):
    """One file."""

    lists: dict[str, Any] = {}
    """Words, texts and rows, by a name that all packs share."""
    kinds: dict[str, Kind] = {}

    @field_validator("lists")
    @classmethod
    def _rows_have_columns(cls, lists: dict[str, Any]) -> dict[str, Any]:
        return {name: as_rows(content) for name, content in lists.items()}


class Packs(NamedTuple):
    """What all files say."""

    kinds: dict[str, Kind]
    lists: Lists
    files: dict[str, Path]
    """The file of each kind."""


def as_rows(content: Any) -> Any:
    """Rows by column, of a table whose lines have bars between their cells; all else as it is."""
    match content:
        case {"columns": str(columns), "rows": [*lines]} if len(content) == 2:
            names = columns.split(" | ")
            rows = [line.split("|") for line in lines]
            if wrong := [line for line, row in zip(lines, rows, strict=True) if len(row) != len(names)]:
                raise ValueError(f"{wrong[0]!r} has not the {len(names)} columns {columns}")
            return [dict(zip(names, map(str.strip, row), strict=True)) for row in rows]
    return content


class _UniqueKeys(yaml.CSafeLoader):
    """YAML in which no key is there twice; YAML itself would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> Pack:
    try:
        return Pack.model_validate(yaml.load(read_text(path), Loader=_UniqueKeys) or {})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}, {place}: {first['msg'].removeprefix('Value error, ')}") from None
    except yaml.MarkedYAMLError as error:
        row = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}, row {row}: not YAML: {error.problem}") from None


def read_packs(folder: Path = PACKS) -> Packs:
    """Every `.yaml` of the folder. Raises UserError that names file, kind and reason for what is wrong in it."""
    kinds: dict[str, Kind] = {}
    lists: dict[str, Any] = {}
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.yaml")):
        pack = _read(path)
        if twice := lists.keys() & pack.lists.keys():
            raise UserError(f"{path}, lists.{min(twice)}: another pack has a list of this name")
        if twice := kinds.keys() & pack.kinds.keys():
            raise UserError(f"{path}, kinds.{min(twice)}: {files[min(twice)]} has a kind of this name")
        lists |= pack.lists
        kinds |= pack.kinds
        files |= dict.fromkeys(pack.kinds, path)
    return Packs(kinds, lists, files)
