"""A statement holds one thought, and a variable is a noun of its subject: what ruff has no rule for."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("app", "benchmarks", "cli", "deploy", "docs", "flows", "llm", "tasks", "tests")
EMPTY_NAMES = {"each", "found", "said", "place", "known", "taken", "told", "back", "rest", "more", "both", "other"}
NO_SUBJECT = re.compile(r"test_(a|an|the|it|its|this|that|these|they|what|which|who)_")
"""The beginning of a test's name that hides its subject."""
AS_MANY_AS_NEEDED = {
    "command_line",
    "git",
    "run",
    "threestage",
    "Path",
    "joinpath",
    "max",
    "min",
    "chain",
    "zip",
    "partial",
    "union",
    "product",
    "gather",
}
"""Functions whose positional arguments are a list of equals."""
SHAPES = {"view", "reshape", "permute", "expand", "zeros", "ones", "empty", "rand", "randn", "repeat"}
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
OPERATIONS = ast.BinOp | ast.BoolOp | ast.Compare | ast.Call | ast.IfExp


def count(node: ast.AST, kinds: type) -> int:
    """How many nodes of these kinds there are in a node, itself included."""
    return sum(isinstance(part, kinds) for part in ast.walk(node))


def faults_of_call(call: ast.Call) -> Iterator[str]:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if len(call.args) > 3 and name not in AS_MANY_AS_NEEDED | SHAPES:
        yield "more than three positional arguments: name them"
    if any(isinstance(argument, ast.Starred) and isinstance(argument.value, ast.Tuple) for argument in call.args):
        yield "a starred tuple: write the arguments out"


def faults(node: ast.AST) -> Iterator[str]:
    """The reasons why a node must be read twice."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) if name in EMPTY_NAMES:
            yield f"`{name}` says nothing: name the thing"
        case ast.FunctionDef(name=name) if NO_SUBJECT.match(name):
            yield f"`{name}`: begin with the subject"
        case ast.Call():
            yield from faults_of_call(node)
        case ast.Lambda() if count(node.body, OPERATIONS) > 1:
            yield "a lambda of more than one operation: name a function"
        case ast.Assign(targets=[ast.Tuple()], value=ast.GeneratorExp()):
            yield "a tuple unpacked from a generator"
    if isinstance(node, COMPREHENSIONS):
        if count(node, COMPREHENSIONS) > 1:
            yield "a comprehension within a comprehension"
        if isinstance(getattr(node, "elt", None), ast.IfExp):
            yield "a conditional as a comprehension's element"


def faults_of_code(code: str) -> list[str]:
    """Each fault with its line."""
    nodes = ast.walk(ast.parse(code))
    return [f"{getattr(node, 'lineno', 0)}: {fault}" for node in nodes for fault in faults(node)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_code_holds_one_thought_a_statement(folder: str) -> None:
    lines = []
    for path in sorted(ROOT.joinpath(folder).rglob("*.py")):
        lines += [f"{path.relative_to(ROOT)}:{fault}" for fault in faults_of_code(path.read_text(encoding="utf-8"))]
    assert lines == []


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("for each in range(3): pass", "`each` says nothing"),
        ("def test_a_cat_sits(): pass", "begin with the subject"),
        ("f(1, 2, 3, 4)", "three positional"),
        ("f(*(1, 2))", "a starred tuple"),
        ("key = lambda row: len(row) + 1", "a lambda"),
        ("a, b = (f(x) for x in y)", "a tuple unpacked"),
        ("[[x for x in row] for row in rows]", "within a comprehension"),
        ("[1 if x else 2 for x in y]", "a conditional"),
    ],
)
def test_check_names_each_fault(code: str, fault: str) -> None:
    (line,) = faults_of_code(code)
    assert fault in line
