import logging
from collections import Counter
from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from llm.chat import Chat
from llm.device import Compute
from llm.loaded_model import LoadedModel
from llm.objectives.assistant import (
    Example,
    Question,
    answer_all,
    build,
    encode_examples,
    objective,
    pack_sequences,
    row_width,
    serve,
)
from llm.objectives.assistant.answers import shown_answers
from llm.objectives.assistant.examples import IGNORE
from llm.objectives.assistant.loss import mean_response_loss, response_loss
from llm.objectives.assistant.packing import batch, shared_prefix
from llm.tokenizer import make_encoding

quick = settings(max_examples=25)
CPU = Compute(torch.device("cpu"), torch.float32, "a test")
tokens = st.lists(st.tuples(st.integers(0, 250), st.booleans()), min_size=1, max_size=30)
examples_of_any_length = st.lists(
    tokens.map(lambda pairs: Example([5, *(t for t, _ in pairs), 6], [False, *(said for _, said in pairs), True])),
    min_size=1,
    max_size=8,
)


def example(prompt: list[int], response: list[int]) -> Example:
    return Example(prompt + response, [False] * len(prompt) + [True] * len(response))


def alone(gpt, example: Example, opening_weight: float = 1.0) -> torch.Tensor:
    """The summed loss of one row: each of the assistant's tokens from all that stands before it."""
    logits = gpt(torch.tensor([example.tokens[:-1]]))[0]
    losses = F.cross_entropy(logits, torch.tensor(example.tokens[1:]), reduction="none")
    turns = pairwise(example.learned)
    return losses @ torch.tensor([float(learned) if before else learned * opening_weight for before, learned in turns])


@quick
@given(examples_of_any_length, st.sampled_from([1.0, 5.0]))
def test_packed_rows_have_the_loss_and_the_gradient_of_unpacked_ones(make_gpt, examples, opening_weight):
    packed, unpacked = make_gpt(), make_gpt()
    loss = response_loss(packed, pack_sequences(examples, 32), CPU, opening_weight=opening_weight)
    expected = sum(alone(unpacked, example, opening_weight) for example in examples)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward(), expected.backward()
    for ours, theirs in zip(packed.parameters(), unpacked.parameters(), strict=True):
        largest = theirs.grad.abs().max().item()
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4 * max(largest, 1e-3), rtol=1e-3)


@quick
@given(examples_of_any_length, st.integers(1, 3))
def test_the_mean_loss_is_over_all_response_tokens(make_gpt, examples, batch_size):
    gpt = make_gpt()
    expected = sum(alone(gpt, example).item() for example in examples) / sum(e.counted for e in examples)
    assert mean_response_loss(gpt, examples, CPU, batch_size=batch_size) == pytest.approx(expected, rel=1e-5)


def test_the_mean_loss_keeps_no_graph_and_is_that_of_inference(make_gpt):
    gpt, examples, kept = make_gpt(), [example([1, 2, 3], [4, 5]), example([6], [7, 8])], []
    with torch.inference_mode():
        expected = response_loss(gpt, pack_sequences(examples, 32), CPU).item() / 4
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        assert mean_response_loss(gpt, examples, CPU, batch_size=2) == expected
    assert kept == []


