"""Instructions: rows of a question and its answer, and conversations as ShareGPT and OpenAI's API keep them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.data.formats import Problem, RowError, check_form, columns_of
from tasks.data.formats.tables import READERS, each_row
from tasks.data.sniff import sniff
from tasks.data.textfiles import tidy

COLUMNS = {
    "instruction": ("instruction", "prompt", "question", "query"),
    "input": ("input", "context"),
    "output": ("output", "response", "answer", "completion"),
    "system": ("system", "system_prompt"),
}
LISTS = ("answers", "history")
USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), USER),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model"), ASSISTANT),
    **dict.fromkeys(("system", "developer"), SYSTEM),
}
TALKS = {"messages": ("role", "content"), "conversations": ("from", "value")}  # of OpenAI's API, and of ShareGPT
"""Columns with a list of turns, and where a turn says who speaks and what."""
Texts = dict[str, Any]
"""instruction, input, output and system as text; answers and history as lists of texts."""


def conversations(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Texts, Mapping[str, Any]] | Problem]:
    """The rows of a file: number, texts, and the row itself. Raises UserError for a file that can't be read on."""
    form = sniff(path)
    if form == "empty":
        return
    reason = f"no table of instructions; they are read from {', '.join(READERS)}"
    check_form(path, form, READERS, reason)

    def read(number: int | None, cells: Any) -> tuple[int, Texts, Mapping[str, Any]]:
        if not isinstance(cells, Mapping):
            raise RowError(f"{str(cells)[:50]!r} is no row with columns")
        talk = next((column for column in TALKS if column in cells), None)
        return number or 1, _exchange(cells, talk) if talk else _question_and_answer(cells, columns), cells

    yield from each_row(path, READERS[form](path), read)


def _question_and_answer(cells: Mapping[str, Any], columns: Mapping[str, str]) -> Texts:
    """A row with Alpaca's columns, or similar ones."""
    found = columns_of(cells, COLUMNS, columns)
    texts: Texts = {}
    for key, missing in (("instruction", None), ("input", ""), ("output", None), ("system", "")):
        value = cells.get(found[key]) if key in found else None
        value = missing if value is None else value
        if not isinstance(value, str):
            raise RowError(f'no string under "{key}"')
        texts[key] = tidy(value)
    lists = {key: _texts(cells, key) for key in LISTS}
    if len(lists["history"]) % 2:
        raise RowError(f"{len(lists['history'])} turns in history; user and assistant take turns")
    if empty := [text for text in lists["answers"] if text.endswith("…") and not text.strip(" .!…")]:
        raise RowError(f"the answer {empty[0]!r} begins with nothing; write what is before …")
    if lists["answers"]:
        lists["answers"] = list(dict.fromkeys([texts["output"], *lists["answers"]]))
    return texts | lists


def _texts(cells: Mapping[str, Any], key: str) -> list[str]:
    texts = cells.get(key)
    texts = [] if texts is None else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise RowError(f'no list of texts under "{key}"')
    return [tidy(text) for text in texts]


def _turn(turn: Any, role: str, text: str) -> tuple[str, str]:
    if not isinstance(turn, Mapping) or not isinstance(turn.get(role), str):
        raise RowError(f"a turn without {role!r}: {str(turn)[:50]!r}")
    who, said = ROLES.get(turn[role].lower()), turn.get(text)
    if who is None:
        raise RowError(f"{role} {turn[role]!r} is not one of {', '.join(ROLES)}")
    if isinstance(said, list) and all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in said):
        said = "\n".join(part["text"] for part in said)
    if not isinstance(said, str) or not said.strip():
        raise RowError(f"a turn of {turn[role]} without text under {text!r}")
    return who, said


def _exchange(cells: Mapping[str, Any], talk: str) -> Texts:
    """The last answer, its question, and the turns before. Successive turns of one speaker count as one."""
    system = "" if cells.get("system") is None else cells["system"]
    if not isinstance(system, str):
        raise RowError('no string under "system"')
    if not isinstance(cells[talk], list) or not cells[talk]:
        raise RowError(f"{str(cells[talk])[:50]!r} is no list of turns")
    turns = [(SYSTEM, system)] * bool(system) + [_turn(turn, *TALKS[talk]) for turn in cells[talk]]
    system = "\n".join(tidy(text) for who, text in turns if who == SYSTEM)
    said: list[tuple[str, str]] = []
    for who, text in ((who, tidy(text)) for who, text in turns if who != SYSTEM):
        if said and said[-1][0] == who:
            said[-1] = (who, f"{said[-1][1]}\n{text}")
        else:
            said.append((who, text))
    said = said[said[:1] != [] and said[0][0] == ASSISTANT :]  # a greeting is no answer
    said = said[: len(said) // 2 * 2]
    if not said:
        raise RowError("no answer of the assistant to a question")
    texts = [text for _, text in said]
    asked = {"instruction": texts[-2], "input": "", "output": texts[-1]}
    return asked | {"system": system, "answers": [], "history": texts[:-2]}
