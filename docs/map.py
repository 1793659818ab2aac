"""Write docs/map.md, every package and file with the first sentence of its docstring: `python docs/map.py`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
TOP = ("llm", "tasks", "flows", "app", "cli")
HEAD = """\
# The map

`python docs/map.py` writes this page from the docstrings, and a test checks it. If you are new here, begin with
[the book](book/README.md) or [all of it in one file](../llm/from_scratch.py), then read
[attention](../llm/model/attention.py), [gpt](../llm/model/gpt.py) and [loop](../llm/training/loop.py).

An arrow is an import; imports that follow from other arrows are left out.
"""


def sentence(path: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.partition("\n\n")[0].split())


def packages() -> list[str]:
    """Every package, such as `tasks.data`, below its parent."""
    folders = (path.parent for top in TOP for path in sorted((ROOT / top).rglob("__init__.py")))
    return [".".join(folder.relative_to(ROOT).parts) for folder in folders]


def package_imports(names: list[str]) -> dict[str, set[str]]:
    """The other packages that a package's own files import."""
    graph = grimp.build_graph(*TOP, cache_dir=None)

    def package_of(module: str) -> str:
        return module if module in names else module.rpartition(".")[0]

    imports: dict[str, set[str]] = {name: set() for name in names}
    for module in graph.modules:
        importer = package_of(module)
        imported = {package_of(name) for name in graph.find_modules_directly_imported_by(module)}
        imports[importer] |= {name for name in imported if not f"{importer}.".startswith(f"{name}.")}
    return imports


def reached(imports: dict[str, set[str]], start: str) -> set[str]:
    """Every package that `start` imports, directly or through others."""
    packages: set[str] = set()
    waiting = {start}
    while waiting:
        new = imports[waiting.pop()] - packages
        packages |= new
        waiting |= new
    return packages


def picture(imports: dict[str, set[str]]) -> Iterator[str]:
    """The packages and their imports in Mermaid."""
    yield from ("```mermaid", "flowchart TD")
    for package, imported in imports.items():
        indirect: set[str] = set()
        for name in imported:
            indirect |= reached(imports, name) - {name}
        for name in sorted(imported - indirect):
            yield f"  {package.replace('.', '/')} --> {name.replace('.', '/')}"
    yield "```"


def page() -> str:
    """The page in Markdown."""
    names = packages()
    lines = [HEAD, *picture(package_imports(names)), ""]
    for name in names:
        folder = ROOT.joinpath(*name.split("."))
        package = folder.relative_to(ROOT).as_posix()
        lines += [f"## {package}/", "", sentence(folder / "__init__.py"), ""]
        if files := sorted(path for path in folder.glob("*.py") if path.name != "__init__.py"):
            lines += ["| file | |", "|---|---|"]
            lines += [f"| [{path.name}](../{package}/{path.name}) | {sentence(path)} |" for path in files]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "map.md").write_text(page())
