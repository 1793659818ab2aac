"""A stage runs again when its code changes, so its deps in dvc.yaml must name every module of ours that it runs."""

import ast
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.stage import Stage

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows", "tasks", "llm")
BY_CALL = {("flows/preprocess.py", "_recipe"), ("tasks/lineage.py", "_compute")}
"""Functions whose imports depend on the stage: the stage's process calls them, instead of this test reading them."""
STARTED = """
import importlib, json, sys
from pathlib import Path
module, choice = sys.argv[1:]
entry = importlib.import_module(module)
if choice:
    from tasks.params import load_params
    values = getattr(load_params(), module.removeprefix("flows."))
    if module == "flows.preprocess":
        entry._recipe(choice, getattr(values, choice))
if "torch" in sys.modules:
    from tasks import lineage
    lineage._compute()
files = {getattr(module, "__file__", None) for module in list(sys.modules.values())} - {None}
print(json.dumps([file for file in files if Path(file).is_relative_to(Path.cwd())]))
"""


def file_of(module: str) -> str | None:
    """The path of a module of ours, from the root; a package alone is none."""
    path = Path(*module.split(".")).with_suffix(".py")
    return str(path) if module.split(".")[0] in PACKAGES and (ROOT / path).is_file() else None


class Imports(ast.NodeVisitor):
    """Every import of a file wherever it stands: at the top or in a function, but not for type checkers."""

    def __init__(self, path: str) -> None:
        self.path, self.modules = path, set()
        self.visit(ast.parse((ROOT / path).read_text()))

    def visit_Import(self, node: ast.Import) -> None:  # noqa: N802
        self.modules |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:  # noqa: N802
        assert not node.level, f"{self.path} line {node.lineno}: a relative import"
        self.modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}

    def visit_If(self, node: ast.If) -> None:  # noqa: N802
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:  # noqa: N802
        if (self.path, node.name) not in BY_CALL:
            self.generic_visit(node)


def imported(stage: Stage) -> set[str]:
    """The files of ours that a stage's command imports, now or while it runs."""
    module, *choice = stage.cmd.removeprefix("exec python -m ").split()
    command = [sys.executable, "-c", STARTED, module, *(choice or [""])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {str(Path(file).relative_to(ROOT)) for file in json.loads(done.stdout)}
    todo = {path for path in found if path.split("/")[0] in PACKAGES}
    closed: set[str] = set()
    while todo:
        closed |= todo
        todo = {path for file in todo for name in Imports(file).modules if (path := file_of(name))} - closed
    return {path for path in closed if not path.endswith("__init__.py")}


@pytest.fixture(scope="module")
def code() -> dict[str, tuple[set[str], set[str]]]:
    """For each stage the code that its deps name, and the code that it imports."""
    with Repo(str(ROOT)) as repo:
        stages = list(repo.index.stages)
        names = [stage.addressing for stage in stages]
        deps = [{dep.def_path for dep in stage.deps if dep.def_path.endswith(".py")} for stage in stages]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, zip(deps, pool.map(imported, stages), strict=True), strict=True))


def test_every_stage_names_all_the_code_that_it_runs_and_no_other(code):
    assert len(code) == 12
    missing = {name: sorted(runs - deps) for name, (deps, runs) in code.items() if runs - deps}
    superfluous = {name: sorted(deps - runs) for name, (deps, runs) in code.items() if deps - runs}
    assert (missing, superfluous) == ({}, {}), "add the missing to dvc.yaml, take out the superfluous"


def test_a_dataset_does_not_depend_on_what_reads_another(code):
    for dataset in ("corpus", "emails", "instructions"):
        own = {f"tasks/{name}.py" for name in ("corpus", "emails", "instructions")} & code[f"preprocess@{dataset}"][1]
        assert own == {f"tasks/{dataset}.py"}


def test_a_stage_command_leaves_no_shell_between_dvc_and_itself():
    with Repo(str(ROOT)) as repo:
        commands = [stage.cmd for stage in repo.index.stages]
    assert all(command.startswith("exec python -m flows.") for command in commands)
