"""Instructions: rows of a question and its answer, and conversations as ShareGPT and OpenAI's API keep them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.data.formats.columns import columns_of
from tasks.data.formats.tables import READERS, read_rows
from tasks.data.problems import Problem, RowError, check_form
from tasks.data.sniff import sniff
from tasks.data.textfiles import tidy

COLUMNS = {
    "instruction": ("instruction", "prompt", "question", "query"),
    "input": ("input", "context"),
    "output": ("output", "response", "answer", "completion"),
    "system": ("system", "system_prompt"),
}
OPTIONAL = ("input", "system")
USER = "user"
ASSISTANT = "assistant"
SYSTEM = "system"
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), USER),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model"), ASSISTANT),
    **dict.fromkeys(("system", "developer"), SYSTEM),
}
CONVERSATIONS = {"messages": ("role", "content"), "conversations": ("from", "value")}
"""Columns with a list of turns, of OpenAI's API and of ShareGPT; and where a turn says who speaks and what."""
Cells = Mapping[str, Any]
Texts = dict[str, Any]
"""instruction, input, output and system as text; answers and history as lists of texts."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answer, with what was said before."""

    number: int
    """Its row."""
    texts: Texts
    cells: Cells
    """The row as it is written."""


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: str
    text: str


def conversations(path: Path, columns: Mapping[str, str]) -> Iterator[Exchange | Problem]:
    """The rows of a file. Raises UserError for a file that can't be read on."""
    form = sniff(path)
    if form == "empty":
        return
    check_form(path, form, READERS, reason=f"no table of instructions; they are read from {', '.join(READERS)}")

    def read(number: int | None, cells: Any) -> Exchange:
        if not isinstance(cells, Mapping):
            raise RowError(f"{str(cells)[:50]!r} is no row with columns")
        turns = next((column for column in CONVERSATIONS if column in cells), None)
        texts = _last_exchange(cells, turns) if turns else _question_and_answer(cells, columns)
        return Exchange(number=number or 1, texts=texts, cells=cells)

    yield from read_rows(path, READERS[form](path), read)


def _question_and_answer(cells: Cells, columns: Mapping[str, str]) -> Texts:
    """A row with Alpaca's columns, or similar ones."""
    names = columns_of(cells, COLUMNS, columns)
    texts: Texts = {}
    for key in COLUMNS:
        value = cells.get(names[key]) if key in names else None
        if value is None and key in OPTIONAL:
            value = ""
        if not isinstance(value, str):
            raise RowError(f'no string under "{key}"')
        texts[key] = tidy(value)
    history = _texts(cells, "history")
    if len(history) % 2:
        raise RowError(f"{len(history)} turns in history; user and assistant take turns")
    answers = _texts(cells, "answers")
    for answer in answers:
        if answer.endswith("…") and not answer.strip(" .!…"):
            raise RowError(f"the answer {answer!r} begins with nothing; write what is before …")
    if answers:
        answers = list(dict.fromkeys([texts["output"], *answers]))
    return texts | {"answers": answers, "history": history}


def _texts(cells: Cells, key: str) -> list[str]:
    texts = cells.get(key)
    if texts is None:
        return []
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise RowError(f'no list of texts under "{key}"')
    return [tidy(text) for text in texts]


def _turn(turn: Any, role_key: str, text_key: str) -> Turn:
    if not isinstance(turn, Mapping) or not isinstance(turn.get(role_key), str):
        raise RowError(f"a turn without {role_key!r}: {str(turn)[:50]!r}")
    role = ROLES.get(turn[role_key].lower())
    if role is None:
        raise RowError(f"{role_key} {turn[role_key]!r} is not one of {', '.join(ROLES)}")
    text = turn.get(text_key)
    if not isinstance(text, str) or not text.strip():
        raise RowError(f"a turn of {turn[role_key]} without text under {text_key!r}")
    return Turn(role, text)


def _last_exchange(cells: Cells, column: str) -> Texts:
    """The last answer, its question, and the turns before. Successive turns of one speaker count as one."""
    system = cells.get("system")
    if system is not None and not isinstance(system, str):
        raise RowError('no string under "system"')
    if not isinstance(cells[column], list) or not cells[column]:
        raise RowError(f"{str(cells[column])[:50]!r} is no list of turns")
    role_key, text_key = CONVERSATIONS[column]
    turns = [_turn(turn, role_key, text_key) for turn in cells[column]]
    systems = [system] if system else []
    systems += [turn.text for turn in turns if turn.role == SYSTEM]
    turns = _merged([turn for turn in turns if turn.role != SYSTEM])
    if turns and turns[0].role == ASSISTANT:
        turns = turns[1:]  # a greeting is no answer
    if len(turns) % 2:
        turns = turns[:-1]
    if not turns:
        raise RowError("no answer of the assistant to a question")
    texts = [turn.text for turn in turns]
    return {
        "instruction": texts[-2],
        "input": "",
        "output": texts[-1],
        "system": "\n".join(map(tidy, systems)),
        "answers": [],
        "history": texts[:-2],
    }


def _merged(turns: list[Turn]) -> list[Turn]:
    """The turns with tidy texts, successive ones of one speaker as one."""
    merged: list[Turn] = []
    for turn in turns:
        text = tidy(turn.text)
        if merged and merged[-1].role == turn.role:
            merged[-1] = Turn(turn.role, f"{merged[-1].text}\n{text}")
        else:
            merged.append(Turn(turn.role, text))
    return merged
