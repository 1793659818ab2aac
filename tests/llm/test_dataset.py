import json
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.dataset import BatchSampler, TokenWindows, pad
from llm.errors import UserError

quick = settings(max_examples=50)
rows, sizes, seeds = st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**31)


@quick
@given(rows, sizes, seeds)
def test_each_epoch_is_a_permutation(count, size, seed):
    order = BatchSampler(count, size, seed)
    stream = np.concatenate([order[batch] for batch in range(-(-3 * count // size))])
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


@quick
@given(rows, sizes, seeds)
def test_a_batch_is_the_same_whatever_was_asked_before(count, size, seed):
    in_order = [BatchSampler(count, size, seed)[batch].tolist() for batch in range(12)]
    other, asked = BatchSampler(count, size, seed), list(range(12))
    Random(seed).shuffle(asked)
    assert {batch: other[batch].tolist() for batch in asked} == dict(enumerate(in_order))
    assert all(len(batch) == size for batch in in_order)


def test_epochs_and_seeds_have_orders_of_their_own():
    assert len({tuple(BatchSampler(50, 50, seed)[epoch]) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="there is nothing to learn from: 0 rows"):
        BatchSampler(0, 4, 1)


def windows(folder, tokens: int, context: int, dtype: str = "uint16") -> TokenWindows:
    np.arange(tokens, dtype=dtype).tofile(folder / "train.bin")
    meta = {"dtype": dtype, "splits": {"train": {"tokens": tokens, "bytes": 3 * tokens}}}
    (folder / "meta.json").write_text(json.dumps(meta))
    return TokenWindows(folder, "train", context)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_windows_cover_the_file_once_and_targets_are_one_ahead(tmp_path, dtype):
    text = windows(tmp_path, tokens=23, context=5, dtype=dtype)
    assert (len(text), text.bytes_per_token) == (4, 3.0)
    inputs, targets = text.batch(np.arange(4))
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.flatten().tolist() == list(range(20))
    assert targets.flatten().tolist() == list(range(1, 21))
    assert text.batch(np.array([3, 1]))[0].tolist() == [[15, 16, 17, 18, 19], [5, 6, 7, 8, 9]]


def test_the_last_window_needs_a_target_for_its_last_token(tmp_path):
    assert len(windows(tmp_path, tokens=10, context=5)) == 1
    assert len(windows(tmp_path, tokens=11, context=5)) == 2


def test_a_file_shorter_than_a_window_is_one_shorter_window(tmp_path):
    text = windows(tmp_path, tokens=5, context=512)
    assert (len(text), text.context_length) == (1, 4)
    inputs_BT, targets_BT = text.batch(np.array([0]))
    assert inputs_BT.tolist() == [[0, 1, 2, 3]]
    assert targets_BT.tolist() == [[1, 2, 3, 4]]
    assert [rows.tolist() for rows in text.evaluation_batches(16, 4)] == [[0]]
    with pytest.raises(ValueError, match=r"train\.bin: 1 tokens leave none to predict; bring more text"):
        windows(tmp_path, tokens=1, context=5)


@pytest.mark.parametrize(
    ("there", "promised", "reason"),
    [
        (20, 4000, r"validation\.bin: 20 tokens, not 4000 as meta\.json has it$"),
        (0, 4, r"validation\.bin: 0 tokens, not 4 as"),
        (0, 0, r"validation\.bin: no tokens; bring more text$"),
    ],
)
def test_a_file_without_the_tokens_that_it_should_have_is_named(tmp_path, there, promised, reason):
    np.zeros(there, dtype="uint16").tofile(tmp_path / "validation.bin")
    meta = {"dtype": "uint16", "splits": {"validation": {"tokens": promised, "bytes": 4}}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=reason):
        TokenWindows(tmp_path, "validation", 8)


@pytest.mark.parametrize(("batches", "size", "expected"), [(3, 2, 6), (100, 4, 20), (1, 1, 1)])
def test_evaluation_is_on_distinct_windows_from_end_to_end(tmp_path, batches, size, expected):
    text = windows(tmp_path, tokens=101, context=5)
    parts = text.evaluation_batches(batches, size)
    chosen = np.concatenate(parts).tolist()
    assert chosen == sorted(set(chosen)) == np.concatenate(text.evaluation_batches(batches, size)).tolist()
    assert len(chosen) == expected
    assert chosen[0] == 0
    assert chosen[-1] == (19 if expected > 1 else 0)
    assert len(parts) <= batches


def test_pad_fills_up_on_the_right():
    padded, lengths = pad([[1, 2, 3], [4], [5, 6]], 9)
    assert padded.tolist() == [[1, 2, 3], [4, 9, 9], [5, 6, 9]]
    assert lengths.tolist() == [3, 1, 2]


def test_with_lengths_an_epoch_is_still_a_permutation_and_a_batch_needs_little_padding():
    lengths = np.random.default_rng(0).integers(1, 400, 640)
    plain, sorted_by_length = BatchSampler(640, 8, 3), BatchSampler(640, 8, 3, lengths=lengths)
    batches = [sorted_by_length[i] for i in range(80)]
    assert sorted(np.concatenate(batches)) == list(range(640))

    def padded(order: BatchSampler) -> int:
        return sum(int(lengths[order[i]].max()) * 8 for i in range(80))

    assert padded(sorted_by_length) < 1.15 * lengths.sum() < padded(plain)
