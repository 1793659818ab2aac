"""The HTML page of a review from its Markdown, in one file that loads nothing.

Markdown has no words for some things on a page, so these stand for them: a paragraph below the title that begins in
bold is the verdict, a section below `###` is folded, and an emphasized paragraph or part of a cell is small print. A
picture's bytes are in its address, so that no script in it runs and a page asks no other host.
"""

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
"""Tags in the text itself are escaped, so those in its HTML are the renderer's own."""
TEMPLATE = Path(__file__).with_name("page.html.j2")
FOLDED = re.compile(r"<h3>(.*?)</h3>\n(.*?)(?=<h[123]>|\Z)", re.DOTALL)
COLOURED = {"✓ passed": "good", "better": "good", "✗ failed": "bad", "worse": "bad", "? not known": "open"}
"""Words in bold, and their classes."""

State = Literal["good", "bad", "open"]


def html_page(markdown: str, pictures: Mapping[str, Path] | None = None, state: State = "open") -> str:
    """The page of a Markdown text that begins with its title.

    `pictures` holds the SVG files behind the addresses of the text's pictures; `state` colours the verdict.
    """
    body = MARKDOWN.render(markdown)
    body = FOLDED.sub(r"<details><summary>\1</summary>\n\2</details>\n", body)
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    body = body.replace("<p><em>", '<p><em class="note">')
    for word, color in COLOURED.items():
        body = body.replace(f"<strong>{word}</strong>", f'<strong class="{color}">{word}</strong>')

    def embedded(match: re.Match[str]) -> str:
        path = (pictures or {}).get(match[1])
        return f'<img src="{_address(path)}"' if path else "<img"

    body = re.sub(r'<img src="([^"]*)"', embedded, body)
    title = Markup(body.partition("</h1>")[0]).striptags()
    template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True, keep_trailing_newline=True)
    return template.render(title=title, body=Markup(body), state=state)


def _address(picture: Path) -> str:
    """The bytes of an SVG as an address."""
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.read_bytes()).decode()}"
