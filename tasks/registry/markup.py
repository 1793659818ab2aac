"""Escape text from data for Markdown and HTML pages.

Mails, questions and answers are other people's text and may hold anything. Templates escape all values. A picture is an
`img` with its bytes in its address, so that no script in it runs and a page asks no other host.
"""

import base64
import re
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

LONGEST = 300  # characters of a value
ENTRIES = 20_000  # characters of entries, together
SPECIAL = re.compile(r"([\\`*\[\]<>|~&#@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.)")
"""Characters that Markdown reads as emphasis (except a _ within a word), code, tables, HTML or links."""
OURS = MarkdownIt("commonmark", {"html": False}).enable("table")
OTHERS = MarkdownIt("zero").enable(["emphasis", "blockquote", "list"])  # no links, pictures, headings, code or HTML


def printable(text: str) -> str:
    """The text without control characters and without characters that reverse its direction."""
    return "".join(character if character.isprintable() else " " for character in text)


def cut(value: Any, longest: int = LONGEST) -> str:
    """A value on one line, cut after `longest` characters."""
    text = " ".join(printable(str(value)).split())
    return text if len(text) <= longest else text[:longest].rstrip() + " …"


def plain(value: Any, longest: int = LONGEST) -> str:
    """The same as escaped Markdown, for tables, too."""
    return SPECIAL.sub(r"\\\1", cut(value, longest))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Container[int] = ()) -> list[str]:
    """The lines of a Markdown table; values are escaped, and the columns in `right` are right-aligned."""
    sides = "|".join("---:" if place in right else "---" for place in range(len(columns)))
    head, *lines = (f"| {' | '.join(map(plain, row))} |" for row in (columns, *rows))
    return [head, f"|{sides}|", *lines]


def number(value: Any) -> Any:
    """A float with three decimals, or two significant digits if it is small; nothing for None; other values
    unchanged."""
    if not isinstance(value, float):
        return "" if value is None else value
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.2g}"


def signed(value: float) -> str:
    """A difference, with its sign and the same digits."""
    return f"{value:+.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:+.2g}"


def first_entries(text: str, count: int) -> tuple[str, bool]:
    """The first `count` entries of errors.md or samples.md without the heading, and whether these are all.

    An entry begins with a paragraph in bold; if none is bold, each paragraph is an entry.
    """
    paragraphs = re.split(r"\n{2,}", text.strip("\n"))
    paragraphs = paragraphs[1:] if paragraphs[0].startswith("# ") else paragraphs
    starts = [place for place, each in enumerate(paragraphs) if each.startswith("**")] or list(range(len(paragraphs)))
    end = starts[count] if count < len(starts) else len(paragraphs)
    shown = "\n\n".join(paragraphs[:end])
    return shown[:ENTRIES], len(starts) <= count and len(shown) <= ENTRIES


def as_source(picture: Path) -> str:
    """An SVG as the address of an `img`."""
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def render(template: Path, **values: Any) -> str:
    """A page from a template; `page.html.j2`, next to this file, holds what pages share."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else _lines(value),
    )
    environment.filters |= {
        "shown": number,
        "signed": signed,
        "cut": cut,
        "own_markdown": lambda text: Markup(OURS.render(_lines(text))),
        "own_line": lambda text: Markup(OURS.renderInline(_lines(text))),
        "others_markdown": lambda text: Markup(OTHERS.render(_lines(text))),
    }
    return environment.get_template(template.name).render(**values)
