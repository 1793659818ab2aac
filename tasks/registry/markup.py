"""Text from data as Markdown that says just that, and Markdown as one HTML file.

Rows of data come into a card, mails and answers among them, and may hold anything. In Markdown nothing of them is
markup (`plain`), or nothing that could do harm (`tame`). In HTML nothing but what Markdown made is markup, and a
picture is one of those that are named.
"""

import base64
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

from llm.files import read_text

TEMPLATE = Path(__file__).with_name("card.html.jinja")
LONGEST = 300  # characters of a value
ENTRIES = 20_000  # characters of entries, together
SPECIAL = re.compile(r"([\\`*\[\]<>|~&#]|(?<![^\W_])_|_(?![^\W_]))")  # _ within a word is no emphasis
IN_TEXT = re.compile(r"([\\`\[\]<|~&])")
RULE = re.compile(r"[\s=*_-]+")


def printable(text: str) -> str:
    """Without characters that no one sees: control characters, and those that turn the direction of what follows."""
    return "".join(character if character.isprintable() else " " for character in text)


def plain(value: Any, longest: int = LONGEST) -> str:
    """A value as one line of Markdown that says just that, in a table too, cut after `longest` characters."""
    text = " ".join(printable(str(value)).split())
    text = text if len(text) <= longest else text[:longest].rstrip() + " …"
    return SPECIAL.sub(r"\\\1", text)


def tame(text: str) -> str:
    """Markdown that was made with text from data: emphasis, quotes and lists stay, and headings are small ones.

    Links, pictures, code, tables and HTML are text, so that no mail puts a link into a card or ends its table.
    """
    lines = []
    for line in text.split("\n"):
        line = IN_TEXT.sub(r"\\\1", printable(line))
        if heading := re.match(r"#+ +(.*)", line):
            line = f"#### {heading[1]}"
        elif line.strip():
            line = line.replace("#", "\\#")
            line = "\\" + line.lstrip() if RULE.fullmatch(line) else line  # a line below another makes it a heading
        lines.append(line.rstrip())
    return "\n".join(lines)


def first_entries(text: str, number: int) -> tuple[str, bool]:
    """The first `number` entries of errors.md or samples.md without the heading, and whether these are all.

    An entry begins with a paragraph in bold and holds what follows; where none is bold each paragraph is one.
    """
    paragraphs = re.split(r"\n{2,}", text.strip("\n"))
    paragraphs = paragraphs[1:] if paragraphs[0].startswith("# ") else paragraphs
    starts = [place for place, each in enumerate(paragraphs) if each.startswith("**")] or list(range(len(paragraphs)))
    ends = [*starts[1:], len(paragraphs)][:number]
    entries, size = [], 0
    for start, end in zip([0, *ends], ends, strict=False):
        entry = "\n\n".join(paragraphs[start:end])
        size += len(entry)
        if entries and size > ENTRIES:
            break
        entries.append(entry if len(entry) <= ENTRIES else entry[:ENTRIES] + " …")
    return "\n\n".join(entries), len(entries) >= len(starts)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Container[int] = ()) -> list[str]:
    """The lines of a Markdown table of values that are no Markdown; the columns in `right` stand on the right."""
    sides = "|".join("---:" if place in right else "---" for place in range(len(columns)))
    head, *lines = (f"| {' | '.join(map(plain, row))} |" for row in (columns, *rows))
    return [head, f"|{sides}|", *lines]


def as_html(markdown: str, pictures: Mapping[str, Path], kind: str = "model card") -> str:
    """A card, or another `kind` of page, as one HTML file.

    `pictures` has the file of each address; one that it lacks is left out. A picture is an `img` with the bytes in its
    address, so that no script in it runs; none is asked of any other host.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(self: RendererHTML, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
        token = tokens[place]
        path, said = pictures.get(str(token.attrGet("src"))), Markup.escape(token.content)
        if path is None:
            return str(said)
        data = base64.b64encode(path.read_bytes()).decode()
        return str(Markup('<img src="data:image/svg+xml;base64,{}" alt="{}" title="{}">').format(data, said, said))

    parser.add_render_rule("image", image)
    parser.add_render_rule("table_open", lambda *_: '<div class="table"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = parser.parse(markdown)
    sections = []
    for opened, inside in pairwise(tokens):
        if opened.type == "heading_open" and opened.tag in ("h1", "h2"):
            opened.attrSet("id", f"section-{len(sections)}")
            sections.append((opened.attrGet("id"), "".join(each.content for each in inside.children or ())))
    body = Markup(parser.renderer.render(tokens, parser.options, {}))
    template = jinja2.Template(read_text(TEMPLATE), autoescape=True, keep_trailing_newline=True)
    return template.render(kind=kind, title=sections[0][1], sections=sections[1:], body=body)
