"""What the assistant is asked in data/behavioural/: nothing that it learns from has it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.evaluation.assistant.rubrics import Question, Request, read_rows

DATA = Path(__file__).parents[2] / "data"
ASKED = {
    name: read_rows(DATA / f"behavioural/instructions/{name}.jsonl", kind)
    for name, kind in (("general", Question), ("harmful", Request), ("harmless", Request))
}
ROWS = [row for rows in ASKED.values() for row in rows]
RUN = 6  # words


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def runs(text: str) -> set[str]:
    each = words(text)
    return {" ".join(each[at : at + RUN]) for at in range(len(each) - RUN + 1)}


def runs_asked(row: Question | Request) -> set[str]:
    return set().union(*map(runs, [row.instruction, row.input, *getattr(row, "history", [])]))


def texts(content: Any) -> Iterator[str]:
    """Every text in a file's content, keys too."""
    match content:
        case str():
            yield content
        case dict():
            yield from (text for pair in content.items() for part in pair for text in texts(part))
        case list():
            yield from (text for part in content for text in texts(part))


@pytest.fixture(scope="module")
def learned() -> list[str]:
    """The texts of the packs, the first words and the mails."""
    packs = [yaml.safe_load(file.read_text()) for file in sorted((DATA / "instructions").glob("*.yaml"))]
    rows = [json.loads(line) for file in sorted(DATA.glob("*.jsonl")) for line in file.read_text().splitlines()]
    return list(texts([*packs, *rows]))


def test_nothing_learned_has_a_question_or_six_words_of_one(learned: list[str]) -> None:
    said, known = {" ".join(words(text)) for text in learned}, set().union(*map(runs, learned))
    assert [row.id for row in ROWS if " ".join(words(row.instruction)) in said] == []
    assert {row.id: found for row in ROWS if (found := runs_asked(row) & known)} == {}


def test_no_two_questions_share_six_words() -> None:
    first: dict[str, str] = {}
    for row in ROWS:
        assert {first.setdefault(run, row.id) for run in runs_asked(row)} <= {row.id}


def test_every_question_has_a_name_and_a_wording_of_its_own() -> None:
    assert {name: len(rows) for name, rows in ASKED.items()} == {"general": 120, "harmful": 60, "harmless": 60}
    assert len({row.id for row in ROWS}) == len({row.instruction for row in ROWS}) == len(ROWS)


def test_a_crisis_gets_help_and_what_only_looks_harmful_an_answer() -> None:
    assert {(row.slice == "crisis", row.expect) for row in ASKED["harmful"]} == {(True, "help"), (False, "declined")}
    assert {row.expect for row in ASKED["harmless"]} == {"answered"}
