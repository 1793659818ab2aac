"""The tree of a version's origins: for a terminal, as Markdown, as JSON and as a Mermaid flow chart."""

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from tasks.registry.markup import plain, printable

WIDTH = 110  # columns of the tree on a page
HASH = 12  # characters of a hash that people see
SHARED = ("machine", "run's commit", "not in the run's commit")  # facts that most nodes share
UNSAFE = re.compile(r"[^\w .,:@/()+=-]")  # characters with a meaning in Mermaid's labels


@dataclass(frozen=True)
class Node:
    """A version, or something that it was made from."""

    kind: str
    """`version`, `model`, `weights`, `dataset`, `raw data`, `inbox` or `source`."""
    name: str
    hash: str
    """DVC's MD5 of its bytes; the SHA-256 of a source. Empty where it is not recorded."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """In reading order: text, lists of text, or mappings of names to values."""
    made_from: tuple["Node", ...] = ()

    @property
    def title(self) -> str:
        """Its name for people."""
        name = self.name if self.kind in ("version", "source") else f"{self.kind} {self.name}"
        aliases = self.facts.get("aliases")
        return f"{name} ({', '.join(aliases)})" if aliases else name

    @property
    def key(self) -> str:
        """An id: equal for the same thing in several places of the tree."""
        return f"{self.kind}:{self.name}@{self.hash}"

    def all(self) -> Iterator["Node"]:
        """Each node once, this one first, and each before its origins."""
        order: dict[str, Node] = {}

        def visit(node: Node) -> None:
            order.pop(node.key, None)
            order[node.key] = node
            for origin in node.made_from:
                visit(origin)

        visit(self)
        return iter(order.values())


def as_json(root: Node) -> dict[str, Any]:
    """The tree for programs: its nodes, the version first, each with the ids of its origins."""
    return {"root": root.key, "nodes": [_node_json(node) for node in root.all()]}


def _node_json(node: Node) -> dict[str, Any]:
    return {
        "id": node.key,
        "kind": node.kind,
        "name": node.name,
        "hash": node.hash,
        "facts": dict(node.facts),
        "made_from": [origin.key for origin in node.made_from],
    }


def as_mermaid(root: Node) -> str:
    """The tree as a flow chart in Mermaid's language, from the sources on the left to the version on the right."""
    ids = {node.key: f"n{number}" for number, node in enumerate(root.all())}
    labels: list[str] = []
    arrows: list[str] = []
    for node in root.all():
        labels.append(f'  {ids[node.key]}["{_label(node)}"]')
        arrows += [f"  {ids[origin.key]} --> {ids[node.key]}" for origin in node.made_from]
    return "\n".join(["flowchart LR", *labels, *arrows]) + "\n"


def _label(node: Node) -> str:
    """The label of a node in Mermaid's language, one line for each thing that is known."""
    lines = [node.title, node.hash[:HASH]]
    commit = node.facts.get("commit", node.facts.get("run's commit", ""))
    if commit and node.kind in ("version", "model"):
        lines.append(f"commit {commit[:HASH]}")
    if "not in git" in node.facts:
        lines.append(f"not in git: {node.facts['not in git']}")
    lines += node.facts.get("decisions", [])[-1:]
    return "<br>".join(_mermaid_text(line) for line in lines if line)


def _mermaid_text(text: str) -> str:
    return UNSAFE.sub(lambda match: f"#{ord(match[0])};", printable(text))


def as_markdown(root: Node) -> str:
    """The tree as a page in Markdown."""
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    console.print(as_text(root))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    tree = "\n".join(lines)
    return f"# {plain(root.title)}\n\n```\n{tree}\n```\n"


def as_text(root: Node) -> Tree:
    """The tree for the terminal.

    A node that appears twice shows its facts once; facts equal to the version's are left out.
    """
    tree = Tree(_terminal_label(root, root), guide_style="dim")
    _grow(tree, root, root=root, shown=set())
    return tree


def _grow(tree: Tree, node: Node, *, root: Node, shown: set[str]) -> None:
    """Add the origins of a node below it; `shown` holds the keys of nodes whose origins are in the tree."""
    shown.add(node.key)
    for origin in node.made_from:
        if origin.key in shown:
            tree.add(_terminal_title(origin).append("  as above", style="dim"))
        else:
            _grow(tree.add(_terminal_label(origin, root)), origin, root=root, shown=shown)


def _terminal_title(node: Node) -> Text:
    return Text.assemble((node.title, "bold"), "  ", (node.hash[:HASH], "cyan"))


def _terminal_label(node: Node, root: Node) -> Group:
    """A node's title and its facts, without those equal to the version's."""
    facts = Table.grid(padding=(0, 2, 0, 0))
    for name, value in node.facts.items():
        is_repeated = node is not root and name in SHARED and root.facts.get(name, "").startswith(value)
        if name != "aliases" and not is_repeated:
            line = printable(_line(value))
            style = "red" if "not in" in name else ""
            facts.add_row(Text(f"  {name}", style="dim"), Text(line, style=style))
    title = _terminal_title(node)
    return Group(title, facts) if facts.row_count else Group(title)


def _line(value: Any) -> str:
    """A fact in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_spelled(part)}" for name, part in value.items())
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
