"""A stage runs again when its code changes, so its deps in dvc.yaml must name every module of ours that it runs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.stage import Stage

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows", "tasks", "llm")
BY_CALL = {("flows/preprocess.py", "_recipe"), ("tasks/lineage.py", "_compute")}
"""Functions whose imports depend on the stage: the stage's process calls them, instead of this test reading them."""
STARTED = """
import importlib, json, os, sys
from pathlib import Path
import mlflow, pandas, prefect  # what all share, once: imports take seconds

def files(module: str, choice: str) -> list[str]:
    entry = importlib.import_module(module)
    if choice:
        from tasks.params import load_params
        entry._recipe(choice, getattr(load_params().preprocess, choice))
    if "torch" in sys.modules:
        from tasks import lineage
        lineage._compute()
    paths = [Path(each.__file__) for each in list(sys.modules.values()) if getattr(each, "__file__", None)]
    return [str(path.relative_to(Path.cwd())) for path in paths if path.is_relative_to(Path.cwd())]

for module, choice in json.loads(sys.argv[1]):
    if os.fork() == 0:
        print(json.dumps(files(module, choice)), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"{module} {choice}")
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

    def visit_Import(self, node: ast.Import) -> None:
        self.modules |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert not node.level, f"{self.path} line {node.lineno}: a relative import"
        self.modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if (self.path, node.name) not in BY_CALL:
            self.generic_visit(node)


def entry(stage: Stage) -> tuple[str, str]:
    """The module that a stage's command runs and, where the imports depend on it, its choice."""
    module, *choice = stage.cmd.removeprefix("exec python -m ").split()
    return module, choice[0] if module == "flows.preprocess" else ""


def closure(files: list[str]) -> set[str]:
    """These files of ours and all that they import, now or while they run."""
    todo = {path for path in files if path.split("/")[0] in PACKAGES}
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
        deps = [{dep.def_path for dep in stage.deps if dep.def_path.endswith(".py")} for stage in stages]
    entries = sorted({entry(stage) for stage in stages})
    command = [sys.executable, "-c", STARTED, json.dumps(entries)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs = {each: closure(json.loads(line)) for each, line in zip(entries, done.stdout.splitlines(), strict=True)}
    return {stage.addressing: (names, runs[entry(stage)]) for stage, names in zip(stages, deps, strict=True)}


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
