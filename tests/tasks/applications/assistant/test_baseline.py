import pandas as pd
import pytest
from instruction_tables import write

from llm.chat import Chat
from llm.objectives.assistant import Example, Question, encode_example
from llm.tokenizer import decode
from tasks.applications.assistant.baseline import BRIEF, SHOTS, brief, shots, with_shots


def test_base_is_told_to_be_brief_unless_a_question_has_a_system_prompt():
    assert brief(Question("Why?")).system == BRIEF
    assert brief(Question("Why?", system="You are Ruth.")).system == "You are Ruth."


@pytest.fixture
def tables(tmp_path) -> tuple[pd.DataFrame, pd.DataFrame]:
    train = {
        "kind": ["count"] * 6 + ["role"] * 2,
        "instruction": ["the cat"] * 8,
        "input": ["a hat"] + [""] * 7,
        "output": [f"mat{n}" for n in range(8)],
        "history": [[]] * 5 + [["hi", "hello"]] + [[]] * 2,
        "system": [""] * 6 + ["a bird", "a dog"],
    }
    test = {
        "kind": ["count", "count", "role", "own"],
        "instruction": ["the dog"] * 4,
        "output": ["sat"] * 4,
        "system": ["", "", "a dog", ""],
    }
    for name, rows in (("train", train), ("test", test)):
        write(tmp_path, name, **rows)
    return tuple(pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("train", "test"))


def test_examples_are_training_rows_of_the_kind_and_system_prompt_and_the_same_for_a_kind(tables):
    first, second, role, own = shots(*tables)
    assert first == second
    assert len(first) == SHOTS
    assert {turns[-1] for turns in first} <= {f"mat{n}" for n in range(6)}
    assert (role, own) == ([("the cat", "mat7")], [])
    asked = {"mat0": ("the cat\n\na hat", "mat0"), "mat5": ("hi", "hello", "the cat", "mat5")}
    assert all(turns == asked.get(turns[-1], ("the cat", turns[-1])) for turns in first)


def learned_tokens(example: Example) -> list[int]:
    """The tokens of an example that count in its loss."""
    return [token for token, learned in zip(example.tokens, example.learned, strict=True) if learned]


def test_examples_stand_before_a_row_and_are_no_part_of_its_loss(encoding):
    question = Question("the dog", history=("hi", "hello"))
    chat = Chat()
    examples = [("the cat", "sat"), ("a bird", "sang")]
    alone = encode_example(encoding, chat, question, output="ate")
    whole = with_shots(encoding, chat, question, output="ate", examples=examples, longest=10_000)
    text = decode(encoding, whole.tokens)
    assert text.index("sat") < text.index("sang") < text.index("hello") < text.index("ate")
    assert learned_tokens(whole) == learned_tokens(alone)
    fewer = with_shots(encoding, chat, question, output="ate", examples=examples, longest=len(whole) - 1)
    assert len(alone) < len(fewer) < len(whole)
    assert with_shots(encoding, chat, question, output="ate", examples=examples, longest=1) == alone
