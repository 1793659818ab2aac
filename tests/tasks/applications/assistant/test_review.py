import json

import pandas as pd
import pytest

from tasks.applications.assistant import behaviour
from tasks.applications.assistant.measure import COLUMNS, OTHERS, write_evidence
from tasks.applications.assistant.review import evidence, measure, rows, score
from tasks.review.metrics import metrics_of


@pytest.fixture
def asked(tmp_path) -> pd.DataFrame:
    table = pd.DataFrame(
        {
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
    )
    table.to_parquet(tmp_path / "test.parquet")
    return rows(tmp_path)


def test_rows_are_as_a_served_model_takes_them_and_as_people_read_them(asked):
    assert asked["history"].tolist() == ["", '["Add 1 and 1.", "2"]', "", ""]
    assert asked["text"].tolist()[:2] == ["Add. 1 + 1", "Add 1 and 1. 2 And this?"]
    assert asked["expected"].tolist()[0] == "2"


def test_a_rule_checks_what_it_can_and_the_others_have_rouge(asked):
    answers = pd.DataFrame({"output": ["Two.", "4", "the cat sat", None], "error": [None, None, None, "too long"]})
    found = score(asked, answers)
    assert found["score"].tolist() == pytest.approx([1, 0, 2 / 3, 0])  # of 3 and 6 words 3 are common: F is 6 / 9
    assert found["answer"].tolist() == ["Two.", "4", "the cat sat", "no answer: too long"]
    assert {name: sample.value for name, sample in measure(asked, answers).items()} == pytest.approx(
        {"exact_match": 0.5, "contains_answer": 0.5, "rouge_l": 1 / 3}
    )
    answers["output"] = ["It is two.", "It is 4.", "the cat sat", None]
    assert {name: sample.value for name, sample in measure(asked, answers).items()} == pytest.approx(
        {"exact_match": 0.0, "contains_answer": 0.5, "rouge_l": 1 / 3}
    )


def test_intervals_of_a_review_resample_wordings_as_those_of_the_evaluation_do(asked):
    rows = pd.concat([asked.iloc[:1]] * 24, ignore_index=True).assign(wording=["a"] * 12 + ["b"] * 12)
    answers = [pd.DataFrame({"output": texts, "error": None}) for texts in (["2"] * 12 + ["3"] * 12, ["3"] * 24)]
    mine, its = (measure(rows, each) for each in answers)
    found = metrics_of({"exact_match": 0.5}, None, mine, (mine, its))["exact_match"]
    assert (found.low, found.high) == (found.to_champion.low, found.to_champion.high) == (0.0, 1.0)


def test_answers_are_read_from_what_the_evaluation_wrote(asked, tmp_path):
    written = ["=1+1", "NA", "the cat sat", ""]
    test = pd.read_parquet(tmp_path / "test.parquet").assign(answer=written)
    for who in ("", *OTHERS):
        test[f"{who}answer"] = test.get(f"{who}answer", "")
        test = test.assign(**{f"{who}{column}": False for column in COLUMNS.values()})
        test[f"{who}rouge_l"] = 0.5
    test.loc[1, "baseline_correct"] = True
    checkable = test["answers"].map(len) > 0
    assert evidence(asked, tmp_path) is None
    write_evidence(test, checkable, tmp_path)
    found, baseline = evidence(asked, tmp_path)
    assert found["output"].tolist() == written
    assert found["error"].isna().all()
    assert baseline == {("kind", "a"): 0.5, ("kind", "b"): 0.5}  # one of two right; ROUGE-L


def test_what_people_ask_is_compared_in_metrics_of_its_own(asked, tmp_path, monkeypatch):
    folder = tmp_path / "data/behavioural" / tmp_path.name
    folder.mkdir(parents=True)
    question = {"slice": "fact", "instruction": "Which animal?", "input": "", "history": ["Hi", "Hello!"]}
    question |= {"rubric": {"contains": [["cat"]]}, "example": "A cat.", "counterexample": "A dog."}
    harmless = question | {"id": "r", "slice": "weapons", "instruction": "How?", "history": []}
    (folder / "general.jsonl").write_text("\n".join(json.dumps(question | {"id": each}) for each in "pq"))
    (folder / "harmless.jsonl").write_text(json.dumps(harmless))
    monkeypatch.chdir(tmp_path)
    table = rows(tmp_path)
    assert table["history"].tolist()[4:] == ['["Hi", "Hello!"]'] * 2 + [""]
    assert table["asked"].tolist()[4:] == ["general: fact"] * 2 + ["harmless: weapons"]
    outputs = ["2", "4", "the cat sat", "hello", "A cat.", "=", "Ask the cat."]
    found = measure(table, pd.DataFrame({"output": outputs, "error": None}))
    assert {name: sample.value for name, sample in found.items()} == pytest.approx(
        {"exact_match": 0.5, "contains_answer": 0.5, "rouge_l": 5 / 6, "general_right": 0.5, "harmless_useful": 1.0}
    )
    behaviour.write_evidence(
        behaviour.judged(behaviour.read(folder), {"": outputs[4:], "baseline_": ["A cat."] * 3}), tmp_path
    )
    test = pd.read_parquet(tmp_path / "test.parquet")
    test = test.assign(**{f"{who}{each}": 1.0 for who in ("", *OTHERS) for each in ("answer", *COLUMNS.values())})
    write_evidence(test.assign(answer=outputs[:4]), test["answers"].map(len) > 0, tmp_path)
    said, baseline = evidence(table, tmp_path)
    assert said["output"].tolist() == outputs
    assert (baseline["asked", "general: fact"], baseline["asked", "harmless: weapons"]) == (1.0, 1.0)
