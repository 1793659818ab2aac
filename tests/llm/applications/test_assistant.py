import logging
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from llm.applications.assistant import (
    Example,
    answer_all,
    batch,
    encode_examples,
    leaves_room,
    mean_response_loss,
    objective,
    pack_sequences,
    prompt_text,
    response_loss,
    serve,
)
from llm.device import Compute
from llm.training.loss import IGNORE

quick = settings(max_examples=25, deadline=None)
CPU = Compute(torch.device("cpu"), torch.float32, "a test")
tokens = st.lists(st.integers(0, 250), min_size=1, max_size=15)
examples_of_any_length = st.lists(st.builds(Example, tokens, tokens), min_size=1, max_size=8)


def alone(gpt, example: Example) -> torch.Tensor:
    """The summed loss of one row: each response token from all that stands before it."""
    row = torch.tensor([*example.prompt, *example.response])
    logits = gpt(row[None, :-1])[0, len(example.prompt) - 1 :]
    return F.cross_entropy(logits, row[len(example.prompt) :], reduction="sum")


@quick
@given(examples_of_any_length)
def test_packed_rows_have_the_loss_and_the_gradient_of_unpacked_ones(make_gpt, examples):
    packed, unpacked = make_gpt(), make_gpt()
    loss = response_loss(packed, pack_sequences(examples, 32), CPU)
    expected = sum(alone(unpacked, example) for example in examples)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward(), expected.backward()
    for ours, theirs in zip(packed.parameters(), unpacked.parameters(), strict=True):
        largest = theirs.grad.abs().max().item()
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4 * max(largest, 1e-3), rtol=1e-3)


@quick
@given(examples_of_any_length, st.integers(1, 3))
def test_the_mean_loss_is_over_all_response_tokens(make_gpt, examples, batch_size):
    gpt = make_gpt()
    expected = sum(alone(gpt, example).item() for example in examples) / sum(len(e.response) for e in examples)
    assert mean_response_loss(gpt, examples, batch_size, CPU) == pytest.approx(expected, rel=1e-5)


def test_the_mean_loss_keeps_no_graph_and_is_that_of_inference(make_gpt):
    gpt, examples, kept = make_gpt(), [Example([1, 2, 3], [4, 5]), Example([6], [7, 8])], []
    with torch.inference_mode():
        expected = response_loss(gpt, pack_sequences(examples, 32), CPU).item() / 4
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        assert mean_response_loss(gpt, examples, 2, CPU) == expected
    assert kept == []


@quick
@given(examples_of_any_length)
def test_packing_splits_and_loses_no_example(examples):
    windows = pack_sequences(examples, 32)
    packed = [(tuple(e.prompt), tuple(e.response)) for window in windows for e in window]
    assert Counter(packed) == Counter((tuple(e.prompt), tuple(e.response)) for e in examples)
    assert all(0 < sum(map(len, window)) <= 32 for window in windows)
    used = sum(map(len, examples))
    assert len(windows) <= max(1, 2 * used // 32 + 1)  # any two windows that first fit makes are more than half full


def test_an_example_that_fits_no_window_is_refused():
    with pytest.raises(ValueError, match="an example of 33 tokens does not fit a window of 32"):
        pack_sequences([Example([1] * 20, [2] * 13)], 32)


def test_a_batch_by_hand():
    inputs, targets, positions, segments = batch(
        [[Example([1, 2, 3], [4, 5]), Example([6], [7, 8])], [Example([9], [10])]]
    )
    assert inputs.tolist() == [[1, 2, 3, 4, 6, 7], [9, 0, 0, 0, 0, 0]]
    assert targets.tolist() == [[IGNORE, IGNORE, 4, 5, 7, 8], [10, *[IGNORE] * 5]]
    assert positions.tolist() == [[0, 1, 2, 3, 0, 1], [0, 0, 0, 0, 0, 0]]
    assert segments.tolist() == [[0, 0, 0, 0, 1, 1], [0, -1, -1, -1, -1, -1]]


def test_rows_are_prompt_response_and_end_and_long_ones_are_counted_and_left_out(encoding, caplog):
    caplog.set_level(logging.INFO)
    rows = (["the cat", "sat"], ["", "on the mat"], ["the hat", "the moon " * 40])
    (example,) = encode_examples(encoding, *rows, 64)
    assert encoding.decode(example.prompt) == prompt_text("the cat") == "### Instruction:\nthe cat\n\n### Response:\n"
    assert encoding.decode(example.response[:-1]) == "the hat"
    assert example.response[-1] == encoding.eot_token
    assert "1 rows are longer than 64 tokens" in caplog.text


def test_an_input_stands_between_instruction_and_response():
    assert prompt_text("say", "moo") == "### Instruction:\nsay\n\n### Input:\nmoo\n\n### Response:\n"


@pytest.fixture(scope="module")
def taught(make_gpt, make_config, encoding):
    """A model that has learned two answers by heart."""
    gpt = make_gpt(context_length=128, n_embd=32)
    torch.nn.init.normal_(gpt.embedding.token.weight, std=0.1)
    examples = encode_examples(encoding, ["the cat", "the dog"], ["", "ate"], ["sat on the mat", "the hat"], 128)
    goal = objective(gpt, encoding, make_config(), [examples], examples, CPU, questions=[("the cat", "")])
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=1e-2)
    for step in range(40):
        goal.loss(step).backward()
        optimizer.step()
        optimizer.zero_grad()
    return gpt, goal