@quick
@given(examples_of_any_length)
def test_packing_splits_and_loses_no_example(examples):
    windows = pack_sequences(examples, 32)
    packed = [(tuple(e.tokens), tuple(e.learned)) for window in windows for e in window]
    assert Counter(packed) == Counter((tuple(e.tokens), tuple(e.learned)) for e in examples)
    inputs, targets, *_ = batch(windows)
    assert max(map(row_width, windows)) == inputs.shape[1] < 32
    assert (targets != IGNORE).sum() == sum(each.counted for each in examples)
    used = sum(map(len, examples))
    assert len(windows) <= max(1, 2 * used // 32 + 1)  # any two windows that first fit makes are more than half full


def first_fit(examples: list[Example], length: int) -> list[list[Example]]:
    """What `pack_sequences` does, by looking at every window for each example."""
    prefix, windows = shared_prefix(examples), []
    for each in examples:
        shared = each.tokens[: len(prefix)] == prefix and len(each) > len(prefix) + 1
        shared = len(prefix) if shared and not any(each.learned[: len(prefix) + 1]) else 0
        each = Example(each.tokens, each.learned, shared)
        for window in [*windows, []]:
            joined = [*window, each]
            if row_width(joined) + len(joined) <= length:  # a row leaves out the last token of each
                break
        if window:
            window.append(each)
        else:
            windows.append(joined)
    return windows


@pytest.mark.parametrize("length", [40, 64, 200])
@pytest.mark.parametrize("prefix", [0, 1, 9])
def test_packing_gives_the_windows_of_plain_first_fit_on_random_lengths(prefix, length):
    random = Random(length + prefix)
    examples = []
    for _ in range(400):
        prompt = [1] * (prefix if random.random() < 0.7 else 0) + [random.randrange(2, 9)] * random.randrange(1, 16)
        examples.append(example(prompt, [9] * random.randrange(1, 16)))
    assert pack_sequences(examples, length) == first_fit(examples, length)
    assert pack_sequences(examples[:1], length) == first_fit(examples[:1], length)
    assert pack_sequences([], length) == []


def test_an_example_that_fits_no_window_is_refused():
    with pytest.raises(ValueError, match="an example of 33 tokens does not fit a window of 32"):
        pack_sequences([example([1] * 20, [2] * 13)], 32)


def test_a_batch_by_hand():
    inputs, targets, positions, sequences = batch(
        [[example([1, 2, 3], [4, 5]), example([6], [7, 8])], [example([9], [10])]]
    )
    assert inputs.tolist() == [[1, 2, 3, 4, 6, 7], [9, 0, 0, 0, 0, 0]]
    assert targets.tolist() == [[IGNORE, IGNORE, 4, 5, 7, 8], [10, *[IGNORE] * 5]]
    assert positions.tolist() == [[0, 1, 2, 3, 0, 1], [0, 0, 0, 0, 0, 0]]
    assert sequences.tolist() == [[1, 1, 1, 1, 2, 2], [1, -1, -1, -1, -1, -1]]


def test_a_head_that_most_examples_have_stands_once_in_a_row_by_hand():
    head = [1, 2]
    examples = [example([*head, 3, 4], [5, 6]), example([*head, 7], [8]), example([9], [1, 2, 3])]
    assert shared_prefix(examples) == head
    (window,) = pack_sequences(examples, 12)  # 14 tokens, two of them shared
    assert [each.shared for each in window] == [2, 2, 0]
    assert row_width(window) == 9
    inputs, targets, positions, sequences = batch([window], 10)
    assert inputs.tolist() == [[1, 2, 3, 4, 5, 7, 9, 1, 2, 0]]
    assert targets.tolist() == [[IGNORE, IGNORE, IGNORE, 5, 6, 8, 1, 2, 3, IGNORE]]
    assert positions.tolist() == [[0, 1, 2, 3, 4, 2, 0, 1, 2, 0]]
    assert sequences.tolist() == [[0, 0, 1, 1, 1, 2, 3, 3, 3, -1]]


@pytest.mark.parametrize(
    ("examples", "head"),
    [
        ([], []),
        ([example([1, 2, 3], [4])], [1, 2]),  # 3 predicts a token that is learned
        ([example([1, 2, 3], [4]), example([1, 5], [4])], [1]),
        ([example([1, 2, 3], [4]), example([5, 2, 3], [4])], []),  # one half is not more than half
        ([example([1, 2, 3], [4]), example([1, 2, 3], [4]), example([5, 2, 3], [4])], [1, 2]),
        ([Example([1, 2, 3, 4], [False, True, False, True])] * 3, []),
    ],
)
def test_the_shared_prefix_is_what_more_than_half_begin_with_before_anything_is_learned(examples, head):
    assert shared_prefix(examples) == head


def test_rows_are_conversations_that_end_and_long_ones_are_counted_and_left_out(encoding, caplog):
    caplog.set_level(logging.WARNING)
    rows = [Question("the cat"), Question("sat", "on the mat")]
    (kept,) = encode_examples(encoding, Chat(), rows, outputs=["the hat", "the moon " * 40], longest=64)
    said = [token for token, learned in zip(kept.tokens, kept.learned, strict=True) if learned]
    assert encoding.decode(kept.tokens[: -len(said)]) == "### Instruction:\nthe cat\n\n### Response:\n"
    assert encoding.decode(said[:-1]) == "the hat"
    assert said[-1] == encoding.eot_token
    assert "1 rows are longer than 64 tokens" in caplog.text


def test_a_question_is_its_system_prompt_its_history_and_the_instruction_with_its_input():
    asked = Question("say", "moo", "be kind", ["hi", "hello"])
    assert [tuple(message) for message in asked.messages()] == [
        ("system", "be kind"),
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "say\n\nmoo"),
    ]


