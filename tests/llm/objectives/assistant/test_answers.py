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
    """An assistant that has learned two answers by heart."""
    model = make_assistant(context_length=128, n_embd=32)
    torch.nn.init.normal_(model.embedding.token.weight, std=0.1)
    outputs = ["sat on the mat", "the hat"]
    examples = encode_examples(encoding, model.chat, QUESTIONS, outputs=outputs, longest=128)
    goal = objective(model, make_config(), [examples], validation=examples, compute=CPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(40):
        goal.loss(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert goal.evaluate()["validation_loss"] < 0.05
    return LoadedModel(model, encoding)


def outputs_of(loaded: LoadedModel[Assistant], rows: list[dict[str, Any]], **options: Any) -> list[str | None]:
    return [answer.get("output") for answer in serve(loaded, rows, **options)]


def test_assistant_takes_the_template_of_its_base_and_describes_it(make_gpt):
    gpt = make_gpt()
    chat = {"template": "{{ messages[0].content }}", "system": "", "text_penalty": 1.1}
    assert build(gpt, {"chat": chat}).describe() == gpt.describe() | {"chat": chat}
    assert build(gpt, {}).describe()["chat"] == Chat().model_dump()


def test_assistant_learns_to_answer_and_to_stop(taught):
    assert answer_all(taught, QUESTIONS) == ["sat on the mat", "the hat"]


def test_penalty_of_an_assistant_holds_in_all_its_answers_unless_a_request_lifts_it(make_assistant, encoding):
    model = make_assistant(context_length=96)
    loaded = LoadedModel(model, encoding)
    questions = [Question("the cat"), Question("a")]
    rows = [{"instruction": "the cat"}, {"instruction": "a"}]
    free = answer_all(loaded, questions, max_new_tokens=30)
    asked = outputs_of(loaded, rows, max_new_tokens=30, text_penalty=1.5)
    model.chat = Chat(text_penalty=1.5)
    penalised = answer_all(loaded, questions, max_new_tokens=30)
    assert penalised != free
    assert asked == penalised
    assert outputs_of(loaded, rows, max_new_tokens=30) == penalised
    assert answer_all(loaded, questions[:1], max_new_tokens=30) == penalised[:1]
    assert outputs_of(loaded, rows, max_new_tokens=30, text_penalty=1) == free


def test_answer_skips_rows_of_a_padded_embedding_that_are_no_token(make_assistant, encoding):
    model = make_assistant(context_length=64, vocabulary_size=encoding.n_vocab + 20, tied=False)
    with torch.no_grad():
        model.output.weight[: encoding.n_vocab] = 0
    loaded = LoadedModel(model, encoding)
    assert answer_all(loaded, QUESTIONS, max_new_tokens=4) == ["", ""]
    assert outputs_of(loaded, [{"instruction": "the cat"}], max_new_tokens=4) == [""]


def test_shown_answers_leave_out_a_question_without_room_for_an_answer(taught):
    questions = [Question("the moon " * 60), Question("the cat")]
    assert shown_answers(taught, questions, CPU) == ["the cat -> sat on the mat"]


def test_serve_answers_rows_and_names_what_is_wrong_with_others(taught):
    rows = [
        {"instruction": "the cat", "input": None},
        {"input": "ate"},
        {"instruction": 7},
        {"instruction": "the moon " * 60},
        {"instruction": "the dog", "input": "ate"},
    ]
    answers = serve(taught, rows)
    assert answers[0] == {"output": "sat on the mat"}
    assert answers[1] == {"error": "instruction: missing"}
    assert answers[2] == {"error": "instruction: 7 is not text"}
    assert answers[3]["error"].endswith("new ones do not fit the context of 128")
    assert answers[4] == {"output": "the hat"}


def test_serve_reads_the_history_of_a_row(make_assistant, encoding):
    loaded = LoadedModel(make_assistant(context_length=128), encoding)
    questions = [Question("and the dog"), Question("and the dog", history=["the cat", "sat"])]
    plain, continued = answer_all(loaded, questions, max_new_tokens=6)
    assert plain != continued
    histories = [None, "", " [] ", '["the cat", "sat"]']
    rows = [{"instruction": "and the dog", "history": text} for text in histories]
    assert outputs_of(loaded, rows, max_new_tokens=6) == [plain, plain, plain, continued]


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        ('["the cat"', "not JSON: "),
        ('"sat"', 'not an array of strings, such as ["Hi", "Hello!"]'),
        ('["sat", 1]', 'not an array of strings, such as ["Hi", "Hello!"]'),
        ('["sat"]', "1 turns; user and assistant take turns"),
        ("[" * 100_000, "not JSON: "),
    ],
)
def test_serve_names_a_malformed_history(taught, history, reason):
    malformed, good = serve(taught, [{"instruction": "the cat", "history": history}, {"instruction": "the cat"}])
    assert malformed["error"].startswith(f"history: {reason}")
    assert good == {"output": "sat on the mat"}


def test_serve_follows_the_options_and_names_a_wrong_one(taught, encoding):
    rows = [{"instruction": "the cat"}]
    cut = encoding.decode(encoding.encode("sat on the mat")[:2])
    assert serve(taught, rows, max_new_tokens=2) == [{"output": cut}]
    assert answer_all(taught, QUESTIONS[:1], max_new_tokens=2) == [cut]
    with pytest.raises(ValueError, match="temperature"):
        serve(taught, rows, temperature=-1.0)


def test_answer_stops_at_what_ends_a_turn_of_its_template(make_assistant, encoding):
    """The model gives a word, and then a marker that no list of common ones has."""
    names = [*encoding._special_tokens, "<|end|>", "<|user|>"]
    special = {name: encoding.n_vocab - 1 + number for number, name in enumerate(names)}
    marked = make_encoding(encoding._pat_str, encoding._mergeable_ranks, special)
    model = make_assistant(context_length=64, vocabulary_size=marked.n_vocab, n_layer=1, tied=False)
    turn = "<|user|>{{ m.content }}{% if m.role == 'assistant' %}\n<|end|>{% endif %}"
    model.chat = Chat(template="{% for m in messages %}" + turn + "{% endfor %}")
    following = {"<|user|>": " cat", " cat": "\n", "\n": "<|end|>", "<|end|>": " cat"}
    with torch.no_grad():  # a machine that gives what follows a token
        for weight in [*model.blocks.parameters(), *model.embedding.parameters(), model.output.weight]:
            weight.zero_()
        for column, (before, after) in enumerate(following.items()):
            model.embedding.token.weight[marked.encode(before, allowed_special="all")[0], column] = 1
            model.output.weight[marked.encode(after, allowed_special="all")[0], column] = 1
    loaded = LoadedModel(model, marked)
    assert answer_all(loaded, [Question("")], max_new_tokens=9) == ["cat"]
    assert outputs_of(loaded, [{"instruction": ""}], max_new_tokens=9) == ["cat"]
