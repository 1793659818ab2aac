"""Every form in which people have instructions: a line of params.yaml, fetched and read as the stages do it."""

import json

import pytest
from form_files import Content, csv_table, json_lines, parquet

from tasks.datasets import instructions

ASKED = [("Name a color.", "", "Blue."), ("Add the numbers.", "1, 2", "3")]


def turns(column: str, user: dict[str, str], assistant: dict[str, str], text_key: str) -> list[dict]:
    """Each question and answer as two turns, which have the text under a key."""
    rows: list[dict] = []
    for instruction, task_input, output in ASKED:
        question = f"{instruction}\n{task_input}".strip()
        rows.append({column: [user | {text_key: question}, assistant | {text_key: output}]})
    return rows


ALPACA = [{"instruction": a, "input": b, "output": c} for a, b, c in ASKED]
WITH_NULLS = [{**row, "input": row["input"] or None, "system": None} for row in ALPACA]
TURNS = turns("messages", {"role": "user"}, {"role": "assistant"}, text_key="content")
SHAREGPT = turns("conversations", {"from": "human"}, {"from": "gpt"}, text_key="value")
INSTRUCTIONS: dict[str, tuple[str, Content, bool]] = {
    "JSON as Alpaca's": ("a.json", json.dumps(ALPACA, indent=4), True),
    "JSON lines with nulls": ("a.jsonl", json_lines(WITH_NULLS), True),
    "CSV": ("a.csv", csv_table([{"Prompt": a, "Context": b, "Response": c} for a, b, c in ASKED]), True),
    "Parquet": ("a.parquet", parquet(ALPACA), True),
    "ShareGPT": ("s.json", json.dumps(SHAREGPT), False),
    "OpenAI messages": ("m.jsonl", json_lines(TURNS), False),
    "messages in Parquet": ("m.parquet", parquet(TURNS), False),
}


@pytest.mark.parametrize("form", INSTRUCTIONS)
def test_instructions_are_read_from(form, read):
    name, content, has_inputs = INSTRUCTIONS[form]
    rows = read(instructions, name, {name: content})[["instruction", "input", "output"]]
    expected = ASKED if has_inputs else [(f"{a}\n{b}".strip(), "", c) for a, b, c in ASKED]
    assert list(rows.itertuples(index=False, name=None)) == expected


def test_conversation_is_its_last_answer_with_the_turns_before(read):
    turns = [("system", "Be brief."), ("assistant", "Hello!"), ("user", "Hi."), ("assistant", "What is it?")]
    turns += [("user", "Name a color."), ("user", "And no other."), ("assistant", "Blue."), ("user", "Thanks.")]
    messages = [{"role": who, "content": text} for who, text in turns]
    row = read(instructions, "m.json", {"m.json": json.dumps([{"messages": messages}])}).iloc[0]
    assert (row["system"], row["history"]) == ("Be brief.", ["Hi.", "What is it?"])
    assert (row["instruction"], row["output"]) == ("Name a color.\nAnd no other.", "Blue.")
