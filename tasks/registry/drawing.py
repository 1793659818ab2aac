"""The lineage of a version for people and programs: a tree for the terminal, JSON, and a picture.

The picture is SVG, boxes from the sources on the left to the version on the right. It needs no library, no font and no
other file, and nothing in it runs: it is looked at where it lies.
"""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

from tasks.registry.ancestry import HASH, VERSION, Node
from tasks.registry.markup import printable

if TYPE_CHECKING:
    from rich.tree import Tree

EVERYWHERE = ("machine", "system", "run's git commit", "not in the run's git")  # facts that mostly hold for all nodes

WIDTH, GAP, BETWEEN, MARGIN, PADDING = 318, 72, 22, 28, 14  # of a box, between columns, between boxes; pixels
LINE, HEAD, TOP = 17, 46, 86  # of a line of text, of a box without lines, above the boxes
CHARACTERS, BOLD, NAME = 40, 38, 30  # in a line of a box, in one that stands out, and in its name
COLORS = {  # a box's border and its ground
    "version": ("#1d4ed8", "#eff6ff"),
    "model": ("#1d4ed8", "#eff6ff"),
    "weights": ("#7c3aed", "#f5f3ff"),
    "dataset": ("#047857", "#ecfdf5"),
    "raw data": ("#b45309", "#fffbeb"),
    "inbox": ("#b45309", "#fffbeb"),
    "source": ("#57534e", "#fafaf9"),
}
STYLE = """\
text { font: 12.5px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; fill: #1f2937 }
.top { font-size: 20px; font-weight: 600 }
.kind { font-size: 10.5px; letter-spacing: .08em }
.name { font-size: 15px; font-weight: 600 }
.hash { font-family: ui-monospace, 'DejaVu Sans Mono', monospace; font-size: 11.5px; fill: #4b5563 }
.quiet { fill: #4b5563 }
.missing { fill: #b91c1c; font-weight: 600 }
.alias { fill: #ffffff; font-size: 11px; font-weight: 600 }
path.edge { fill: none; stroke: #64748b; stroke-width: 1.6 }
"""


@dataclass(frozen=True)
class Line:
    """A line in a box, and its class in STYLE."""

    text: str
    style: str = "quiet"


@dataclass
class Box:
    """A node with its lines, and where it stands."""

    node: Node
    lines: Sequence[Line]
    column: int
    """Steps from the version, which has 0."""
    y: float = 0.0

    @property
    def height(self) -> float:
        return HEAD + LINE * len(self.lines) + (PADDING if self.lines else 0)

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


def as_svg(root: Node, at: datetime) -> str:
    """The graph of a version as an SVG file, which names the time `at` that its aliases and decisions are of.

    Sources stand in the box of what was fetched from them.
    """
    boxes = _boxes(root)
    _place(boxes)
    columns = 1 + max(box.column for box in boxes.values())
    width = 2 * MARGIN + columns * WIDTH + (columns - 1) * GAP
    height = MARGIN + max(box.y + box.height for box in boxes.values())
    title = f"What {root.name} was made from"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" width="{width}" '
        f'height="{height:.0f}" role="img">',
        f"<title>{_text(title)}</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#64748b"/></marker></defs>',
        f'<rect width="{width}" height="{height:.0f}" fill="#ffffff"/>',
        f'<text class="top" x="{MARGIN}" y="42">{_text(title)}</text>',
        f'<text class="quiet" x="{MARGIN}" y="64">As of {at:%Y-%m-%d %H:%M} {at.tzname()}</text>',
        *_edges(boxes, columns),
        *(_box(box, _left(box, columns)) for box in boxes.values()),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _boxes(root: Node) -> dict[str, Box]:
    """A box for each node but the sources, by the nodes' keys, a column or more behind what was made from it."""
    columns: dict[str, int] = {root.key: 0}
    nodes = [node for node in root.all() if node.kind != "source"]
    for node in nodes:
        for each in node.made_from:
            columns[each.key] = max(columns.get(each.key, 0), columns[node.key] + 1)
    return {node.key: Box(node, list(_lines(node)), columns[node.key]) for node in nodes}