def test_all_turns_of_the_assistant_are_learned(encoding):
    (kept,) = encode_examples(
        encoding, Chat(), [Question("and the dog", history=["the cat", "sat"])], outputs=["ate"], longest=99
    )
    said = [token for token, learned in zip(kept.tokens, kept.learned, strict=True) if learned]
    end = encoding.decode([encoding.eot_token])
    assert encoding.decode(said) == f"sat{end}ate{end}"
    assert kept.counted == len(said)


@pytest.fixture(scope="module")
def make_assistant(make_gpt):
    """Make a small assistant with our own template."""
    return lambda **shape: build_on(make_gpt(**shape))


def build_on(gpt):
    assistant = build(gpt, {})
    assistant.load_state_dict(gpt.state_dict())
    return assistant.eval()


def test_an_assistant_takes_its_bases_template_and_says_so(make_gpt):
    gpt, chat = make_gpt(), {"template": "{{ messages[0].content }}", "system": "", "text_penalty": 1.1}
    assert build(gpt, {"chat": chat}).describe() == gpt.describe() | {"chat": chat}
    assert build(gpt, {}).describe()["chat"] == Chat().model_dump()


def test_an_assistants_own_penalty_holds_in_all_its_answers_unless_a_request_lifts_it(make_gpt, encoding):
    repetitive = build_on(make_gpt(context_length=96))
    penalising = build_on(make_gpt(context_length=96))
    penalising.chat = Chat(text_penalty=1.5)
    questions, rows = [Question("the cat"), Question("a")], [{"instruction": "the cat"}, {"instruction": "a"}]
    free = answer_all(LoadedModel(repetitive, encoding), questions, max_new_tokens=30)
    penalised = answer_all(LoadedModel(penalising, encoding), questions, max_new_tokens=30)
    assert free != penalised
    assert [row["output"] for row in serve(LoadedModel(penalising, encoding), rows, max_new_tokens=30)] == penalised
    assert answer_all(LoadedModel(penalising, encoding), questions[:1], max_new_tokens=30) == penalised[:1]
    lifted = serve(LoadedModel(penalising, encoding), rows, max_new_tokens=30, text_penalty=1)
    assert [row["output"] for row in lifted] == free
    asked = serve(LoadedModel(repetitive, encoding), rows, max_new_tokens=30, text_penalty=1.5)
    assert [row["output"] for row in asked] == penalised