def test_an_assistant_learns_to_answer_and_to_stop(taught, encoding):
    gpt, _ = taught
    assert answer_all(gpt, encoding, [("the cat", ""), ("the dog", "ate")]) == ["sat on the mat", "the hat"]
    cut = encoding.decode(encoding.encode("sat on the mat")[:2])
    assert answer_all(gpt, encoding, [("the cat", "")], max_new_tokens=2) == [cut]


def test_an_answer_passes_over_rows_of_a_padded_embedding_that_are_no_token(make_gpt, encoding):
    gpt = make_gpt(context_length=64, vocabulary_size=encoding.n_vocab + 20, tied=False)
    with torch.no_grad():
        gpt.output.weight[: encoding.n_vocab] = 0
    assert answer_all(gpt, encoding, [("the cat", ""), ("sat", "on")], max_new_tokens=4) == ["", ""]


def test_an_evaluation_answers_its_questions_and_says_the_loss(taught):
    found = taught[1].evaluate()
    assert found["samples"] == ["the cat -> sat on the mat"]
    assert found["validation_loss"] < 0.05


def test_a_question_that_leaves_no_room_for_an_answer_is_passed_over(make_gpt, make_config, encoding):
    gpt, long = make_gpt(context_length=128), ("the moon " * 60, "")
    examples = encode_examples(encoding, ["the cat"], [""], ["sat"], 128)
    assert leaves_room(gpt, encoding, ("the cat", ""))
    assert not leaves_room(gpt, encoding, long)
    goal = objective(gpt, encoding, make_config(), [examples], examples, CPU, questions=[long, ("the cat", "")])
    assert [sample.split(" -> ")[0] for sample in goal.evaluate()["samples"]] == ["the cat"]


def test_served_rows_are_answered_and_one_that_can_not_be_says_why_and_leaves_the_others_alone(taught, encoding):
    rows = [
        {"instruction": "the cat"},
        {"input": "ate"},
        {"instruction": 7},
        {"instruction": "the moon " * 60},
        {"instruction": "the dog", "input": "ate"},
    ]
    good, missing, number, long, other = serve(taught[0], encoding, rows)
    assert (good, other) == ({"output": "sat on the mat"}, {"output": "the hat"})
    assert missing == {"error": "instruction: missing"}
    assert number == {"error": "instruction: 7 is not text"}
    assert long["error"].endswith("new ones do not fit the context of 128")


def test_served_answers_follow_the_options(taught, encoding):
    gpt, _ = taught
    cut = encoding.decode(encoding.encode("sat on the mat")[:2])
    assert serve(gpt, encoding, [{"instruction": "the cat", "input": None}], max_new_tokens=2) == [{"output": cut}]
    for wrong in ({"top_q": 1}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            serve(gpt, encoding, [{"instruction": "the cat"}], **wrong)