def _place(boxes: Mapping[str, Box]) -> None:
    """Stack each column, boxes at the height of what was made from them as far as there is room."""
    for column in range(1 + max(box.column for box in boxes.values())):
        wished = {}
        for key, box in boxes.items():
            if box.column == column:
                users = [user.middle for user in boxes.values() if key in {each.key for each in user.node.made_from}]
                wished[key] = (sum(users) / len(users) if users else 0.0) - box.height / 2
        ordered = [boxes[key] for key in sorted(wished, key=lambda key: wished[key] + boxes[key].height / 2)]
        total = sum(box.height for box in ordered) + BETWEEN * (len(ordered) - 1)
        center = sum(wished[box.node.key] + box.height / 2 for box in ordered) / len(ordered)
        at = center - total / 2
        for box in ordered:
            box.y, at = at, at + box.height + BETWEEN
    up = TOP - min(box.y for box in boxes.values())
    for box in boxes.values():
        box.y += up


def _left(box: Box, columns: int) -> float:
    return MARGIN + (columns - 1 - box.column) * (WIDTH + GAP)


def _edges(boxes: Mapping[str, Box], columns: int) -> Iterator[str]:
    """A curve from each thing to each that was made from it, which it reaches beside the others, in their order."""
    for box in boxes.values():
        parents = sorted(
            (boxes[each.key] for each in box.node.made_from if each.key in boxes), key=lambda it: it.middle
        )
        for place, parent in enumerate(parents, 1):
            start, end = _left(parent, columns) + WIDTH, _left(box, columns) - 1
            down, half = box.y + box.height * place / (len(parents) + 1), (end - start) / 2
            yield (
                f'<path class="edge" marker-end="url(#end)" d="M{start:.0f} {parent.middle:.1f}C{start + half:.0f} '
                f'{parent.middle:.1f} {end - half:.0f} {down:.1f} {end:.0f} {down:.1f}"/>'
            )


def _box(box: Box, left: float) -> str:
    border, ground = COLORS[box.node.kind]
    everything = "\n".join([box.node.hash, *(f"{name}: {said(value)}" for name, value in box.node.facts.items())])
    text = left + PADDING
    name, _, version = box.node.name.partition(VERSION if box.node.kind == "version" else "\n")
    kind = f"{box.node.kind} {version}".strip().upper()
    parts = [
        f"<g><title>{_text(everything)}</title>",
        f'<rect x="{left:.0f}" y="{box.y:.1f}" width="{WIDTH}" height="{box.height:.1f}" rx="8" fill="{ground}" '
        f'stroke="{border}" stroke-width="1.4"/>',
        f'<text class="kind" x="{text:.0f}" y="{box.y + 19:.1f}" style="fill:{border}">{_text(kind)}</text>',
        f'<text class="name" x="{text:.0f}" y="{box.y + 38:.1f}">{_text(_short(name, NAME))}</text>',
    ]
    right = left + WIDTH - 10
    for alias in box.node.facts.get("aliases", ()):
        name = _short(alias, 14)
        wide = 7.2 * len(name) + 14
        right -= wide
        parts.append(
            f'<rect x="{right:.1f}" y="{box.y + 7:.1f}" width="{wide:.1f}" height="17" rx="8" fill="{border}"/>'
            f'<text class="alias" x="{right + 7:.1f}" y="{box.y + 19:.1f}">{_text(name)}</text>'
        )
        right -= 5
    for number, line in enumerate(box.lines):
        down = box.y + HEAD + PADDING / 2 + LINE * (number + 0.6)
        parts.append(f'<text class="{line.style}" x="{text:.0f}" y="{down:.1f}">{_text(line.text)}</text>')
    return "\n".join([*parts, "</g>"])


