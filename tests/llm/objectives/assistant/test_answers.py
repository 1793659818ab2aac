from collections.abc import Callable
from typing import Any

import pytest
import torch

from llm.chat import Chat
from llm.device import Compute
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives.assistant import Assistant, Question, answer_all, build, encode_examples, objective, serve
from llm.objectives.assistant.answers import shown_answers
from llm.tokenizer import make_encoding

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
QUESTIONS = [Question("the cat"), Question("the dog", "ate")]


@pytest.fixture(scope="module")
def make_assistant(make_gpt: Callable[..., GPT]) -> Callable[..., Assistant]:
    """Make a small assistant with our own template."""

    def make(**shape: Any) -> Assistant:
        gpt = make_gpt(**shape)
        assistant = build(gpt, {})
        assistant.load_state_dict(gpt.state_dict())
        return assistant.eval()

    return make


@pytest.fixture(scope="module")
def taught(make_assistant, make_config, encoding) -> LoadedModel[Assistant]:
    """An assistant that has learned two answers by heart; its turns end in a marker that no list of usual ones has."""
    special = {"<|endoftext|>": encoding.n_vocab - 1, "<|end|>": encoding.n_vocab}
    marked = make_encoding(encoding._pat_str, encoding._mergeable_ranks, special)
    model = make_assistant(context_length=128, n_embd=32, vocabulary_size=marked.n_vocab)
    model.chat = Chat(
        template="{% for m in messages %}{{ m.content }}{% if not loop.first %}<|end|>{% endif %}: {% endfor %}"
    )
    torch.nn.init.normal_(model.embedding.token.weight, std=0.1)
    outputs = ["sat on the mat", "the hat"]
    examples = encode_examples(marked, model.chat, QUESTIONS, outputs=outputs, longest=128)
    goal = objective(model, make_config(), [examples], validation=examples, compute=CPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(40):
        goal.loss(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert goal.evaluate()["validation_loss"] < 0.05
    return LoadedModel(model, marked)


def outputs_of(loaded: LoadedModel[Assistant], **options: Any) -> list[str | None]:
    """What is served for QUESTIONS."""
    rows = [{"instruction": question.instruction, "input": question.input} for question in QUESTIONS]
    return [answer.get("output") for answer in serve(loaded, rows, **options)]


def test_penalty_of_an_assistant_holds_in_all_its_answers_unless_a_request_lifts_it(make_assistant, encoding):
    model = make_assistant(context_length=96)
    loaded = LoadedModel(model, encoding)
    free = answer_all(loaded, QUESTIONS, max_new_tokens=30)
    asked = outputs_of(loaded, max_new_tokens=30, text_penalty=1.5)
    model.chat = Chat(text_penalty=1.5)
    penalised = answer_all(loaded, QUESTIONS, max_new_tokens=30)
    assert penalised != free
    assert asked == penalised == outputs_of(loaded, max_new_tokens=30)
    assert outputs_of(loaded, max_new_tokens=30, text_penalty=1) == free


def test_answer_skips_rows_of_a_padded_embedding_that_are_no_token(make_assistant, encoding):
    model = make_assistant(context_length=64, vocabulary_size=encoding.n_vocab + 20, tied=False)
    with torch.no_grad():
        model.output.weight[: encoding.n_vocab] = 0
    assert outputs_of(LoadedModel(model, encoding), max_new_tokens=4) == ["", ""]


def test_shown_answers_leave_out_a_question_without_room_for_an_answer(taught):
    questions = [Question("the moon " * 60), Question("the cat")]
    assert shown_answers(taught, questions, CPU) == ["the cat -> sat on the mat"]
    assert shown_answers(taught, questions[:1], CPU) == []


def test_serve_answers_rows_and_names_what_is_wrong_with_others(taught, encoding):
    rows = [{"instruction": "the cat", "input": None}, {"input": "ate"}, {"instruction": 7}]
    rows += [{"instruction": "the moon " * 60}, {"instruction": "the dog", "input": "ate"}]
    first, missing, number, long, last = serve(taught, rows)
    assert (first, last) == ({"output": "sat on the mat"}, {"output": "the hat"})
    assert missing == {"error": "instruction: missing"}
    assert number == {"error": "instruction: 7 is not text"}
    assert long["error"].endswith("new ones do not fit the context of 128")
    cut = encoding.decode(encoding.encode("sat on the mat")[:2])
    assert serve(taught, rows[:1], max_new_tokens=2) == [{"output": cut}]
    with pytest.raises(ValueError, match="temperature"):
        serve(taught, rows, temperature=-1.0)


def test_serve_reads_the_history_of_a_row_and_names_a_malformed_one(make_assistant, encoding):
    loaded = LoadedModel(make_assistant(context_length=128), encoding)
    questions = [Question("and the dog"), Question("and the dog", history=["the cat", "sat"])]
    plain, continued = answer_all(loaded, questions, max_new_tokens=6)
    assert plain != continued
    malformed = ['["the cat"', '"sat"', '["sat", 1]', '["sat"]', "[" * 100_000]
    histories = [None, "", " [] ", '["the cat", "sat"]', *malformed]
    rows = [{"instruction": "and the dog", "history": text} for text in histories]
    answers = serve(loaded, rows, max_new_tokens=6)
    assert [answer.get("output") for answer in answers] == [plain, plain, plain, continued, *[None] * len(malformed)]
    assert all(answer["error"].startswith("history: ") for answer in answers[4:])
