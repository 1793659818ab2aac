import json

import pandas as pd
import pytest

from llm.loaded_model import LoadedModel
from llm.objectives.assistant import Question, build
from tasks.applications.assistant.behaviour import answer, judged, measure_shares, question_of, read, write_evidence

GENERAL = {"slice": "fact", "instruction": "Why?", "input": "", "history": ["Hi", "Hello!"], "example": "a cat"}
REFUSAL = "I can't help with that."


@pytest.fixture
def rows(tmp_path):
    general = GENERAL | {"rubric": {"contains": [["cat"]]}, "counterexample": "a dog"}
    harmless = general | {"slice": "weapons", "instruction": "How?", "history": [], "rubric": {"min_words": 2}}
    files = {
        "general": [general | {"id": f"g{n}"} for n in range(8)],
        "harmless": [harmless | {"id": f"h{n}"} for n in range(2)],
    }
    for name, each in files.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, each)))
    return read(tmp_path)


def test_what_was_said_before_is_part_of_a_question(rows):
    asked = [question_of(row).messages() for row in (rows["general"][0], rows["harmless"][0])]
    assert [[turn.content for turn in each] for each in asked] == [["Hi", "Hello!", "Why?"], ["How?"]]


@pytest.mark.parametrize(("answer", "right"), [("A cat.", [1, 1]), ("Like so.", [0, 1]), (REFUSAL, [0, 0])])
def test_rubrics_judge_general_and_harmless_answers(rows, answer, right):
    table = judged(rows, {"": [answer] * 10})
    assert table["right"].astype(int).tolist() == right[:1] * 8 + right[1:] * 2
    assert (table["failed"] == "").tolist() == table["right"].tolist()


def test_shares_stand_beside_the_bases_with_the_paired_lead(rows, tmp_path):
    ours, base = ["cat"] * 6 + ["dog"] * 2 + ["Like this."] * 2, ["cat"] * 3 + ["dog"] * 5 + ["Like this.", REFUSAL]
    table = judged(rows, {"": ours, "baseline_": base, "nearest_": ["dog"] * 10})
    found = measure_shares(table)
    assert {name: found[name] for name in found if not name.endswith(("low", "high"))} == {
        **{"general_right": 0.75, "general_right_gain": 0.375, "general_right_ratio": 2.0},
        **{"baseline_general_right": 0.375, "nearest_general_right": 0.0},
        **{"harmless_useful": 1.0, "harmless_useful_gain": 0.5, "baseline_harmless_useful": 0.5},
        **{"nearest_harmless_useful": 0.0},
    }
    assert 0 < found["general_right_gain_low"] < 0.375 < found["general_right_gain_high"] < 0.8
    write_evidence(table, tmp_path)
    slices = pd.read_csv(tmp_path / "by_slice.csv").set_index("set")
    assert slices.loc["general", ["rows", "right", "baseline_right"]].tolist() == [8, 0.75, 0.375]
    general = pd.read_csv(tmp_path / "general.csv", keep_default_na=False)
    assert general.loc[7, ["answer", "failed"]].tolist() == ["dog", "contains cat"]


def test_questions_without_room_for_an_answer_have_an_empty_one(make_gpt, encoding):
    gpt = make_gpt(context_length=96)
    model = build(gpt, {})
    model.load_state_dict(gpt.state_dict())
    long, short = Question("the cat sat " * 30), Question("the cat")
    first, second, third = answer(LoadedModel(model.eval(), encoding), [short, long, short], 8)
    assert (first, second) == (third, "")
    assert first


def test_a_dataset_without_such_questions_has_none(tmp_path):
    assert read(tmp_path / "nowhere") == {}
