"""The record of a cleaning as a page for people."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

LINES = 3  # of an example
LONGEST = 160  # characters of its lines


def difference(before: str, after: str) -> dict[str, str]:
    """The first lines that differ and those behind them, without blank ones and cut."""
    lines_before = _lines(before)
    lines_after = _lines(after)
    pairs = zip_longest(lines_before, lines_after)
    first = next((number for number, (left, right) in enumerate(pairs) if left != right), 0)
    return {"before": _excerpt(lines_before, first), "after": _excerpt(lines_after, first)}


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.split("\n") if line.strip()]


def _excerpt(lines: list[str], first: int) -> str:
    return "\n".join(line[:LONGEST] for line in lines[first : first + LINES])


def page(dataset: str, content: Mapping[str, Any]) -> str:
    """The content of cleaning.json in Markdown."""
    return "\n".join(_page_lines(dataset, content)) + "\n"


def _page_lines(dataset: str, content: Mapping[str, Any]) -> Iterator[str]:
    yield f"# What cleaning did to {dataset}"
    yield ""
    if not content:
        yield "Nothing."
        return
    yield "| rule | what it does | texts changed | rows left out |"
    yield "|---|---|--:|--:|"
    for rule, entry in content.items():
        yield f"| {rule} | {entry['does']} | {entry['texts_changed']} | {entry['rows_left_out']} |"
    yield ""
    yield "All rows left out are in `quarantine.parquet`."
    for rule, entry in content.items():
        yield from ["", f"## {rule}"]
        for example in entry["examples"]:
            yield from ["", "```diff", *_marked("-", example["before"]), *_marked("+", example["after"]), "```"]
        for row in entry["left_out"]:
            text = " ".join(row["text"].split())[:LONGEST].replace("`", "'")
            excerpt = f": `{text}`" if text else ""
            yield from ["", f"`{row['id']}`: {row['reason']}{excerpt}"]


def _marked(mark: str, text: str) -> Iterator[str]:
    for line in text.split("\n"):
        yield f"{mark} {line}".rstrip().replace("```", "'''")
