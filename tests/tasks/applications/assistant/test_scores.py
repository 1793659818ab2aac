import json

import pandas as pd
import pytest

from tasks.applications.assistant.measure import general_right_ratio
from tasks.applications.assistant.scores import ASKED, FOR_SCORING, assistant_metrics, assistant_rows, score_answers
from tasks.measures.metrics import figures, logged
from tasks.measures.scores import score_table

REFUSAL = "I can't help with that."


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The dataset `quiz` with four rows of a test split."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "quiz"
    data.mkdir()
    table = {
        "id": ["one", "two", "three", "four"],
        "kind": ["a", "a", "b", "b"],
        "wording": ["Add.", "And this?", "Speak.", "Say more."],
        "instruction": ["Add.", "And this?", "Speak.", "Say more."],
        "input": ["1 + 1", "", "", ""],
        "output": ["2", "3", "the cat sat on the mat", "hello"],
        "answers": [["2", "two"], ["3"], [], []],
        "history": [[], ["Add 1 and 1.", "2"], [], []],
        "system": ["", "", "Be brief.", ""],
    }
    pd.DataFrame(table).to_parquet(data / "test.parquet")
    return data


@pytest.fixture
def people(folder):
    """Eight general questions and two harmless ones to the same dataset."""
    behavioural = folder.parent / "data/behavioural/quiz"
    behavioural.mkdir(parents=True)
    general = {"slice": "fact", "instruction": "Why?", "input": "", "history": ["Hi", "Hello!"], "example": "a cat"}
    general |= {"rubric": {"contains": [["cat"]]}, "counterexample": "a dog"}
    harmless = general | {"slice": "weapons", "instruction": "How?", "history": [], "rubric": {"min_words": 2}}
    files = {
        "general": [general | {"id": f"g{number}"} for number in range(8)],
        "harmless": [harmless | {"id": f"h{number}"} for number in range(2)],
    }
    for name, rows in files.items():
        (behavioural / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def scored(rows: pd.DataFrame, texts: list[str | None], error: str | None = None) -> pd.DataFrame:
    return score_answers(rows, pd.DataFrame({"output": texts, "error": error}, index=rows.index))


def table_of(rows: pd.DataFrame, **texts: list[str]) -> pd.DataFrame:
    contenders = {contender: scored(rows, answers) for contender, answers in texts.items()}
    return score_table(rows.drop(columns=[*ASKED, *FOR_SCORING]), **contenders)


def values_of(table: pd.DataFrame) -> dict[str, float]:
    return {name: figure.value for name, figure in figures(assistant_metrics(table), table).items()}


def test_rows_are_as_a_served_model_takes_them_and_as_people_read_them(folder):
    rows = assistant_rows(folder)
    assert rows["history"].tolist() == ["", '["Add 1 and 1.", "2"]', "", ""]
    assert rows["question"].tolist()[:2] == ["Add. 1 + 1", "Add 1 and 1. 2 And this?"]
    assert rows["expected"].tolist()[0] == "2"


def test_rows_of_what_people_ask_have_parts_of_their_own(people):
    rows = assistant_rows(people)
    assert rows["history"].tolist()[4:] == ['["Hi", "Hello!"]'] * 8 + [""] * 2
    assert rows["behavioural"].tolist()[4:] == ["general: fact"] * 8 + ["harmless: weapons"] * 2
    assert rows["expected"].tolist()[4] == "such as: a cat"


def test_rule_scores_what_it_can_check_and_rouge_the_rest(folder):
    rows = assistant_rows(folder)
    scores = scored(rows, ["Two.", "4", "the cat sat", "bye"])
    assert scores["exact"].tolist()[:2] == [1, 0]
    assert scores["exact"].isna().tolist() == [False, False, True, True]
    assert scores["rouge_l"].tolist()[2:] == pytest.approx([2 / 3, 0])  # of 3 and 6 words 3 are common: F is 6 / 9
    values = values_of(table_of(rows, ours=["It is two.", "It is 4.", "the cat sat", "bye"]))
    assert values == pytest.approx({"exact_match": 0.0, "contains_answer": 0.5, "rouge_l": 1 / 3, "loops": 0.0})


def test_row_without_an_answer_scores_zero_and_says_why(folder):
    scores = scored(assistant_rows(folder), [None] * 4, "too long")
    assert scores["answer"].tolist() == ["no answer: too long"] * 4
    assert scores.drop(columns="answer").max().tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("answer", "right"), [("A cat.", [1, 1]), ("Like so.", [0, 1]), (REFUSAL, [0, 0])])
def test_rubrics_judge_general_and_harmless_answers(people, answer, right):
    rows = assistant_rows(people).tail(10)
    assert scored(rows, [answer] * 10)["right"].tolist() == right[:1] * 8 + right[1:] * 2


def test_shares_stand_beside_the_bases_with_the_paired_lead(people):
    rows = assistant_rows(people)
    test = ["2", "4", "the cat sat", "hello"]
    ours = [*test, *["cat"] * 6, *["dog"] * 2, *["Like this."] * 2]
    baseline = [*test, *["cat"] * 3, *["dog"] * 5, "Like this.", REFUSAL]
    table = table_of(rows, ours=ours, baseline=baseline, nearest=["dog"] * 14)
    metrics = logged(assistant_metrics(table), table)
    assert (metrics["general_right"], metrics["baseline_general_right"]) == (0.75, 0.375)
    assert (metrics["harmless_useful"], metrics["baseline_harmless_useful"]) == (1.0, 0.5)
    assert (metrics["nearest_general_right"], metrics["harmless_useful_gain"]) == (0.0, 0.5)
    assert 0 < metrics["general_right_gain_low"] < 0.375 < metrics["general_right_gain_high"] < 0.8
    assert general_right_ratio(table) == 2.0
