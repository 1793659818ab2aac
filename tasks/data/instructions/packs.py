"""Packs: the YAML files with kinds of tasks and lists of words, read and checked."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from llm.config import Config
from llm.errors import UserError
from tasks.data.instructions import compute, countries, words
from tasks.data.instructions.choose import Values
from tasks.data.instructions.countries import Correction
from tasks.stages.yaml_text import read_yaml

PACKS = Path("data/instructions")
TABLES: dict[str, Callable[..., Iterator[Values]]] = {
    "adjectives": words.adjectives,
    "as_much_spam_as_ham": compute.as_much_spam_as_ham,
    "common_words": words.common_words,
    "countries": countries.countries,
    "numbers": compute.numbers,
    "past_tenses": words.past_tenses,
    "times_tables": compute.times_tables,
}
"""Functions that yield rows: of a random generator, the sources and what a kind says under `with`."""
Texts = tuple[str, ...]


def as_rows(content: Any) -> Any:
    """The content with rows by column for each table, whose lines have bars between their cells."""
    match content:
        case {"columns": str(columns), "rows": [*lines]} if len(content) == 2:
            return [_cells(str(line), columns) for line in lines]
        case dict():
            return {key: as_rows(value) for key, value in content.items()}
        case list():
            return [as_rows(value) for value in content]
    return content


def _cells(line: str, columns: str) -> dict[str, str]:
    names = columns.split(" | ")
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) != len(names):
        raise ValueError(f"{line!r} has not one cell for each column of {columns!r}")
    return dict(zip(names, cells, strict=True))


class Wordings(Config):
    """Wordings of a task: an instruction and, on a second line, its input. Each split has its own."""

    train: Annotated[Texts, Field(min_length=3)]
    validation: Annotated[Texts, Field(min_length=2)]
    test: Annotated[Texts, Field(min_length=3)]

    @model_validator(mode="after")
    def _each_is_there_once(self) -> Self:
        texts = [*self.train, *self.validation, *self.test]
        if repeated := [text for text in texts if texts.count(text) > 1]:
            raise ValueError(f"{repeated[0]!r} is there twice")
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
    list_column: str = Field(default="", alias="each")
    """A column that holds a list: each of its texts makes a row."""
    table: str = ""
    """Rows that Python makes, instead of `rows`."""
    needs: Texts = ()
    """The sources of that table; if one is missing, the kind is left out."""
    arguments: dict[str, Any] = Field(default_factory=dict, alias="with")
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

    countries: dict[str, Correction] = Field(default_factory=dict)
    """Countries by their ISO code, the best known first."""
    lists: dict[str, Any] = Field(default_factory=dict)
    """Words, texts and rows, by a name that all packs share."""
    kinds: dict[str, Kind] = Field(default_factory=dict)


class Packs(NamedTuple):
    """The contents of all files."""

    kinds: dict[str, Kind]
    lists: dict[str, Any]
    files: dict[str, Path]
    """The file of each kind and list."""


def read_packs(folder: Path = PACKS) -> Packs:
    """Read every `.yaml` of the folder. Raises UserError, naming file, kind and reason, for the first mistake."""
    packs = Packs(kinds={}, lists={}, files={})
    for path in sorted(folder.glob("*.yaml")):
        pack = _read_pack(path)
        _claim(packs, path, [f"kinds.{name}" for name in pack.kinds])
        _claim(packs, path, [f"lists.{name}" for name in pack.lists])
        packs.kinds.update(pack.kinds)
        packs.lists.update(pack.lists)
        packs.lists.setdefault("countries", {}).update(pack.countries)
    return packs


def _read_pack(path: Path) -> Pack:
    content = read_yaml(path)
    try:
        return Pack.model_validate(as_rows(content))
    except ValidationError as error:
        mistakes: list[str] = []
        for detail in error.errors():
            reason = "unknown key" if detail["type"] == "extra_forbidden" else detail["msg"]
            mistakes.append(f"{'.'.join(map(str, detail['loc']))}: {reason}")
        raise UserError(f"{path}: {'; '.join(mistakes)}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _claim(packs: Packs, path: Path, names: list[str]) -> None:
    """Note in which file these kinds or lists are. Raises UserError for a name that another file has."""
    for name in names:
        if name in packs.files:
            raise UserError(f"{path}: {name}: {packs.files[name]} has one of this name")
        packs.files[name] = path
