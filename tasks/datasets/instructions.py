"""Instruction rows: tasks made from packs, conversations, and your own files."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import Field

from llm.errors import UserError
from tasks.data.dataset import Dataset, Table
from tasks.data.feedback import FEEDBACK, VOTE_COLUMNS, by_votes
from tasks.data.formats.conversations import conversations
from tasks.data.instructions.packs import read_packs
from tasks.data.instructions.rows import WORDED, made_rows, source_of
from tasks.data.problems import Problem, rows_of_file, without_problems
from tasks.data.quality import cell_expectations
from tasks.data.splits import SPLITS, Split
from tasks.data.textfiles import raw_files

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

    from tasks.data.rows import Rows

WRITTEN = ["id", "source", "kind", "wording", "instruction", "input", "output", "answers", "history", "system"]
HELD_OUT = SPLITS[1:]
WORDINGS = [f"{split}_{column}" for split in HELD_OUT for column in WORDED]
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
      any, input, answers, history and system. Feedback comes last, as `by_votes` of tasks/data/feedback.py gives it.

    `answers` are all the right ones, the output among them, or none where any answer may do; one that ends in … is how
    a right answer begins. Instruction and input are worded as train's; the columns WORDINGS hold those that validation
    and test get in `write_instructions`. Rows of one `group` (the same question, country, meaning) must not straddle
    splits. What can't be read is put into `problems`; without that list it raises UserError with file, row and reason.
    """
    packs = read_packs()
    if unknown := set(params.rows_of) - packs.kinds.keys():
        raise UserError(f"rows_of: there is no kind {min(unknown)!r}; kinds are {', '.join(packs.kinds)}")
    paths = raw_files(folder)
    rows = list(made_rows(packs, paths, seed=params.seed, rows_of=params.rows_of, rows_a_kind=params.rows_a_kind))
    for path in paths:
        if source_of(path) or WORDNET.fullmatch(path.name):
            continue
        read = partial(_own_rows, name=path.relative_to(folder).as_posix(), columns=params.columns)
        rows += without_problems(rows_of_file(read, path), problems)
    table = pd.DataFrame(rows, columns=[*COLUMNS, *VOTE_COLUMNS])
    is_feedback = table["source"] == FEEDBACK
    feedback = table[is_feedback]
    table = table.loc[~is_feedback, COLUMNS]
    logger.info("%d rows: %s", len(table), table["kind"].value_counts().to_dict())
    if feedback.empty:
        return table
    questions = instruction_text(feedback.assign(output=""))
    return pd.concat([table, by_votes(feedback, questions, feedback["output"])], ignore_index=True)


def read_inbox(folder: Path, params: Params, problems: list[Problem] | None = None) -> pd.DataFrame:
    """The rows in the inbox, without generated ones."""
    return read_instructions(folder, params.model_copy(update={"rows_a_kind": 0, "rows_of": {}}), problems)


def _own_rows(path: Path, name: str, columns: Mapping[str, str]) -> Iterator[dict[str, Any] | Problem]:
    """People's own rows: their words are the same in every split."""
    for row in conversations(path, columns):
        if isinstance(row, Problem):
            yield row
            continue
        texts = row.texts
        # By what it begins with: of a conversation that is there turn by turn, later rows have the answers of earlier
        # ones.
        group = _question(texts["history"][:1] or [texts["instruction"], texts["input"]])
        identity = {"id": f"{name}#{row.number}", "source": name, "kind": OWN, "group": group}
        wordings = {f"{split}_{column}": texts[column] for split in HELD_OUT for column in ("instruction", "input")}
        wordings |= {f"{split}_wording": texts["instruction"] for split in HELD_OUT}
        votes = {column: row.cells.get(column) for column in VOTE_COLUMNS} if name == FEEDBACK else {}
        if votes.get("verdict") not in (None, "good", "bad"):
            raise UserError(f"{path}, row {row.number}: verdict {votes['verdict']!r} is neither good nor bad")
        yield {**identity, **texts, "wording": texts["instruction"], **wordings, **votes}


def _question(texts: Sequence[str]) -> str:
    return "question: " + " ".join(re.findall(r"\w+", " ".join(texts).lower()))


def in_wording(table: Table, split: str) -> Table:
    """Rows as they are worded in one split, without the columns WORDINGS."""
    if split in HELD_OUT:
        table = table.assign(**{column: table[f"{split}_{column}"] for column in WORDED})
    return table.drop(columns=WORDINGS)


def write_instructions(rows: "Rows", folder: Path, params: Split) -> None:
    """Write each split as a table in its own wording."""
    for split, table in rows.split_tables():
        in_wording(table, split).to_parquet(folder / f"{split}.parquet", index=False)


def instruction_text(table: Table) -> pd.Series:
    """The text by which rows are compared: everything said in them."""
    columns = ["system", "history", "instruction", "input", "output"]
    texts: list[str] = []
    for system, history, *question_and_answer in table[columns].to_numpy().tolist():
        parts: list[str] = [system, *history, *question_and_answer]
        texts.append("\n".join(filter(None, parts)))
    return pd.Series(texts, index=table.index, dtype=object)


def instruction_forms(table: Table) -> pd.Series:
    """All that is said in a row, and what is asked in it, in the wording of each split: another answer to the same
    question is the same row where people gave it."""
    questions = table.assign(output="")
    forms = [instruction_text(table), instruction_text(questions)]
    for split in HELD_OUT:
        worded = questions.assign(instruction=table[f"{split}_instruction"], input=table[f"{split}_input"])
        forms.append(instruction_text(worded))
    return pd.concat(forms)


def instruction_expectations() -> list["Expectation"]:
    """The expectations on instruction rows before an assistant learns from them."""
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    made = Column("kind").is_not_in([OWN])
    # A split's own wording is filled in where it is drawn: a field that was not would stand in braces. People's own
    # rows may hold braces, as code does.
    wordings = [f"{split}_instruction" for split in HELD_OUT]
    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=COLUMNS),
        *cell_expectations(COLUMNS),
        gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=[OWN, *read_packs().kinds]),
        *(
            gxe.ExpectColumnValueLengthsToBeBetween(column=column, min_value=low, max_value=high)
            for column, (low, high) in LENGTHS.items()
        ),
        *(
            gxe.ExpectColumnValuesToNotMatchRegex(column=column, regex=r"\{\w*\}", row_condition=made)
            for column in wordings
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
