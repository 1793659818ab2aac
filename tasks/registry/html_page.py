"""The one HTML page: a card, a review or a lineage from its Markdown, in one file that loads nothing.

Markdown has no words for some things on a page, so these stand for them: a paragraph below the title that begins in
bold is the verdict, a section below `###` is folded, and an emphasized paragraph or part of a cell is small print. A
picture's bytes are in its address, so that no script in it runs and a page asks no other host.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jinja2
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
TEMPLATE = Path(__file__).with_name("page.html.j2")
CLASSES = {"✓ passed": "good", "better": "good", "✗ failed": "bad", "worse": "bad", "? not known": "open"}
"""Classes of words in bold."""

State = Literal["good", "bad", "open"]


def _open_table(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return '<div class="table">\n<table>\n'


def _close_table(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return "</table>\n</div>\n"


MARKDOWN.add_render_rule("table_open", _open_table)
MARKDOWN.add_render_rule("table_close", _close_table)


def html_page(markdown: str, pictures: Mapping[str, Path] | None = None, state: State = "open") -> str:
    """The page of a Markdown text that begins with its title.

    `pictures` holds the SVG files behind the addresses of the text's pictures; `state` colours the verdict.
    """
    tokens = MARKDOWN.parse(markdown)
    for token in tokens:
        _finish_inline(token.children or [], pictures or {})
    title = "".join(child.content for child in tokens[1].children or [])
    body = MARKDOWN.renderer.render(_folded(tokens), MARKDOWN.options, {})
    template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True, keep_trailing_newline=True)
    return template.render(title=title, body=Markup(body), state=state)


def as_html(markdown: str) -> str:
    """A piece of Markdown as it stands on a page."""
    return MARKDOWN.render(markdown)


def _finish_inline(children: Sequence[Token], pictures: Mapping[str, Path]) -> None:
    """Put the bytes of pictures into their addresses, and classes on words in bold and on emphasized paragraphs."""
    if children and children[0].type == "em_open" and children[-1].type == "em_close":
        children[0].attrs["class"] = "note"
    for index, child in enumerate(children):
        if child.type == "image":
            path = pictures.get(str(child.attrs.pop("src")))
            if path:
                child.attrs["src"] = f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
        elif child.type == "strong_open" and children[index + 1].content in CLASSES:
            child.attrs["class"] = CLASSES[children[index + 1].content]


def _folded(tokens: Sequence[Token]) -> list[Token]:
    """The tokens, with each section below a heading of level 3 folded, up to the next heading."""
    folded: list[Token] = []
    is_open = False
    for token in tokens:
        is_heading = token.type == "heading_open" and token.level == 0
        if is_heading and is_open:
            folded.append(Token("details_close", "details", -1, block=True))
            is_open = False
        if is_heading and token.tag == "h3":
            folded.append(Token("details_open", "details", 1, block=True))
            is_open = True
        if token.tag == "h3":
            token.tag = "summary"
        folded.append(token)
    if is_open:
        folded.append(Token("details_close", "details", -1, block=True))
    return folded
