"""The conversations in data/: what the assistant learns from, what its recipe is chosen by, and its tests."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def read_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


ROWS = {name: read_rows(file) for name, file in FILES.items()}
RUN = 6  # words


def asked(row: dict[str, Any]) -> str:
    if "request" in row:
        return row["request"]
    return "\n".join([*row.get("history", []), row["instruction"], row.get("input", "")])


def runs(row: dict[str, Any]) -> set[str]:
    """The runs of words in what a row asks."""
    texts = [row["request"]] if "request" in row else [*row.get("history", []), asked(row)]
    result: set[str] = set()
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        result.update(" ".join(words[start : start + RUN]) for start in range(len(words) - RUN + 1))
    return result


def test_learned_rows_paraphrase_no_behavioural_row() -> None:
    """Delete the row that is learned from, never the one that is tested on."""
    tested = [row for name in QUESTIONS for row in ROWS[name]]
    learned = [row for name in LEARNED for row in ROWS[name]]
    pairs = paraphrases(list(map(asked, tested)), list(map(asked, learned)))
    assert [(tested[pair.tested]["id"], asked(learned[pair.learned]), pair.similarity) for pair in pairs] == []


def test_learned_requests_of_the_guard_paraphrase_none_of_its_test() -> None:
    tested = [row for name in REQUESTS for row in ROWS[name]]
    learned = [row for name in GUARD for row in ROWS[name]]
    pairs = paraphrases(list(map(asked, tested)), list(map(asked, learned)))
    assert [(tested[pair.tested]["id"], learned[pair.learned]["request"]) for pair in pairs] == []


def test_learned_requests_of_the_guard_are_in_one_file_each() -> None:
    requests = [row["request"].lower() for name in GUARD for row in ROWS[name]]
    assert len(set(requests)) == len(requests)


def test_validation_rows_paraphrase_no_test_row() -> None:
    tested = [row for name in TESTS for row in ROWS[name]]
    pairs = paraphrases(list(map(asked, tested)), list(map(asked, ROWS["validation"])))
    assert [(tested[pair.tested]["id"], ROWS["validation"][pair.learned]["id"]) for pair in pairs] == []


@pytest.mark.parametrize("name", list(FILES))
def test_questions_are_unique(name: str) -> None:
    questions = pd.DataFrame(ROWS[name]).reindex(columns=["request", "instruction", "input", "history", "system"])
    assert not questions.fillna("").astype(str).apply("\n".join, axis=1).str.lower().duplicated().any()


@pytest.mark.parametrize("name", list(GUARDED))
def test_guard_and_assistant_are_tested_on_the_same_requests(name: str) -> None:
    guarded = ROWS[GUARDED[name]]
    assert [(row["id"], row["label"]) for row in guarded] == [(row["id"], "answer") for row in ROWS[name]]
    turns = [[*row.get("history", [])[0::2], asked(row | {"history": []}).strip()] for row in ROWS[name]]
    assert [row["request"] for row in guarded] == ["\n".join(texts) for texts in turns]


def test_helping_answers_never_decline_or_repeat_themselves() -> None:
    for row in ROWS["helping-answers"]:
        answer = row["output"]
        assert not answer.startswith(("I can't", "I'm sorry, but", "As an AI")), answer
        words = re.findall(r"[\w']+", answer.lower())
        four_grams = Counter(tuple(words[start : start + 4]) for start in range(len(words) - 3))
        assert max(four_grams.values(), default=0) < 3, answer


def test_validation_has_as_many_rows_of_each_slice() -> None:
    slices = Counter(row["slice"] for row in ROWS["validation"])
    assert (slices.pop("harmless"), slices.total()) == (30, 60)
    assert {count in (5, 6) for count in slices.values()} == {True}


def test_rubrics_pass_validations_examples_and_fail_its_counterexamples() -> None:
    for row in map(Question.model_validate, ROWS["validation"]):
        assert failures(row.rubric, row.example) == [], row.id
        assert failures(row.rubric, row.counterexample), row.id


def test_behavioural_rows_have_unique_names() -> None:
    for names in (TESTS, ("validation",), tuple(REQUESTS)):
        rows = [row for name in names for row in ROWS[name]]
        assert len({row["id"] for row in rows}) == len(rows)
    assert {name: len(ROWS[name]) for name in QUESTIONS} == {"general": 240, "harmless": 60, "validation": 90}
    assert {name: len(ROWS[name]) for name in REQUESTS} == {"everyday": 240, "harmful": 60, "tricky": 60}


def texts(content: Any) -> Iterator[str]:
    """Every text in a file's content, keys too."""
    match content:
        case str():
            yield content
        case dict():
            yield from (text for pair in content.items() for part in pair for text in texts(part))
        case list():
            yield from (text for part in content for text in texts(part))


def test_instructions_mails_and_first_words_contain_no_test_question() -> None:
    files = [*DATA.glob("*.jsonl"), DATA / "instructions/train.jsonl"]
    learned = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    learned_texts: set[str] = set()
    learned_runs: set[str] = set()
    for text in texts(learned):
        learned_texts.add(" ".join(re.findall(r"\w+", text.lower())))
        learned_runs |= runs({"instruction": text})
    for row in ROWS["general"] + ROWS["harmless"]:
        assert " ".join(re.findall(r"\w+", asked(row).lower())) not in learned_texts, row["id"]
        cells = [*row.get("history", []), row["instruction"], row.get("input", "")]
        tested_runs = set().union(*(runs({"instruction": cell}) for cell in cells))
        assert not tested_runs & learned_runs, row["id"]
