"""The instruction rows in data/instructions: right, of every kind, and worded otherwise where they test."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from tasks.data import instructions
from tasks.data.findings import Findings
from tasks.data.splits import SPLITS

FOLDER = Path(__file__).parents[2] / "data/instructions"
ROWS = {name: [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()] for name in SPLITS}
EVERY = [row for name in SPLITS for row in ROWS[name]]


def number_list(text):
    return [int(number) for number in re.findall(r"-?\d+", text)]


def test_rows_can_be_read_and_their_ids_are_unique():
    findings = Findings()
    table = instructions.read(FOLDER, instructions.Params(), findings)
    findings.raise_problems()
    assert len(table) == len(EVERY)
    assert table["id"].is_unique


def test_every_kind_that_is_tested_is_learned():
    learned = {row["kind"] for row in ROWS["train"]}
    tested = {row["kind"] for row in ROWS["test"]}
    assert tested | {row["kind"] for row in ROWS["validation"]} <= learned
    assert len(tested) > 50


def questions(name):
    """What a split asks, but for talk: the same question with another history is another."""
    return {(row["instruction"], row.get("input", "")) for row in ROWS[name] if "history" not in row}


def wordings(name):
    return {(row["kind"], row["wording"]) for row in ROWS[name]}


def test_wordings_and_questions_of_a_tested_split_are_in_no_other():
    assert not wordings("validation") & wordings("test")
    for left, right in combinations(SPLITS, 2):
        assert not questions(left) & questions(right)
    for row in ROWS["validation"] + ROWS["test"]:
        start = re.split(r"\{|\n", row["wording"])[0].strip()
        assert start in row["instruction"], row["id"]


def test_output_is_the_first_right_answer_and_no_field_is_left_open():
    for row in EVERY:
        assert "answers" not in row or row["answers"][0] == row["output"], row["id"]
        texts = [row["instruction"], row.get("input", ""), row["output"]]
        assert not re.search(r"\{[a-z_]+\}", "\n".join(texts)), row["id"]


@pytest.mark.parametrize(("kind", "reverse"), [("sort_numbers", False), ("sort_numbers_down", True)])
def test_sorted_numbers_are_sorted(kind, reverse):
    rows = [row for row in EVERY if row["kind"] == kind]
    assert rows
    for row in rows:
        asked = number_list(row["id"].partition(": ")[2])
        assert number_list(row["output"]) == sorted(asked, reverse=reverse), row["id"]


def test_products_words_and_json_are_right():
    for row in EVERY:
        if row["kind"] == "multiplication":
            left, right = number_list(row["id"])[:2]
            assert str(left * right) in row["answers"], row["id"]
        if row["kind"] == "first_letter":
            assert row["id"].partition(": ")[2][0].upper() in row["answers"], row["id"]
        if row["kind"] == "json_object":
            assert isinstance(json.loads(row["output"]), dict), row["id"]
        if row["kind"] == "capital_letters":
            assert any(answer.isupper() for answer in row["answers"]), row["id"]
