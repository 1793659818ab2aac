"""Instruction rows: questions with their answers, and conversations as ShareGPT and OpenAI's API keep them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import Field

from llm.errors import UserError
from tasks.data.files import RowError, add_mistakes, columns_of, raw_files, read_rows, tidy
from tasks.data.findings import Findings
from tasks.data.splits import Split

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

COLUMNS = ["id", "source", "kind", "wording", "instruction", "input", "output", "answers", "history", "system", "group"]
TEXTS = {
    "system": (0, 2_000),
    "history": (0, 1_000),  # turns
    "instruction": (1, 2_000),
    "input": (0, 10_000),
    "output": (1, 10_000),
}
USUAL = {
    "instruction": ("instruction", "prompt", "question", "query"),
    "input": ("input", "context"),
    "output": ("output", "response", "answer", "completion"),
    "system": ("system", "system_prompt"),
}
OPTIONAL = ("input", "system")
OWN = "own"  # the kind of a row that names none
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
CONVERSATIONS = {"messages": ("role", "content"), "conversations": ("from", "value")}
"""Columns with a list of turns, of OpenAI's API and of ShareGPT; and where a turn says who speaks and what."""
Cells = Mapping[str, Any]
Texts = dict[str, Any]
"""instruction, input, output and system as text; answers and history as lists of texts."""


class Params(Split):
    """Parameters for cleaning and splitting instruction rows."""

    columns: dict[str, str] = Field(default_factory=dict)
    """The names of a table's columns `instruction`, `input`, `output` and `system`, if they are not usual ones."""


def read(folder: Path, params: Params, findings: Findings) -> pd.DataFrame:
    """The rows of all tables below a folder, in the order of their paths.

    `answers` are all the right ones, the output among them, or none where any answer may do; one that ends in … is how
    a right answer begins. Rows of one `group`, such as the same question, stay in one split. A row that brings its own
    `kind` keeps its `id`. An answer with the verdict `bad` is dropped.
    """
    rows: list[Texts] = []
    for path in raw_files(folder):
        name = path.relative_to(folder).as_posix()
        try:
            rows += _rows_of_file(path, name, columns=params.columns, findings=findings)
        except UserError as error:
            findings.add_error(error)
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows_of_file(path: Path, name: str, *, columns: Mapping[str, str], findings: Findings) -> Iterator[Texts]:
    mistakes: dict[str, list[int | None]] = {}
    for number, cells in read_rows(path, findings):
        try:
            row = _row(cells, columns)
        except RowError as error:
            mistakes.setdefault(str(error), []).append(number)
            continue
        row = {"id": f"{name}#{number or 1}", "source": name} | row
        if cells.get("verdict") == "bad":
            text = f"{row['instruction']}\n{row['output']}"
            findings.drop("feedback", row["id"], "a bad answer is not learned from", source=name, text=text)
        else:
            yield row
    add_mistakes(findings, path, mistakes)


def _row(cells: Any, columns: Mapping[str, str]) -> Texts:
    """A row by our columns, but for its source, and for its id if it brings none. Raises RowError."""
    if not isinstance(cells, Mapping):
        raise RowError(f"{str(cells)[:50]!r} is no row with columns")
    turns = next(filter(cells.__contains__, CONVERSATIONS), None)
    row = _last_exchange(cells, turns) if turns else _question_and_answer(cells, columns)
    # By what it begins with: of a conversation that is there turn by turn, later rows have the answers of earlier ones.
    beginning = " ".join(row["history"][:1] or [row["instruction"], row["input"]])
    row |= {"kind": OWN, "wording": row["instruction"]}
    row["group"] = "question: " + " ".join(re.findall(r"\w+", beginning.lower()))
    for column in ("kind", "wording", "group"):
        if isinstance(cells.get(column), str) and cells[column]:
            row[column] = cells[column]
    if row["kind"] != OWN and isinstance(cells.get("id"), str):
        row["id"] = cells["id"]
    return row


def _question_and_answer(cells: Cells, columns: Mapping[str, str]) -> Texts:
    """A row with Alpaca's columns, or similar ones."""
    names = columns_of(cells, USUAL, columns)
    row: Texts = {}
    for key in USUAL:
        text = cells.get(names.get(key, ""))
        if text is None and key in OPTIONAL:
            text = ""
        if not isinstance(text, str):
            raise RowError(f'no string under "{key}"; say which column it is by --column {key}=NAME')
        row[key] = tidy(text)
    row["history"] = _texts(cells, "history")
    if len(row["history"]) % 2:
        raise RowError(f"{len(row['history'])} turns in history; user and assistant take turns")
    answers = _texts(cells, "answers")
    for answer in answers:
        if answer.endswith("…") and not answer.strip(" .!…"):
            raise RowError(f"the answer {answer!r} begins with nothing; write what is before …")
    row["answers"] = list(dict.fromkeys([row["output"], *answers])) if answers else []
    return row


def _texts(cells: Cells, key: str) -> list[str]:
    texts = cells.get(key)
    if texts is None:
        return []
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise RowError(f'no list of texts under "{key}"')
    return list(map(tidy, texts))


def _last_exchange(cells: Cells, column: str) -> Texts:
    """The last answer, its question, and the turns before. Successive turns of one speaker count as one."""
    system = cells.get("system") or ""
    if not isinstance(system, str):
        raise RowError('no string under "system"')
    if not isinstance(cells[column], list):
        raise RowError(f"{str(cells[column])[:50]!r} is no list of turns")
    systems = [tidy(system)]
    roles: list[str] = []
    texts: list[str] = []
    for turn in cells[column]:
        role, text = _turn(turn, column)
        if role == "system":
            systems.append(text)
        elif roles[-1:] == [role]:
            texts[-1] = f"{texts[-1]}\n{text}"
        elif roles or role == "user":  # a greeting is no answer
            roles.append(role)
            texts.append(text)
    texts = texts[: len(texts) // 2 * 2]
    if not texts:
        raise RowError("no answer of the assistant to a question")
    row: Texts = {"instruction": texts[-2], "input": "", "output": texts[-1], "answers": [], "history": texts[:-2]}
    return row | {"system": "\n".join(filter(None, systems))}


def _turn(turn: Any, column: str) -> tuple[str, str]:
    """Who speaks in a turn, and what."""
    role_key, text_key = CONVERSATIONS[column]
    if not isinstance(turn, Mapping) or not isinstance(turn.get(role_key), str):
        raise RowError(f"a turn without {role_key!r}: {str(turn)[:50]!r}")
    role = ROLES.get(turn[role_key].lower())
    if role is None:
        raise RowError(f"{role_key} {turn[role_key]!r} is not one of {', '.join(ROLES)}")
    text = turn.get(text_key)
    if not isinstance(text, str) or not text.strip():
        raise RowError(f"a turn of {turn[role_key]} without text under {text_key!r}")
    return role, tidy(text)


def expectations(params: Params) -> list["Expectation"]:
    """The expectations on instruction rows before an assistant learns from them."""
    import great_expectations.expectations as gxe

    return [
        *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in COLUMNS),
        *(
            gxe.ExpectColumnValueLengthsToBeBetween(column=column, min_value=least, max_value=most)
            for column, (least, most) in TEXTS.items()
        ),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
    ]
