"""Markdown of pages: text of other people is escaped, and templates escape every value that is not marked as Markdown.

Mails, questions and answers are other people's text and may hold anything.
"""

import re
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

LONGEST = 300  # characters of a value
ENTRIES = 20_000  # characters of entries, together
SPECIAL = re.compile(r"([\\`*\[\]<>|~&#@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.)")
"""Characters that Markdown reads as emphasis (except a _ within a word), code, tables, HTML or links."""
LINE_START = re.compile(r"^(\d*)([-+=.)])(?=[\s=-]|$)")
"""The marks of a list or an underlined heading, which count at the start of a line."""
ENTRY_LINE = re.compile(r"(?P<block>(?:> |- )?)(?:\*\*(?P<bold>.+?)\*\*)?(?P<text>.*)")


def printable(text: str) -> str:
    """The text without control characters and without characters that reverse its direction."""
    return "".join(map(_printable_character, text))


def _printable_character(character: str) -> str:
    return character if character.isprintable() else " "


def cut(value: Any, longest: int = LONGEST) -> str:
    """A value on one line, cut after `longest` characters."""
    text = " ".join(printable(str(value)).split())
    return text if len(text) <= longest else text[:longest].rstrip() + " …"


def escaped(text: str) -> str:
    """Text as Markdown that reads as the text, on one line."""
    line = " ".join(printable(text).split())
    return LINE_START.sub(r"\1\\\2", SPECIAL.sub(r"\\\1", line))


def plain(value: Any, longest: int = LONGEST) -> str:
    """A value as escaped Markdown, for tables, too; cut after `longest` characters."""
    return escaped(cut(value, longest))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Container[int] = ()) -> list[str]:
    """The lines of a Markdown table; values are escaped, and the columns in `right` are right-aligned."""
    lines = [_table_row(row) for row in rows]
    sides = "|".join(_column_side(is_right=column in right) for column in range(len(columns)))
    return [_table_row(columns), f"|{sides}|", *lines]


def _table_row(values: Sequence[Any]) -> str:
    return f"| {' | '.join(plain(number(value)) for value in values)} |"


def _column_side(*, is_right: bool) -> str:
    return "---:" if is_right else "---"


def table_markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Container[int] = ()) -> Markup:
    """The same as one text, for templates."""
    return Markup("\n".join(table(columns, rows, right)))


def number(value: Any) -> Any:
    """A float with three decimals, or two significant digits if it is small; nothing for None; other values
    unchanged."""
    if not isinstance(value, float):
        return "" if value is None else value
    return f"{value:.2g}" if _is_small(value) else f"{value:.3f}"


def signed(value: float) -> str:
    """A difference, with its sign and the same digits."""
    return f"{value:+.2g}" if _is_small(value) else f"{value:+.3f}"


def _is_small(value: float) -> bool:
    """Whether three decimals would show nothing of it, or one digit."""
    return value != 0 and abs(value) < 0.001


def first_entries(text: str, count: int) -> str:
    """The first `count` entries of errors.md or samples.md without the heading.

    An entry begins with a paragraph in bold; if none is bold, each paragraph is an entry.
    """
    paragraphs = re.split(r"\n{2,}", text.strip("\n"))
    if paragraphs[0].startswith("# "):
        del paragraphs[0]
    starts = [index for index, paragraph in enumerate(paragraphs) if paragraph.startswith("**")]
    starts = starts or list(range(len(paragraphs)))
    end = starts[count] if count < len(starts) else len(paragraphs)
    return "\n\n".join(paragraphs[:end])[:ENTRIES]


def entries_markdown(text: str) -> Markup:
    """Entries of errors.md or samples.md, with their quotes, lists and bold beginnings; the text in them is escaped."""
    return Markup("\n".join(_entry_line(line) for line in text.split("\n")))


def _entry_line(line: str) -> str:
    match = ENTRY_LINE.fullmatch(printable(line))
    assert match is not None  # every line without line breaks fits
    text = escaped(match["text"])
    bold = escaped(match["bold"] or "")
    if bold:
        space = " " if match["text"].startswith(" ") else ""
        text = f"**{bold}**{space}{text}"
    return match["block"] + text


def _own_markdown(text: str) -> Markup:
    return Markup("\n".join(printable(line) for line in text.split("\n")))


def _code(value: Any) -> Markup:
    return Markup(f"`{cut(value).replace('`', ' ')}`")


def _value(value: Any) -> Any:
    """What a template writes for a value: Markdown as it is, and anything else escaped."""
    return value if isinstance(value, Markup) else Markup(escaped(str(number(value))))


def render_markdown(template: Path, **values: Any) -> str:
    """Markdown from a template, which may include those next to this file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,  # what is marked as Markdown stays so in macros
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_value,
        undefined=jinja2.StrictUndefined,
    )
    # pyrefly: ignore[unsupported-operation]  # jinja2 has no annotation for what may be added
    environment.globals["table"] = table_markdown
    environment.filters |= {"signed": signed, "cut": cut, "code": _code, "markdown": _own_markdown}
    text = environment.get_template(template.name).render(**values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
