from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from llm.chat import Chat
from llm.device import Compute
from llm.model.gpt import GPT
from llm.objectives.assistant import Example, Question, encode_examples, objective, pack_sequences, row_width
from llm.objectives.assistant.examples import IGNORE
from llm.objectives.assistant.loss import response_loss
from llm.objectives.assistant.packing import batch, shared_prefix
from llm.tokenizer import END_OF_TEXT

quick = settings(max_examples=25)
CPU = Compute(torch.device("cpu"), torch.float32, "a test")


def example(prompt: list[int], response: list[int]) -> Example:
    return Example(prompt + response, [False] * len(prompt) + [True] * len(response))


@st.composite
def lists_of_examples(draw: st.DrawFn) -> list[Example]:
    examples = []
    for _ in range(draw(st.integers(1, 8))):
        tokens = draw(st.lists(st.integers(0, 250), min_size=1, max_size=30))
        learned = [draw(st.booleans()) for _ in tokens]
        examples.append(Example(tokens=[5, *tokens, 6], learned=[False, *learned, True]))
    return examples


def loss_of(gpt: GPT, example: Example, opening_weight: float = 1.0) -> torch.Tensor:
    """The summed loss of one row: each of the assistant's tokens from all that stands before it."""
    logits = gpt(torch.tensor([example.tokens[:-1]]))[0]
    losses = F.cross_entropy(logits, torch.tensor(example.tokens[1:]), reduction="none")
    weights = torch.tensor(example.learned[1:]).float()
    for position, (before, learned) in enumerate(pairwise(example.learned)):
        if learned and not before:
            weights[position] = opening_weight
    return losses @ weights


@quick
@given(lists_of_examples(), st.sampled_from([1.0, 5.0]))
def test_packed_rows_have_the_loss_and_the_gradient_of_unpacked_ones(make_gpt, examples, opening_weight):
    packed = make_gpt()
    unpacked = make_gpt()
    loss = response_loss(packed, pack_sequences(examples, 32), CPU, opening_weight=opening_weight)
    expected = sum(loss_of(unpacked, example, opening_weight) for example in examples)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    for ours, theirs in zip(packed.parameters(), unpacked.parameters(), strict=True):
        largest = theirs.grad.abs().max().item()
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4 * max(largest, 1e-3), rtol=1e-3)


@quick
@given(lists_of_examples(), st.integers(1, 3))
def test_evaluation_is_the_mean_over_all_response_tokens_of_rows_longer_than_those_learned(
    make_gpt, make_config, examples, batch_size
):
    gpt = make_gpt(context_length=128)
    examples.append(example([1] * 60, [2, 3]))
    windows = [[example([1], [2])]]
    config = make_config(batch_size=batch_size)
    goal = objective(gpt, config, windows, validation=examples, compute=CPU, opening_weight=5.0)
    opening = loss_of(gpt, windows[0][0]).item()  # of its only token, which weighs as much in the mean's divisor
    assert goal.loss(gpt, 0).item() == pytest.approx(opening, rel=1e-5)
    loss = sum(loss_of(gpt, example).item() for example in examples)
    count = sum(example.counted for example in examples)
    assert goal.evaluate() == {"validation_loss": pytest.approx(loss / count, rel=1e-5)}


def first_fit(examples: list[Example], length: int) -> list[list[Example]]:
    """What `pack_sequences` does, by looking at every window for each example."""
    prefix = shared_prefix(examples)
    windows = []
    for example in examples:
        is_shared = example.tokens[: len(prefix)] == prefix and not any(example.learned[: len(prefix) + 1])
        packed = Example(example.tokens, example.learned, len(prefix) if is_shared else 0)
        for window in windows:
            joined = [*window, packed]
            if row_width(joined) + len(joined) <= length:  # a row leaves out the last token of each
                window.append(packed)
                break
        else:
            windows.append([packed])
    return windows


@pytest.mark.parametrize(("length", "prefix"), [(40, 0), (64, 1), (200, 9)])
def test_packing_gives_the_windows_of_plain_first_fit(length, prefix):
    random = Random(length)
    examples = []
    for _ in range(400):
        prompt = [1] * (prefix if random.random() < 0.7 else 0) + [random.randrange(2, 9)] * random.randrange(1, 16)
        examples.append(example(prompt, [9] * random.randrange(1, 16)))
    assert pack_sequences(examples, length) == first_fit(examples, length)
    assert pack_sequences([], length) == []
    with pytest.raises(ValueError, match=f"an example of {length + 1} tokens does not fit a window of {length}"):
        pack_sequences([example([1] * 20, [2] * (length - 19))], length)


def test_batch_has_a_shared_prefix_once_in_a_row():
    prefix = [1, 2]
    examples = [example([*prefix, 3, 4], [5, 6]), example([*prefix, 7], [8]), example([9], [1, 2, 3])]
    assert shared_prefix(examples) == prefix
    (window,) = pack_sequences(examples, 12)  # 14 tokens, two of them shared
    assert [example.shared for example in window] == [2, 2, 0]
    assert row_width(window) == 9
    inputs, targets, positions, sequences = batch([window], 10)
    assert inputs.tolist() == [[1, 2, 3, 4, 5, 7, 9, 1, 2, 0]]
    assert targets.tolist() == [[IGNORE, IGNORE, IGNORE, 5, 6, 8, 1, 2, 3, IGNORE]]
    assert positions.tolist() == [[0, 1, 2, 3, 4, 2, 0, 1, 2, 0]]
    assert sequences.tolist() == [[0, 0, 1, 1, 1, 2, 3, 3, 3, -1]]


@pytest.mark.parametrize(
    ("examples", "prefix"),
    [
        ([example([1, 2, 3], [4]), example([1, 5], [4])], [1]),  # 5 predicts a token that is learned
        ([example([1, 2, 3], [4]), example([5, 2, 3], [4])], []),  # one half is not more than half
        ([example([1, 2, 3], [4]), example([1, 2, 3], [4]), example([5, 2, 3], [4])], [1, 2]),
        ([Example([1, 2, 3, 4], [False, True, False, True])] * 3, []),
    ],
)
def test_shared_prefix_is_what_more_than_half_begin_with_before_anything_is_learned(examples, prefix):
    assert shared_prefix(examples) == prefix


def test_examples_learn_all_turns_of_the_assistant_and_leave_out_long_rows(encoding, caplog):
    history = ["the cat", "sat"]
    questions = [Question("and the dog", "on the mat", system="be kind", history=history), Question("sat")]
    (example,) = encode_examples(encoding, Chat(), questions, outputs=["ate", "the moon " * 200], longest=160)
    learned = [token for token, is_learned in zip(example.tokens, example.learned, strict=True) if is_learned]
    assert encoding.decode(learned) == f"sat{END_OF_TEXT}ate{END_OF_TEXT}"
    assert (example.counted, example.responses) == (len(learned), 2)
    text = encoding.decode(example.tokens)
    assert text.startswith("be kind\n\n### Instruction:\nthe cat\n\n### Response:\nsat")
    assert text.endswith(f"### Instruction:\nand the dog\n\non the mat\n\n### Response:\nate{END_OF_TEXT}")
    assert "1 rows are longer than 160 tokens" in caplog.text
