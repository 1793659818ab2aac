"""HTML as text: what a person sees, and below it what is hidden."""

import re
from collections.abc import Mapping
from html import unescape
from typing import Any, NamedTuple

from lxml import etree

ENDS = {  # what is written where an element ends, and where it begins behind a word
    **dict.fromkeys(("address", "blockquote", "br", "div", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "p"), "\n"),
    **{"table": "\n", "tr": "\n", "td": " ", "th": " "},
}
DROPPED = ("iframe", "script", "style", "title")
UNSEEN = ("template",)
VERBATIM = ("pre", "textarea")
KINDS = {tag: kind for kind in (DROPPED, UNSEEN, VERBATIM) for tag in kind}
WORDED = ("alt", "srcdoc", "value")  # attributes that a person may read
SPACES = " \t\n\f\r"  # HTML's own
# Tags that programs write in mails. A plain text may well mention others: <stdio.h>, <list>, <anna@example.com>.
TAG = re.compile(
    r"</?(?:a|b|blockquote|body|br|center|div|em|font|form|h[1-6]|head|hr|html|i|img|input|li|meta|ol|p|pre|script|span"
    r"|strong|style|table|tbody|td|th|title|tr|u|ul)\b[^<>]*>",
    re.IGNORECASE,
)
TAGGED = 0.1  # share of a text; with more of it in tags the text is HTML
SIZE = re.compile(r"(\d*\.?\d+)(px|pt)?")
LEAST_SIZE = 2.0  # of letters that anybody reads, in px or pt
DEEPEST_HTML = 256  # open elements; lxml looks through all of them where one ends, which is quadratic


class _DeepError(Exception):
    """HTML that is nested deeper than anybody writes it."""


class _Shown(NamedTuple):
    """Whether an element is displayed, and whether its own words are large enough and visible."""

    displayed: bool = True
    large: bool = True
    visible: bool = True

    def inside(self, attributes: Mapping[str, str]) -> "_Shown":
        """The same for an element inside this one. Its own style can bring back size and visibility, nothing else."""
        style: dict[str, str] = {}
        for declaration in attributes.get("style", "").lower().split(";"):
            name, _, value = declaration.partition(":")
            style[name.strip()] = value.replace("!important", "").strip()
        display = style.get("display", "none" if "hidden" in attributes else "")
        shown = self
        if display == "none" or style.get("opacity") in ("0", "0.0"):
            shown = shown._replace(displayed=False)
        if "font-size" in style:
            size = SIZE.fullmatch(style["font-size"])
            is_large = size is None or float(size[1]) >= (LEAST_SIZE if size[2] else 0.01)
            shown = shown._replace(large=is_large)
        if "visibility" in style:
            shown = shown._replace(visible=style["visibility"] not in ("hidden", "collapse"))
        return shown


class _Reader:
    """The target of lxml's parser: collects the words that a person sees, and apart from them those that are hidden.

    Browsers show more than one parser and a few rules can foresee, so nothing that may be words is left out: hidden
    text only stands below the rest.
    """

    def __init__(self, *, declared: bool) -> None:
        self.declared = declared
        """Whether a header says that it is HTML. If not, comments, scripts and attributes are read as words, too."""
        self.seen: list[str] = []
        self.below: list[str] = []
        self.words: list[str] = []
        self.depth = 0
        self.inside = dict.fromkeys((DROPPED, UNSEEN, VERBATIM), 0)
        """How many elements of these kinds are open."""
        self.shown = [_Shown()]
        """The state of each open element."""

    @property
    def _target(self) -> list[str]:
        """The list to which the words of the open elements go."""
        hidden = self.inside[DROPPED] or self.inside[UNSEEN] or not all(self.shown[-1])
        return self.below if hidden else self.seen

    def _flush(self, *_: Any) -> None:
        """Keep the words since the last event; nothing but spaces becomes one space, or a new line."""
        if not self.words:
            return
        text = "".join(self.words)
        self.words.clear()
        if self.inside[DROPPED] and self.declared:
            return
        if not self.inside[VERBATIM] and not text.strip(SPACES):
            text = "\n" if "\n" in text else " "
        self._target.append(text)

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
        self._flush()
        self.depth += 1
        if self.depth > DEEPEST_HTML:
            raise _DeepError
        if tag in KINDS:
            self.inside[KINDS[tag]] += 1
        self.shown.append(self.shown[-1].inside(attributes))
        target = self._target
        if tag in ENDS and target and not self.inside[DROPPED] and not target[-1].endswith((" ", "\n")):
            target.append(ENDS[tag])
        for name, value in attributes.items():
            if name in WORDED or (not self.declared and name not in ("class", "style") and " " in value):
                self.below += [value, "\n"]

    def end(self, tag: str) -> None:
        """An element ends."""
        self._flush()
        target = self._target
        self.depth -= 1
        if len(self.shown) > 1:
            self.shown.pop()
        if tag in KINDS:
            self.inside[KINDS[tag]] -= 1
        if tag in ENDS and not self.inside[DROPPED]:
            target.append(ENDS[tag])

    def data(self, words: str) -> None:
        """Some of the words of an element."""
        self.words.append(words)

    def comment(self, words: str) -> None:
        """A comment, which no browser shows."""
        self._flush()
        if not self.declared:
            self.below += [words, "\n"]

    pi = doctype = _flush

    def close(self) -> str:
        """All of the text."""
        self._flush()
        seen = "".join(self.seen)
        below = "".join(self.below).strip()
        return f"{seen}\n\n{below}" if below else seen


def html_text(html: str, *, declared: bool = True) -> str:
    """The text that a person sees, link texts included, with a new line where a block ends; hidden text stands below.

    Where no header `declared` it to be HTML, comments, scripts and words in attributes stand below, too.
    HTML that is nested deeper than DEEPEST_HTML is read without its structure.
    """
    reader = _Reader(declared=declared)
    parser = etree.HTMLParser(target=reader, huge_tree=True)  # otherwise a comment of 10 MB never ends
    try:
        parser.feed(html.removeprefix("\ufeff"))
        return parser.close()
    except _DeepError:
        return unescape(re.sub(r"</?\w+|>", " ", html))


def is_html(text: str) -> bool:
    """Whether a text that no header declared to be HTML is HTML: it begins so, or more than TAGGED of it is tags."""
    if re.match(r"\s*<(!doctype|html)\b", text, re.IGNORECASE):
        return True
    return "</" in text and sum(map(len, TAG.findall(text))) > TAGGED * len(text)
