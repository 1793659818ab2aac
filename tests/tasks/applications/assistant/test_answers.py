import pandas as pd
import pytest
from instruction_tables import write

from llm.loaded_model import LoadedModel
from llm.objectives.assistant import Example, Question, answer_all, build, encode_example
from llm.tokenizer import decode
from tasks.applications.assistant.answers import BRIEF, SHOTS, Asked, answer, brief, nearest_answers, shots, with_shots


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
    assert (role, own) == ((("the cat", "mat7"),), ())
    asked = {"mat0": ("the cat\n\na hat", "mat0"), "mat5": ("hi", "hello", "the cat", "mat5")}
    assert all(turns == asked.get(turns[-1], ("the cat", turns[-1])) for turns in first)


def learned_tokens(example: Example) -> list[int]:
    """The tokens of an example that count in its loss."""
    return [token for token, learned in zip(example.tokens, example.learned, strict=True) if learned]


@pytest.fixture
def loaded(make_gpt, encoding) -> LoadedModel:
    """An untrained assistant with a context of 96 tokens."""
    gpt = make_gpt(context_length=96)
    model = build(gpt, {})
    model.load_state_dict(gpt.state_dict())
    return LoadedModel(model.eval(), encoding)


def test_examples_stand_before_a_row_and_are_no_part_of_its_loss(loaded):
    question = Question("the dog", history=("hi", "hello"))
    asked = Asked(question=question, output="ate", examples=(("the cat", "sat"), ("a bird", "sang")))
    alone = encode_example(loaded.encoding, loaded.model.chat, question, output="ate")
    whole = with_shots(loaded, asked, longest=10_000)
    text = decode(loaded.encoding, whole.tokens)
    assert text.index("sat") < text.index("sang") < text.index("hello") < text.index("ate")
    assert learned_tokens(whole) == learned_tokens(alone)
    fewer = with_shots(loaded, asked, longest=len(whole) - 1)
    assert len(alone) < len(fewer) < len(whole)
    assert with_shots(loaded, asked, longest=1) == alone


def test_questions_are_answered_as_in_a_chat_and_without_room_with_nothing(loaded):
    questions = [Question("the cat"), Question("the cat sat " * 30), Question("a bird")]
    asked = [Asked(question=question) for question in questions]
    answers = answer("a test", loaded, asked, max_new_tokens=8, batch_size=2)
    first, third = answer_all(loaded, [questions[0], questions[2]], max_new_tokens=8)
    assert answers.texts == [first, "", third]
    assert answers.unanswered == 1
    assert first


def test_nearest_answer_is_of_the_row_with_the_most_similar_words_history_and_system_prompt(tmp_path):
    write(
        tmp_path,
        "train",
        instruction=["and the cat"] * 3,
        output=["sat", "the hat", "on the mat"],
        history=[[], ["the dog", "ate"], ["a bird", "sang"]],
        system=["", "", "the moon"],
    )
    train = pd.read_parquet(tmp_path / "train.parquet")
    asked = [
        Question("and the cat", history=("a bird", "sang"), system="the moon"),
        Question("and the cat", history=("the dog", "ate")),
        Question("and the cat"),
    ]
    assert nearest_answers(train, asked) == ["on the mat", "the hat", "sat"]