def _lines(node: Node) -> Iterator[Line]:
    """What a reviewer asks first; the rest is in the box's own title, and in the tree of the command."""
    facts = node.facts
    if node.hash:
        yield Line(f"md5 {node.hash[:HASH]}  {facts.get('size', '')}".rstrip(), "hash")
    if stage := facts.get("made by"):
        yield from _wrapped(f"by {stage}", "quiet", 2)
    if decided := facts.get("decisions"):
        yield from _wrapped(decided[-1], "", 3)
    elif review := facts.get("review"):
        yield Line(f"review: {_short(review, 30)}", "")
    if commit := facts.get("git commit") or facts.get("run's git commit"):
        yield Line(f"git commit {commit.partition(':')[0][:HASH]}")
    for missing in (facts.get("not in git"), facts.get("not in the run's git")):
        if missing:
            yield from _wrapped(f"not in git: {missing}", "missing", 4)
    if node.kind in ("version", "model"):
        parameters = facts.get("parameters", {})
        chosen = [f"{name} {parameters[name]}" for name in ("seed", "steps", "learning_rate") if name in parameters]
        if chosen:
            yield from _wrapped(", ".join(chosen), "quiet", 2)
        yield from _wrapped(facts.get("machine", ""), "quiet", 2)
    for each in node.made_from:
        if each.kind == "source":
            yield from _wrapped(each.name, "", 2)
            yield Line(f"sha256 {each.hash[:HASH]}" if each.hash else "without a hash", "hash")


def _wrapped(text: str, style: str, lines: int) -> Iterator[Line]:
    longest = BOLD if style == "missing" else CHARACTERS
    for line in textwrap.wrap(printable(text), longest, max_lines=lines, placeholder=" …", break_on_hyphens=False):
        yield Line(line, style)


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def _text(value: str) -> str:
    return escape("\n".join(map(printable, value.split("\n"))))


def as_json(root: Node) -> dict[str, Any]:
    """The graph for programs: its nodes, the version first, each with the ids of what it was made from."""
    return {
        "root": root.key,
        "nodes": [
            {
                "id": node.key,
                "kind": node.kind,
                "name": node.name,
                "hash": node.hash,
                "facts": dict(node.facts),
                "made_from": [each.key for each in node.made_from],
            }
            for node in root.all()
        ],
    }


def said(value: Any) -> str:
    """A fact in one line."""
    match value:
        case Mapping():
            return ", ".join(
                f"{name} {each if isinstance(each, str) else json.dumps(each)}" for name, each in value.items()
            )
        case list():
            return "; ".join(map(str, value))
        case _:
            return str(value)


def as_text(root: Node) -> "Tree":
    """The graph as a tree for the terminal.

    A node that is shared has its facts once, and what holds as for the version, such as its machine, is not said again.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text
    from rich.tree import Tree

    shown: set[str] = set()

    def label(node: Node) -> Group:
        title = Text.assemble((node.title, "bold"), "  ", (node.hash[:HASH], "cyan"))
        if node.key in shown:
            return Group(title.append("  as above", style="dim"))
        facts = Table.grid(padding=(0, 2, 0, 0))
        for name, value in node.facts.items():
            as_before = node is not root and name in EVERYWHERE and root.facts.get(name, "").startswith(value)
            if name != "aliases" and not as_before:
                style = "red" if "not in" in name else ""
                facts.add_row(Text(f"  {name}", style="dim"), Text(printable(said(value)), style=style))
        return Group(title, *([facts] if facts.row_count else []))

    def grow(tree: Tree, node: Node) -> Tree:
        first = node.key not in shown
        shown.add(node.key)
        for each in node.made_from if first else ():
            grow(tree.add(label(each)), each)
        return tree

    return grow(Tree(label(root), guide_style="dim"), root)
