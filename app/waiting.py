"""The list on which a person decides: each row of feedback that waits, as a line and as a whole."""

from collections.abc import Iterable, Sequence

from app.quarantine import ABOUT, Waiting
from llm.errors import UserError
from tasks.registry.markup import cut, printable

COLUMNS = ("ID", "dataset", "says", "text", "network", "version")
ANSWERS = ("label", "output")
SHOWN = 100
"""Characters of a text in a line."""


def says(waiting: Waiting) -> str:
    """The label or answer that the row wants, or that an answer is bad."""
    if waiting.row.get("verdict") == "bad":
        return "bad answer"
    return next((str(waiting.row[name]) for name in ANSWERS if name in waiting.row), "")


def text(waiting: Waiting) -> str:
    """The mail or the conversation that the row is about."""
    parts: list[str] = []
    for name in ABOUT:
        value = waiting.row.get(name) or ""
        parts += value if isinstance(value, list) else [value]
    return "\n".join(filter(None, parts))


def cells(waiting: Waiting) -> list[str]:
    """Its line under COLUMNS."""
    version = str(waiting.row.get("version"))
    values = (waiting.id, waiting.dataset, says(waiting), text(waiting), waiting.client, version)
    return [cut(value, SHOWN) for value in values]


def whole(waiting: Waiting) -> str:
    """All of it. Texts are indented, so none passes for a heading."""
    lines = [f"{waiting.id}  {waiting.dataset}  network {waiting.client}"]
    answer = "" if says(waiting) == "bad answer" else says(waiting)
    bad = str(waiting.row.get("output", "")) if not answer else ""
    for name, content in (("says", answer), ("bad answer", bad), ("text", text(waiting))):
        if content:
            lines += [f"{name}:", *(f"    {printable(line)}" for line in content.expandtabs(4).split("\n"))]
    return "\n".join(lines)


def select(rows: Iterable[Waiting], words: Sequence[str]) -> list[str]:
    """The ids of the rows that words name: ids, networks, datasets, or `all`.

    Raises UserError for a word that names no row; `all` may name none.
    """
    listed = list(rows)
    chosen: dict[str, None] = {}
    for word in words:
        ids = [row.id for row in listed if word in ("all", row.dataset, row.id, row.client)]
        if not ids and word != "all":
            raise UserError(f"no feedback {word!r} waits; `threestage feedback` lists what does")
        chosen |= dict.fromkeys(ids)
    return list(chosen)
