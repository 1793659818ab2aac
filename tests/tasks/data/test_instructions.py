"""Instructions and conversations in the forms in which people have them."""

import json

import pytest
from form_files import Content, json_lines, parquet, put

from tasks.data import instructions
from tasks.data.findings import Findings

ASKED = [("Name a color.", "", "Blue."), ("Add the numbers.", "1, 2", "3")]
JOINED = [("Name a color.", "", "Blue."), ("Add the numbers.\n1, 2", "", "3")]
ALPACA = [{"instruction": instruction, "input": given, "output": output} for instruction, given, output in ASKED]
WITH_NULLS = [{**row, "input": row["input"] or None, "system": None} for row in ALPACA]
TURNS = [
    {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": output}]}
    for question, _, output in JOINED
]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": output}]}
    for question, _, output in JOINED
]
FORMS: list[tuple[str, Content, list[tuple[str, str, str]], dict[str, str]]] = [
    ("a.json", json.dumps(ALPACA, indent=4), ASKED, {}),
    ("a.jsonl", json_lines(WITH_NULLS), ASKED, {}),
    ("a.csv", "Prompt,Context,Response\nName a color.,,Blue.\n", ASKED[:1], {}),
    ("a.csv", "q,a\nName a color.,Blue.\n", ASKED[:1], {"instruction": "q", "output": "a"}),
    ("a.parquet", parquet(ALPACA), ASKED, {}),
    ("s.json", json.dumps(SHAREGPT), JOINED, {}),
    ("m.jsonl", json_lines(TURNS), JOINED, {}),
    ("m.parquet", parquet(TURNS), JOINED, {}),
]


def read(folder, **params):
    findings = Findings()
    rows = instructions.read(folder, instructions.Params(**params), findings)
    assert list(rows) == instructions.COLUMNS
    return rows, [str(problem).replace(f"{folder}/", "") for problem in findings.problems], findings.dropped


@pytest.mark.parametrize(("name", "content", "expected", "columns"), FORMS)
def test_instructions_are_read_from_every_form(name, content, expected, columns, tmp_path):
    put(tmp_path, {name: content})
    rows, problems, _ = read(tmp_path, columns=columns)
    assert problems == []
    assert list(map(tuple, rows[["instruction", "input", "output"]].to_numpy())) == expected


def test_conversation_is_its_last_answer_with_the_turns_before(tmp_path):
    turns = [("system", "Be brief."), ("assistant", "Hello!"), ("user", "Hi."), ("assistant", "What is it?")]
    turns += [("user", "Name a color."), ("user", "And no other."), ("assistant", "Blue."), ("user", "Thanks.")]
    messages = [{"role": who, "content": text} for who, text in turns]
    put(tmp_path, {"m.json": json.dumps([{"messages": messages, "system": "Speak English."}])})
    row = read(tmp_path)[0].iloc[0]
    assert (row["system"], row["history"]) == ("Speak English.\nBe brief.", ["Hi.", "What is it?"])
    assert (row["instruction"], row["output"], row["answers"]) == ("Name a color.\nAnd no other.", "Blue.", [])


def test_rows_carry_kind_wording_answers_history_and_group_and_else_have_their_own(tmp_path):
    plain = {"instruction": "Say", "output": "So", "id": "x"}
    full = {"instruction": "Add", "input": "1, 2", "output": "3", "answers": ["three"], "system": "Be brief."}
    full |= {"history": ["Hi", "Hello"]}
    frozen = {**plain, "id": "say/1", "kind": "say", "wording": "Say {x}", "group": "say: so"}
    put(tmp_path, {"mine/a.json": json.dumps([plain, full]), "mine/b.jsonl": json_lines([frozen])})
    rows = read(tmp_path)[0]
    assert rows[["id", "source", "kind", "wording", "group"]].to_numpy().tolist() == [
        ["mine/a.json#1", "mine/a.json", "own", "Say", "question: say"],
        ["mine/a.json#2", "mine/a.json", "own", "Add", "question: hi"],
        ["say/1", "mine/b.jsonl", "say", "Say {x}", "say: so"],
    ]
    columns = ["instruction", "input", "output", "answers", "history", "system"]
    assert rows.loc[1, columns].tolist() == ["Add", "1, 2", "3", ["3", "three"], ["Hi", "Hello"], "Be brief."]


def test_group_is_one_for_the_rows_of_a_conversation_turn_by_turn(tmp_path):
    turns = ["Add\n1, 2", "3", "And 3?", "6", "And 4?", "10"]
    rows = [{"instruction": "Add", "input": "1, 2", "output": "3"}]
    rows += [{"instruction": turns[n], "output": turns[n + 1], "history": turns[:n]} for n in (2, 4)]
    put(tmp_path, {"a.json": json.dumps(rows)})
    assert read(tmp_path)[0]["group"].tolist() == ["question: add 1 2"] * 3


def test_feedback_answers_that_are_bad_are_dropped(tmp_path):
    rows = [{"instruction": verdict, "output": "1", "verdict": verdict} for verdict in ("good", "bad")]
    put(tmp_path, {"feedback.jsonl": json_lines(rows)})
    table, problems, dropped = read(tmp_path)
    assert (table["instruction"].tolist(), problems) == (["good"], [])
    assert [(row["id"], row["rule"]) for row in dropped] == [("feedback.jsonl#2", "feedback")]


ASK = {"instruction": "x", "output": "y"}
TALK = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"output": "y"}, '"instruction"'),
        (ASK | {"answers": "y"}, '"answers"'),
        (ASK | {"answers": ["y", "…"]}, "'…'"),
        (ASK | {"history": ["", "z"]}, '"history"'),
        (ASK | {"history": ["z"]}, "1 turns"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no answer"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "'tool'"),
        ({"messages": "a"}, "'a'"),
        ({"conversations": [{"from": "gpt", "value": ""}]}, "'value'"),
        ({"system": ["x"], "conversations": TALK}, '"system"'),
        ([3], "[3]"),
    ],
)
def test_row_that_is_no_instruction_is_one_problem_with_its_place(row, part, tmp_path):
    put(tmp_path, {"a.jsonl": json_lines([ASK, row, row])})
    rows, (problem,), _ = read(tmp_path)
    assert rows["output"].tolist() == ["y"]
    assert problem.startswith("a.jsonl, row 2: ")
    assert part in problem
    assert "1 more" in problem
