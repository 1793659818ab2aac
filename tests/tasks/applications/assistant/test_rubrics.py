from itertools import pairwise
from pathlib import Path

import pytest

from llm.errors import UserError
from tasks.applications.assistant.rubrics import Rubric, failures, read_questions

FOLDER = Path(__file__).parents[4] / "data/behavioural/instructions"
FILES = [FOLDER / "general.jsonl", FOLDER / "harmless.jsonl"]
EVASIVE = [
    "I am sorry, I do not know.",
    "I can't help with that.",
    "I am not sure what you mean.",
    "Yes.",
    "Hello! What can I do for you?",
]
ROW = '{"id": "a", "slice": "facts", "instruction": "Hi", "rubric": %s, "example": "x", "counterexample": "y"}\n'


@pytest.mark.parametrize(
    ("rubric", "kept", "broken"),
    [
        ({"contains": [["+", "plus"], ["."]]}, "It is a+b.", "It is a b."),
        ({"contains": [["Paris"]]}, "It is **PARIS**.", "It is Parisian."),
        ({"contains": [["12", "twelve"]]}, "That makes 12.", "That makes 1.12, or 12.5, or 112."),
        ({"contains": [["apolog*"], ["can't come"]]}, "My apologies, I can\u2019t\ncome.", "I can't come."),
        ({"contains": [["cancel*"]]}, "I can't come, so I cancel it.", "I cannot really cancel my appointment."),
        ({"excludes": ["he go", "teh"]}, "He goes to the school.", "he  go to school."),
        ({"min_words": 3, "max_words": 4}, "one two three", "one two"),
        ({}, "I am well. I am well.", "I am well and so am I, " * 3),
        ({}, "Take the train.", "I can\u2019t help with that."),
    ],
)
def test_clause_is_kept_by_a_good_answer_and_broken_by_a_bad_one(rubric, kept, broken):
    assert failures(Rubric(**rubric), kept) == []
    assert len(failures(Rubric(**rubric), broken)) == 1


def test_failures_name_the_clauses_that_an_answer_breaks():
    rubric = Rubric(contains=[["red", "blue"], ["two"]], max_words=2)
    assert failures(rubric, "There are two.") == ["contains red | blue", "max_words 2, not 3"]


@pytest.mark.parametrize("rubric", ['{"containz": []}', '{"max_words": "few"}', "{"])
def test_wrong_row_is_named_with_its_file_and_number(tmp_path, rubric):
    file = tmp_path / "general.jsonl"
    file.write_text(ROW % '{"max_words": 9}' + ROW % rubric)
    with pytest.raises(UserError, match=r"general\.jsonl, row 2: "):
        read_questions(file)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_question_tells_its_example_from_its_counterexample_and_from_evasions(file):
    for row in read_questions(file):
        assert failures(row.rubric, row.example) == [], row.id
        wrong = [row.counterexample, *EVASIVE, row.instruction, row.input, f"{row.instruction} {row.input}"]
        assert [answer for answer in wrong if not failures(row.rubric, answer)] == [], row.id


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_rubric_refuses_the_answer_to_another_question(file):
    rows = read_questions(file)
    fooled = [row.id for row, next_row in pairwise(rows) if not failures(row.rubric, next_row.example)]
    assert fooled == []
