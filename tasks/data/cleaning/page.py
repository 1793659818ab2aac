"""The record of a cleaning as a page for people."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

LINES = 3  # of an example
LONGEST = 160  # characters of its lines
BEFORE = 40  # characters that are shown before the difference


def difference(before: str, after: str) -> dict[str, str]:
    """The first lines that differ, without blank ones; a long line is shown from shortly before the difference."""
    lines_before = _lines(before)
    lines_after = _lines(after)
    first = 0
    start = 0
    for number, (left, right) in enumerate(zip_longest(lines_before, lines_after, fillvalue="")):
        if left != right:
            first = number
            same = _common_length(left, right)
            start = same - BEFORE if same > LONGEST - BEFORE else 0
            break
    return {"before": _excerpt(lines_before[first:], start), "after": _excerpt(lines_after[first:], start)}


def _common_length(left: str, right: str) -> int:
    """How many characters two lines begin with in common."""
    for number, (left_character, right_character) in enumerate(zip(left, right, strict=False)):
        if left_character != right_character:
            return number
    return min(len(left), len(right))


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.split("\n") if line.strip()]


def _excerpt(lines: list[str], start: int) -> str:
    """Some lines, the first from this character on."""
    shown = [line[start:] for line in lines[:1]] + lines[1:LINES]
    return "\n".join(line[:LONGEST] for line in shown)


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
