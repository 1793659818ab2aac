"""Instruction rows: tasks made from packs, conversations, and your own files."""

import logging
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import Field

from llm.errors import UserError
from tasks.data.formats import Problem, each_file, without_problems
from tasks.data.formats.conversations import conversations
from tasks.data.inbox import FEEDBACK, SAID, by_votes
from tasks.data.instructions.packs import read_packs
from tasks.data.instructions.rows import WORDED, made_rows, source_of
from tasks.data.splits import SPLITS, Split
from tasks.data.textfiles import raw_files
from tasks.datasets import Dataset, Table, write_parquet

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

WRITTEN = ["id", "source", "kind", "wording", "instruction", "input", "output", "answers", "history", "system"]
WORDINGS = [f"{split}_{column}" for split in SPLITS[1:] for column in WORDED]
COLUMNS = [*WRITTEN, "group", *WORDINGS]
OWN = "own"
LENGTHS = {"instruction": (1, 2_000), "input": (0, 10_000), "output": (1, 10_000), "system": (0, 2_000)}

WORDNET = re.compile(r"(data|index)\.(adj|adv|noun|verb)")  # next to the file that identifies the source
logger = logging.getLogger(__name__)


class Params(Split):
    """Parameters for making, cleaning and splitting instruction rows."""

    rows_a_kind: int = Field(ge=0)
    """The number of rows of each kind of task in data/instructions, if its sources have as many."""
    rows_of: dict[str, int] = Field(default_factory=dict)
    """Kinds with another number of rows; 0 leaves a kind out."""
    columns: dict[str, str] = Field(default_factory=dict)
    """The names of a table's columns `instruction`, `input`, `output` and `system`, if they are not usual ones."""


def read_instructions(folder: Path, params: Params, problems: list[Problem] | None = None) -> pd.DataFrame:
    """Read every file below `folder` into a table with the columns COLUMNS.

    - Sources of facts: tasks of every kind in data/instructions that they serve, as many as `params` says.
    - All else are people's own rows, in the forms of tasks/data/formats/conversations.py: instruction, output and, if
      any, input, answers, history and system. Feedback comes last, as `by_votes` of tasks/data/inbox.py gives it.

    `answers` are all the right ones, the output among them, or none where any answer may do; one that ends in … is how
    a right answer begins. Instruction and input are worded as train's; the columns WORDINGS hold those that validation
    and test get in `write_instructions`. Rows of one `group` (the same question, country, meaning) must not straddle
    splits. What can't be read is put into `problems`; without that list it raises UserError with file, row and reason.
    """
    packs = read_packs()
    if unknown := set(params.rows_of) - packs.kinds.keys():
        raise UserError(f"rows_of: there is no kind {min(unknown)!r}; kinds are {', '.join(packs.kinds)}")
    paths = raw_files(folder)
    rows = list(made_rows(packs, paths, params.seed, params.rows_of, params.rows_a_kind))
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if source_of(path) or WORDNET.fullmatch(path.name):
            continue
        read = partial(_own_rows, name=name, columns=params.columns)
        rows += without_problems(each_file(read, [path]), problems)
    table = pd.DataFrame(rows, columns=[*COLUMNS, *SAID])
    is_feedback = table["source"] == FEEDBACK
    said, table = table[is_feedback], table.loc[~is_feedback, COLUMNS]
    logger.info("%d rows: %s", len(table), table["kind"].value_counts().to_dict())
    if said.empty:
        return table
    asked = instruction_text(said.assign(output=""))
    return pd.concat([table, by_votes(said, asked, said["output"])], ignore_index=True)


def read_inbox(folder: Path, params: Params, problems: list[Problem] | None = None) -> pd.DataFrame:
    """The rows in the inbox, without generated ones."""
    return read_instructions(folder, params.model_copy(update={"rows_a_kind": 0, "rows_of": {}}), problems)


def _question(*texts: str) -> str:
    return "question: " + " ".join(re.findall(r"\w+", " ".join(texts).lower()))


def _row(name: str, number: int, instruction: str, output: str, **more: Any) -> dict[str, Any]:
    row = {"id": f"{name}#{number}", "source": name, "kind": OWN, "instruction": instruction, "output": output}
    row |= {"input": "", "answers": [], "history": [], "system": "", "wording": instruction} | more
    row |= {
        column: row[column.partition("_")[2]] for column in WORDINGS
    }  # people's own words are the same in every split
    # By what it begins with: of a conversation that is there turn by turn, later rows have the answers of earlier ones.
    return row | {"group": _question(*(row["history"][:1] or (instruction, row["input"])))}


def _own_rows(path: Path, name: str, columns: Mapping[str, str]) -> Iterator[dict[str, Any] | Problem]:
    for found in conversations(path, columns):
        if isinstance(found, Problem):
            yield found
            continue
        number, texts, given = found
        row = _row(name, number, **texts)
        if name == FEEDBACK:
            row |= {column: given.get(column) for column in SAID}
            if row["verdict"] not in (None, "good", "bad"):
                raise UserError(f"{path}, row {number}: verdict {row['verdict']!r} is neither good nor bad")
        yield row


def write_instructions(splits: Mapping[str, Table], folder: Path, params: Split) -> None:
    """Each split as a table in its own wording, without the columns WORDINGS."""
    worded = {}
    for name, table in splits.items():
        given = {column: table[f"{name}_{column}"] for column in WORDED} if name in SPLITS[1:] else {}
        worded[name] = table.assign(**given).drop(columns=WORDINGS)
    write_parquet(worded, folder, params)


def instruction_text(table: Table) -> pd.Series:
    """The text by which rows are compared: everything said in them."""
    said = [*zip(table["system"], table["history"], table["instruction"], table["input"], table["output"], strict=True)]
    texts = ["\n".join(filter(None, [system, *history, *rest])) for system, history, *rest in said]
    return pd.Series(texts, index=table.index, dtype=object)


def instruction_forms(table: Table) -> pd.Series:
    """All that is said in a row, and what is asked in it, in the wording of each split: another answer to the same
    question is the same row where people gave it."""
    asked = [
        table.assign(instruction=table[f"{prefix}instruction"], input=table[f"{prefix}input"], output="")
        for prefix in ("", *(f"{split}_" for split in SPLITS[1:]))
    ]
    return pd.concat(list(map(instruction_text, [table, *asked])))


def instruction_expectations() -> list["Expectation"]:
    """The expectations on instruction rows before an assistant learns from them."""
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    made = Column("kind").is_not_in([OWN])
    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=COLUMNS),
        *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in COLUMNS),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
        gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=[OWN, *read_packs().kinds]),
        *(
            gxe.ExpectColumnValueLengthsToBeBetween(column=column, min_value=low, max_value=high)
            for column, (low, high) in LENGTHS.items()
        ),
        # A split's own wording is filled in where it is drawn: a field that was not would stand in braces. People's own
        # rows may hold braces, as code does.
        *(
            gxe.ExpectColumnValuesToNotMatchRegex(column=column, regex=r"\{\w*\}", row_condition=made)
            for column in WORDINGS
            if column.endswith("_instruction")
        ),
    ]


DATASET = Dataset(
    params=Params,
    read=read_instructions,
    text=instruction_text,
    expectations=instruction_expectations,
    write=write_instructions,
    groups="group",
    read_inbox=read_inbox,
    forms=instruction_forms,
    feedback=LENGTHS,
    answer="output",
    lengths=LENGTHS,
    check=read_inbox,
)
