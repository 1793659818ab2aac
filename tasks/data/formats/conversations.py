"""Instructions: rows of a question and its answer, and conversations as ShareGPT and OpenAI's API keep them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.data.formats import Problem, RowError, check_form, columns_of
from tasks.data.formats.sniff import sniff
from tasks.data.formats.tables import READERS, each_row
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
Texts = dict[str, Any]
"""instruction, input, output and system as text; answers and history as lists of texts."""


def conversations(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Texts, Mapping[str, Any]] | Problem]:
    """The rows of a file: number, texts, and the row itself. Raises UserError for a file that can't be read on."""
    form = sniff(path)
    if form == "empty":
        return
    reason = f"no table of instructions; they are read from {', '.join(READERS)} and ChatterBot's .yml"
    check_form(path, form, READERS, reason)

    def read(number: int | None, cells: Any) -> tuple[int, Texts, Mapping[str, Any]]:
        if not isinstance(cells, Mapping):
            raise RowError(f"{str(cells)[:50]!r} is no row with columns")
        return number or 1, _shape(cells)(cells, columns), cells

    yield from each_row(path, READERS[form](path), read)


def _shape(cells: Mapping[str, Any]) -> Callable[[Mapping[str, Any], Mapping[str, str]], Texts]:
    return next((read for column, read in SHAPES.items() if column in cells), _question_and_answer)


def _question_and_answer(cells: Mapping[str, Any], columns: Mapping[str, str]) -> Texts:
    """Alpaca's columns, or others of their kind."""
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


def _share_gpt(cells: Mapping[str, Any], columns: Mapping[str, str]) -> Texts:
    """`{"conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}]}`, and `system` if any."""
    turns = [_turn(turn, "from", "value") for turn in _list(cells["conversations"])]
    system = cells.get("system")
    system = "" if system is None else system
    if not isinstance(system, str):
        raise RowError('no string under "system"')
    return _exchange([(SYSTEM, system)] * bool(system) + turns)


def _openai(cells: Mapping[str, Any], columns: Mapping[str, str]) -> Texts:
    """`{"messages": [{"role": "user", "content"}, {"role": "assistant", "content"}]}`."""
    return _exchange([_turn(message, "role", "content") for message in _list(cells["messages"])])


def _list(turns: Any) -> Sequence[Any]:
    if not isinstance(turns, list) or not turns:
        raise RowError(f"{str(turns)[:50]!r} is no list of turns")
    return turns


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


def _exchange(turns: Sequence[tuple[str, str]]) -> Texts:
    """The last answer, what it answers, and what was said before. Who says several things in a row said them as one."""
    system = "\n".join(tidy(text) for who, text in turns if who == SYSTEM)
    said: list[tuple[str, str]] = []
    for who, text in ((who, tidy(text)) for who, text in turns if who != SYSTEM):
        if said and said[-1][0] == who:
            said[-1] = (who, f"{said[-1][1]}\n{text}")
        else:
            said.append((who, text))
    said = said[said[:1] != [] and said[0][0] == ASSISTANT :]  # a greeting answers nothing
    said = said[: len(said) // 2 * 2]
    if not said:
        raise RowError("no answer of the assistant to a question")
    texts = [text for _, text in said]
    return {
        "instruction": texts[-2],
        "input": "",
        "output": texts[-1],
        "system": system,
        "answers": [],
        "history": texts[:-2],
    }


SHAPES: dict[str, Callable[[Mapping[str, Any], Mapping[str, str]], Texts]] = {
    "messages": _openai,
    "conversations": _share_gpt,
}