@pytest.fixture(scope="module")
def taught(make_assistant, make_config, encoding):
    """A model that has learned two answers by heart."""
    gpt = make_assistant(context_length=128, n_embd=32)
    torch.nn.init.normal_(gpt.embedding.token.weight, std=0.1)
    examples = encode_examples(
        encoding,
        gpt.chat,
        [Question("the cat"), Question("the dog", "ate")],
        outputs=["sat on the mat", "the hat"],
        longest=128,
    )
    goal = objective(gpt, make_config(), [examples], validation=examples, compute=CPU)
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=1e-2)
    for step in range(40):
        goal.loss(gpt, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    return gpt, goal


def test_an_assistant_learns_to_answer_and_to_stop(taught, encoding):
    gpt, _ = taught
    assert answer_all(LoadedModel(gpt, encoding), [Question("the cat"), Question("the dog", "ate")]) == [
        "sat on the mat",
        "the hat",
    ]
    cut = encoding.decode(encoding.encode("sat on the mat")[:2])
    assert answer_all(LoadedModel(gpt, encoding), [Question("the cat")], max_new_tokens=2) == [cut]


def test_an_answer_passes_over_rows_of_a_padded_embedding_that_are_no_token(make_assistant, encoding):
    gpt = make_assistant(context_length=64, vocabulary_size=encoding.n_vocab + 20, tied=False)
    with torch.no_grad():
        gpt.output.weight[: encoding.n_vocab] = 0
    assert answer_all(LoadedModel(gpt, encoding), [Question("the cat"), Question("sat", "on")], max_new_tokens=4) == [
        "",
        "",
    ]


def test_an_evaluation_gives_the_loss_and_people_see_answers(taught, encoding):
    gpt, goal = taught
    assert goal.evaluate()["validation_loss"] < 0.05
    assert shown_answers(LoadedModel(gpt, encoding), [Question("the cat")], CPU) == ["the cat -> sat on the mat"]


def test_a_validation_row_may_be_longer_than_all_that_is_learned(make_assistant, make_config, encoding):
    gpt = make_assistant(context_length=128)
    short, long = encode_examples(
        encoding, gpt.chat, [Question("a"), Question("the moon " * 12)], outputs=["b", "c"], longest=128
    )
    goal = objective(gpt, make_config(), [[short]], validation=[long], compute=CPU)
    assert goal.evaluate()["validation_loss"] == pytest.approx(alone(gpt, long).item() / long.counted, rel=1e-5)


def test_a_question_that_leaves_no_room_for_an_answer_is_not_shown(make_assistant, encoding):
    gpt, long = make_assistant(context_length=128).eval(), Question("the moon " * 60)
    shown = shown_answers(LoadedModel(gpt, encoding), [long, Question("the cat")], CPU)
    assert [each.split(" -> ")[0] for each in shown] == ["the cat"]


def test_served_rows_are_answered_and_one_that_can_not_be_says_why_and_leaves_the_others_alone(taught, encoding):
    rows = [
        {"instruction": "the cat"},
        {"input": "ate"},
        {"instruction": 7},
        {"instruction": "the moon " * 60},
        {"instruction": "the dog", "input": "ate"},
    ]
    good, missing, number, long, other = serve(LoadedModel(taught[0], encoding), rows)
    assert (good, other) == ({"output": "sat on the mat"}, {"output": "the hat"})
    assert missing == {"error": "instruction: missing"}
    assert number == {"error": "instruction: 7 is not text"}
    assert long["error"].endswith("new ones do not fit the context of 128")


def test_a_served_row_may_have_a_history_and_a_malformed_one_is_an_error_of_that_row_alone(make_assistant, encoding):
    gpt = make_assistant(context_length=128)
    asked = {"instruction": "and the dog"}
    histories = [None, "", " [] ", '["the cat", "sat"]', '["the cat"', '"sat"', '["sat", 1]', '["sat"]', "[" * 100_000]
    found = serve(
        LoadedModel(gpt, encoding), [asked | {"history": text} for text in histories] + [asked], max_new_tokens=6
    )
    plain, other = answer_all(
        LoadedModel(gpt, encoding),
        [Question("and the dog"), Question("and the dog", history=["the cat", "sat"])],
        max_new_tokens=6,
    )
    assert plain != other
    assert [each.get("output") for each in found] == [plain, plain, plain, other, None, None, None, None, None, plain]
    reasons = [each["error"] for each in found if "error" in each]
    assert reasons[0].startswith("history: not JSON: ")
    assert reasons[1:3] == ['history: not an array of strings, such as ["Hi", "Hello!"]'] * 2
    assert reasons[3].startswith("history: 1 turns; user and assistant take turns")
    assert reasons[4].startswith("history: not JSON: ")


def test_an_answer_stops_at_what_ends_a_turn_of_its_template(make_assistant, encoding):
    """The model says a word, and then a marker that no list of known ones has."""
    names = [*encoding._special_tokens, "<|end|>", "<|user|>"]
    special = {name: encoding.n_vocab - 1 + number for number, name in enumerate(names)}
    marked = make_encoding(encoding._pat_str, encoding._mergeable_ranks, special)
    template = (
        "{% for m in messages %}<|user|>{{ m.content }}{% if m.role == 'assistant' %}\n<|end|>{% endif %}{% endfor %}"
    )
    gpt = make_assistant(context_length=64, vocabulary_size=marked.n_vocab, n_layer=1, tied=False)
    gpt.chat = Chat(template=template)
    word, newline, end, start = (
        marked.encode(text, allowed_special="all")[0] for text in (" cat", "\n", "<|end|>", "<|user|>")
    )
    with torch.no_grad():  # a machine that says what follows a token: a word, a new line, the end
        for weight in [*gpt.blocks.parameters(), *gpt.embedding.parameters(), gpt.output.weight]:
            weight.zero_()
        for place, (before, after) in enumerate([(start, word), (word, newline), (newline, end), (end, word)]):
            gpt.embedding.token.weight[before, place] = 1
            gpt.output.weight[after, place] = 1
    assert answer_all(LoadedModel(gpt, marked), [Question("")], max_new_tokens=9) == ["cat"]
    assert serve(LoadedModel(gpt, marked), [{"instruction": ""}], max_new_tokens=9) == [{"output": "cat"}]


def test_served_answers_follow_the_options(taught, encoding):
    gpt, _ = taught
    cut = encoding.decode(encoding.encode("sat on the mat")[:2])
    assert serve(LoadedModel(gpt, encoding), [{"instruction": "the cat", "input": None}], max_new_tokens=2) == [
        {"output": cut}
    ]
    for wrong in ({"top_q": 1}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            serve(LoadedModel(gpt, encoding), [{"instruction": "the cat"}], **wrong)
