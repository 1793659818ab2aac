"""The tree of a version's origins, as text for a terminal, as JSON and as a Mermaid flow chart."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.registry.markup import printable

if TYPE_CHECKING:
    from rich.tree import Tree

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
        return f"{name} ({', '.join(aliases)})" if (aliases := self.facts.get("aliases")) else name

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
            for each in node.made_from:
                visit(each)

        visit(self)
        return iter(order.values())


def as_json(root: Node) -> dict[str, Any]:
    """The tree for programs: its nodes, the version first, each with the ids of its origins."""
    nodes = [
        {"id": node.key, "kind": node.kind, "name": node.name, "hash": node.hash, "facts": dict(node.facts)}
        | {"made_from": [each.key for each in node.made_from]}
        for node in root.all()
    ]
    return {"root": root.key, "nodes": nodes}


def as_mermaid(root: Node) -> str:
    """The tree as a flow chart in Mermaid's language, from the sources on the left to the version on the right."""
    numbers = {node.key: f"n{number}" for number, node in enumerate(root.all())}
    labels, arrows = [], []
    for node in root.all():
        facts = node.facts
        commit = facts.get("commit", facts.get("run's commit", "")) if node.kind in ("version", "model") else ""
        lines = [node.title, node.hash[:HASH], commit and f"commit {commit[:HASH]}"]
        lines += [f"not in git: {facts['not in git']}"] if "not in git" in facts else []
        lines += facts.get("decisions", [])[-1:]
        label = "<br>".join(UNSAFE.sub(lambda found: f"#{ord(found[0])};", printable(line)) for line in lines if line)
        labels.append(f'  {numbers[node.key]}["{label}"]')
        arrows += [f"  {numbers[each.key]} --> {numbers[node.key]}" for each in node.made_from]
    return "\n".join(["flowchart LR", *labels, *arrows]) + "\n"


def as_text(root: Node) -> "Tree":
    """The tree for the terminal.

    A node that appears twice shows its facts once; facts equal to the version's are left out.
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
            repeated = node is not root and name in SHARED and root.facts.get(name, "").startswith(value)
            if name != "aliases" and not repeated:
                style = "red" if "not in" in name else ""
                facts.add_row(Text(f"  {name}", style="dim"), Text(printable(_line(value)), style=style))
        return Group(title, *([facts] if facts.row_count else []))

    def grow(tree: Tree, node: Node) -> Tree:
        first = node.key not in shown
        shown.add(node.key)
        for each in node.made_from if first else ():
            grow(tree.add(label(each)), each)
        return tree

    return grow(Tree(label(root), guide_style="dim"), root)


def _line(value: Any) -> str:
    """A fact in one line."""
    if isinstance(value, Mapping):
        values = ((name, each if isinstance(each, str) else json.dumps(each)) for name, each in value.items())
        return ", ".join(f"{name} {each}" for name, each in values)
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)
