"""Markdown of pages: text of other people is escaped, and templates escape every value that is not marked as Markdown.

Mails, questions and answers are other people's text and may hold anything.
"""

import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

LONGEST = 300  # characters of a value
SPECIAL = re.compile(r"([\\`*\[\]<>|~&#@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.)")
"""Characters that Markdown reads as emphasis (except a _ within a word), code, tables, HTML or links."""
LINE_START = re.compile(r"^(\d*)([-+=.)])(?=[\s=-]|$)")
"""The marks of a list or an underlined heading, which count at the start of a line."""


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
    environment.filters |= {"signed": signed, "cut": cut, "code": _code, "markdown": _own_markdown}
    text = environment.get_template(template.name).render(**values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
