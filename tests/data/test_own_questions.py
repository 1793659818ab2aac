"""The conversations in data/: what the assistant learns from, what its recipe is chosen by, and its tests."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from paraphrases import paraphrases

from tasks.applications.assistant.rubrics import Question, failures

DATA = Path(__file__).parents[2] / "data"
QUESTIONS = {name: DATA / f"behavioural/instructions/{name}.jsonl" for name in ("general", "harmless", "validation")}
LEARNED = {
    file.stem: file
    for file in (*sorted(DATA.glob("*-answers.jsonl")), DATA / "first-words.jsonl", DATA / "replay.jsonl")
}
REQUESTS = {name: DATA / f"behavioural/requests/{name}.jsonl" for name in ("everyday", "harmful", "tricky")}
GUARDED = {"general": "everyday", "harmless": "tricky"}
"""The assistant's questions that test the guard, too."""
GUARD = {name: DATA / f"{name}.jsonl" for name in ("requests", "more-requests")}
"""What the guard learns from; it is also tested on a part of the first."""
FILES = QUESTIONS | LEARNED | REQUESTS | GUARD
TESTS = ("general", "harmless")


def read_rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


ROWS = {name: [json.loads(line) for line in file.read_text().splitlines()] for name, file in FILES.items()}
RUN = 6  # words


def rows_of(names):
    return [row for name in names for row in ROWS[name]]


def asked(row):
    if "request" in row:
        return row["request"]
    return "\n".join([*row.get("history", []), row["instruction"], row.get("input", "")])


def words(text):
    return re.findall(r"\w+", text.lower())


def runs(text):
    text_words = words(text)
    return {" ".join(text_words[start : start + RUN]) for start in range(len(text_words) - RUN + 1)}


@pytest.mark.parametrize(("tested", "learned"), [(QUESTIONS, LEARNED), (REQUESTS, GUARD), (TESTS, ["validation"])])
def test_learned_rows_paraphrase_no_tested_row(tested, learned):
    """Delete the row that is learned from, never the one that is tested on."""
    tested_texts = list(map(asked, rows_of(tested)))
    learned_texts = list(map(asked, rows_of(learned)))
    pairs = paraphrases(tested_texts, learned_texts)
    assert [(tested_texts[pair.tested], learned_texts[pair.learned]) for pair in pairs] == []


def test_learned_requests_of_the_guard_are_in_one_file_each():
    requests = [row["request"].lower() for row in rows_of(GUARD)]
    assert len(set(requests)) == len(requests)


@pytest.mark.parametrize("name", list(FILES))
def test_questions_are_unique(name):
    questions = pd.DataFrame(ROWS[name]).reindex(columns=["request", "instruction", "input", "history", "system"])
    assert not questions.fillna("").astype(str).apply("\n".join, axis=1).str.lower().duplicated().any()


@pytest.mark.parametrize("name", list(GUARDED))
def test_guard_and_assistant_are_tested_on_the_same_requests(name):
    guarded = ROWS[GUARDED[name]]
    assert [(row["id"], row["label"]) for row in guarded] == [(row["id"], "answer") for row in ROWS[name]]
    turns = [[*row.get("history", [])[0::2], asked(row | {"history": []}).strip()] for row in ROWS[name]]
    assert [row["request"] for row in guarded] == ["\n".join(texts) for texts in turns]


def test_rubrics_pass_validations_examples_and_fail_its_counterexamples():
    for row in map(Question.model_validate, ROWS["validation"]):
        assert failures(row.rubric, row.example) == [], row.id
        assert failures(row.rubric, row.counterexample), row.id


@pytest.mark.parametrize(("names", "count"), [(TESTS, 300), (["validation"], 90), (REQUESTS, 360)])
def test_behavioural_rows_have_unique_names(names, count):
    assert len({row["id"] for row in rows_of(names)}) == len(rows_of(names)) == count


def test_instructions_mails_and_first_words_contain_no_test_question():
    files = [*DATA.glob("*.jsonl"), DATA / "instructions/train.jsonl"]
    lines = [line for file in files for line in file.read_text().splitlines()]
    learned_runs = set().union(*(runs(line.replace("\\n", " ")) for line in lines))
    rows = [json.loads(line) for line in lines]
    learned = {" ".join(words(asked(row))) for row in rows if "instruction" in row}
    for row in rows_of(TESTS):
        assert " ".join(words(asked(row))) not in learned
        cells = [*row.get("history", []), row["instruction"], row.get("input", "")]
        assert not set().union(*map(runs, cells)) & learned_runs, row["id"]
