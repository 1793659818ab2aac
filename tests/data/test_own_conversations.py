"""The conversations in data/: what the assistant learns from, and what its recipe is chosen by."""

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[2] / "data"
FILES = {
    "declined": DATA / "safe-answers.jsonl",
    "answered": DATA / "general-answers.jsonl",
    "replayed": DATA / "replay.jsonl",
    "validation": DATA / "behavioural/instructions/validation.jsonl",
}
ROWS = {name: [json.loads(line) for line in file.read_text().splitlines()] for name, file in FILES.items()}
RUN = 6  # words


def runs(row: dict[str, Any]) -> set[str]:
    """The runs of words in what a row asks."""
    texts = [*row.get("history", []), f"{row['instruction']}\n{row.get('input', '')}"]
    each = [re.findall(r"\w+", text.lower()) for text in texts]
    return {" ".join(words[at : at + RUN]) for words in each for at in range(len(words) - RUN + 1)}


@pytest.mark.parametrize(("one", "other"), list(combinations(FILES, 2)))
def test_no_two_files_share_a_run_of_six_words(one: str, other: str) -> None:
    found = [set().union(*map(runs, ROWS[name])) for name in (one, other)]
    assert set.intersection(*found) == set()


@pytest.mark.parametrize("name", list(FILES))
def test_nothing_is_asked_twice(name: str) -> None:
    asked = Counter(
        json.dumps([row["instruction"].lower(), row.get("input"), row.get("history"), row.get("system")])
        for row in ROWS[name]
    )
    assert asked.most_common(1)[0][1] == 1


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
