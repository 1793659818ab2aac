"""The tree of a version's origins, as text."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.text import Text
from rich.tree import Tree

from tasks.registry.markup import printable

WIDTH = 200  # columns of the tree in a file
HASH = 12  # characters of a hash that people see


@dataclass(frozen=True)
class Node:
    """A version, or something that it was made from."""

    kind: str
    """`version`, `model`, `weights`, `dataset`, `raw data`, `inbox` or `source`."""
    name: str
    hash: str
    """DVC's MD5 of its bytes; the SHA-256 of a source. Empty where it is not recorded."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """In reading order."""
    made_from: tuple["Node", ...] = ()

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.name if self.kind in ("version", "source") else f"{self.kind} {self.name}"


def as_text(root: Node) -> Tree:
    """The tree for the terminal. A node that appears twice shows its facts and origins once."""
    tree = Tree(_label(root), guide_style="dim")
    _grow(tree, root, shown=set())
    return tree


def as_file(root: Node) -> str:
    """The tree as a text file."""
    file = io.StringIO()
    Console(width=WIDTH, file=file).print(as_text(root))
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    return "\n".join(lines) + "\n"


def _grow(tree: Tree, node: Node, *, shown: set[tuple[str, str]]) -> None:
    """Add the origins of a node below it; `shown` holds titles and hashes of nodes that are in the tree."""
    shown.add((node.title, node.hash))
    for origin in node.made_from:
        if (origin.title, origin.hash) in shown:
            tree.add(_title(origin).append("  as above", style="dim"))
        else:
            _grow(tree.add(_label(origin)), origin, shown=shown)


def _title(node: Node) -> Text:
    return Text.assemble((node.title, "bold"), "  ", (node.hash[:HASH], "cyan"))


def _label(node: Node) -> Group:
    """A node's title, and a line for each fact."""
    lines = [_title(node)]
    for name, value in node.facts.items():
        style = "red" if "not in" in name else ""
        lines.append(Text.assemble((f"  {name}  ", "dim"), (printable(value), style)))
    return Group(*lines)
