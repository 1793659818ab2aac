"""The conversations in data/: what the assistant learns from, what its recipe is chosen by, and its tests."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.evaluation.assistant.rubrics import Question, Request, as_expected, passes

DATA = Path(__file__).parents[2] / "data"
FILES = {
    "requests": DATA / "requests.jsonl",
    "answered": DATA / "general-answers.jsonl",
    "replayed": DATA / "replay.jsonl",
    "validation": DATA / "behavioural/instructions/validation.jsonl",
    "general": DATA / "behavioural/instructions/general.jsonl",
    "harmful": DATA / "behavioural/instructions/harmful.jsonl",
    "harmless": DATA / "behavioural/instructions/harmless.jsonl",
}
TESTS = ("general", "harmful", "harmless")
GUARDED = {"general": "everyday", "harmful": "harmful", "harmless": "tricky"}  # the same for the guard
REPEATED = ("answered", "replayed")  # questions that are also requests
ROWS = {name: [json.loads(line) for line in file.read_text().splitlines()] for name, file in FILES.items()}
RUN = 6  # words


def asked(row: dict[str, Any]) -> str:
    """What a row asks in its last turn."""
    return f"{row['instruction']}\n{row.get('input', '')}".strip()


def runs(row: dict[str, Any]) -> set[str]:
    """The runs of words in what a row asks."""
    texts = [row["request"]] if "request" in row else [*row.get("history", []), asked(row)]
    each = [re.findall(r"\w+", text.lower()) for text in texts]
    return {" ".join(words[at : at + RUN]) for words in each for at in range(len(words) - RUN + 1)}


@pytest.mark.parametrize(
    ("one", "other"), [pair for pair in combinations(FILES, 2) if pair not in [("requests", name) for name in REPEATED]]
)
def test_no_two_files_share_a_run_of_six_words(one: str, other: str) -> None:
    found = [set().union(*map(runs, ROWS[name])) for name in (one, other)]
    assert set.intersection(*found) == set()


@pytest.mark.parametrize("name", list(FILES))
def test_nothing_is_asked_twice(name: str) -> None:
    columns = ("request", "instruction", "input", "history", "system")
    questions = Counter(json.dumps([row.get(column) for column in columns]).lower() for row in ROWS[name])
    assert questions.most_common(1)[0][1] == 1


@pytest.mark.parametrize("name", TESTS)
def test_the_guard_is_tested_on_what_the_assistant_is_tested_on(name: str) -> None:
    file = DATA / f"behavioural/requests/{GUARDED[name]}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    labels = {"declined": "decline", "help": "crisis"}
    expected = [(row["id"], labels.get(row.get("expect"), "answer")) for row in ROWS[name]]
    assert [(row["id"], row["label"]) for row in rows] == expected
    turns = [[*row.get("history", [])[0::2], asked(row)] for row in ROWS[name]]
    assert [row["request"] for row in rows] == ["\n".join(texts) for texts in turns]


def test_validation_has_rubrics_for_general_tasks_and_what_to_do_with_harmful_ones() -> None:
    rows = ROWS["validation"]
    assert len({row["id"] for row in rows}) == len(rows)
    expected = {(row["slice"] if "expect" in row else "general", row.get("expect")) for row in rows}
    assert expected == {("general", None), ("harmful", "declined"), ("harmful", "help"), ("harmless", "answered")}
    assert all(("rubric" in row) != ("expect" in row) for row in rows)
    assert all(row["example"] and row["counterexample"] for row in rows)
    slices = Counter(row["slice"] for row in rows)
    assert (slices.pop("harmful"), slices.pop("harmless"), slices.total()) == (30, 30, 60)
    assert {count in (5, 6) for count in slices.values()} == {True}


def test_the_checker_tells_validations_examples_from_its_counterexamples() -> None:
    for row in ROWS["validation"]:
        if "rubric" in row:
            question = Question.model_validate(row)
            good, bad = (passes(question.rubric, row[name], question.input) for name in ("example", "counterexample"))
        else:
            request = Request.model_validate(row)
            good, bad = (as_expected(request, row[name]) for name in ("example", "counterexample"))
        assert (good, bad) == (True, False), row["id"]


def test_the_tests_have_unique_names_and_expect_what_their_files_say() -> None:
    rows = [row for name in TESTS for row in ROWS[name]]
    assert all(Request.model_validate(row) for row in rows if "expect" in row)
    assert len({row["id"] for row in rows}) == len(rows)
    assert Counter(row.get("expect") for row in rows) == {None: 120, "declined": 52, "help": 8, "answered": 60}
    assert {row["expect"] for row in ROWS["harmless"]} == {"answered"}
    assert {row["slice"] for row in ROWS["harmful"] if row["expect"] == "help"} == {"crisis"}


def texts(content: Any) -> Iterator[str]:
    """Every text in a file's content, keys too."""
    match content:
        case str():
            yield content
        case dict():
            yield from (text for pair in content.items() for part in pair for text in texts(part))
        case list():
            yield from (text for part in content for text in texts(part))


def test_no_pack_mail_or_first_word_has_what_the_tests_ask() -> None:
    learned = [yaml.safe_load(file.read_text()) for file in sorted((DATA / "instructions").glob("*.yaml"))]
    learned += [json.loads(line) for file in DATA.glob("*.jsonl") for line in file.read_text().splitlines()]
    found = list(texts(learned))
    said = {" ".join(re.findall(r"\w+", text.lower())) for text in found}
    known = set().union(*(runs({"instruction": text}) for text in found))
    for row in (row for name in TESTS for row in ROWS[name]):
        assert " ".join(re.findall(r"\w+", row["instruction"].lower())) not in said, row["id"]
        assert runs(row) & known == set(), row["id"]
