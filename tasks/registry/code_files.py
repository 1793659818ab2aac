"""The code and parameters that make models, as git knows them, and the new files among them that it does not know.

A folder may hold other new files: notes, scratch code, tokens. They make no model and go nowhere.
"""

import ast
from collections.abc import Iterator
from pathlib import Path, PurePath

from tasks.registry.git import git_output
from tasks.stages.hashes import as_hashes, locked_stages

DATA = ("params.yaml", "dvc.yaml")
CODE = (
    "*.py",
    "*.[ch]",
    "pyproject.toml",
    "data/behavioural",
    "data/*.jsonl",
    "data/*.yaml",
    ":(exclude)tests",
    ":(exclude)benchmarks",
)


def file_names(listed: bytes | None) -> list[str]:
    """The names in git's output with `-z`, sorted."""
    return sorted(name.decode(errors="surrogateescape") for name in (listed or b"").split(b"\0") if name)


def new_code() -> list[str]:
    """The untracked files that make models: deps of stages in dvc.lock, and modules that other code here imports."""
    untracked = set(file_names(git_output("ls-files --others --exclude-standard -z --", *DATA, *CODE)))
    if not untracked:
        return []
    deps = {path for stage in locked_stages().values() for path in as_hashes(stage).deps}
    used = {path for path in untracked if path in DATA or _is_below(path, deps)}
    queue = [*file_names(git_output("ls-files -z --", *CODE)), *used]
    while queue:
        imported = _imported_files(Path(queue.pop()), untracked - used)
        used |= imported
        queue += imported
    return sorted(used)


def _is_below(path: str, deps: set[str]) -> bool:
    """Whether a path is one of these deps, or in one of them."""
    return path in deps or any(str(folder) in deps for folder in PurePath(path).parents)


def _imported_files(file: Path, among: set[str]) -> set[str]:
    """The files, of those in `among`, that a Python file imports by name."""
    if file.suffix != ".py" or not file.exists():
        return set()
    source = file.read_bytes()
    names = [_module(path)[-1].encode(errors="surrogateescape") for path in among]
    if not any(name in source for name in names):  # parsing all code takes a second
        return set()
    try:
        modules = set(_imports(ast.parse(source), file.parent.parts))
    except (SyntaxError, ValueError):  # nothing can import it, either
        return set()
    return {path for path in among if _module(path) in modules}


def _module(path: str) -> tuple[str, ...]:
    """The parts of a file's module name; a package is its `__init__.py`."""
    parts = PurePath(path).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


def _imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The modules that code in a package may import, with the packages that they are in."""
    for node in ast.walk(tree):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = (*above, *node.module.split(".")) if node.module else above
            names = [(*base, alias.name) for alias in node.names]
        for name in names:
            yield from (name[:length] for length in range(1, len(name) + 1))
