import json
from itertools import chain

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
def test_epoch_is_a_permutation_and_batches_are_the_same_in_any_order(count, size, seed):
    order = BatchSampler(count, size, seed)
    batches = [order[batch].tolist() for batch in range(-(-3 * count // size))]
    stream = list(chain.from_iterable(batches))
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))
    again = BatchSampler(count, size, seed)
    backwards = [again[batch].tolist() for batch in reversed(range(len(batches)))]
    assert backwards[::-1] == batches
    assert {len(batch) for batch in batches} == {size}


def test_epochs_and_seeds_have_orders_of_their_own():
    assert len({tuple(BatchSampler(50, 50, seed)[epoch]) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_sampler_refuses_no_rows():
    with pytest.raises(ValueError, match="there is nothing to learn from: 0 rows"):
        BatchSampler(0, 4, 1)


def windows(folder, tokens: int, context: int, dtype: str = "uint16") -> TokenWindows:
    np.arange(tokens, dtype=dtype).tofile(folder / "train.bin")
    meta = {"dtype": dtype, "splits": {"train": {"tokens": tokens, "bytes": 3 * tokens}}}
    (folder / "meta.json").write_text(json.dumps(meta))
    return TokenWindows(folder, "train", context)


@pytest.mark.parametrize(("dtype", "tokens"), [("uint16", 23), ("uint32", 21)])
def test_windows_cover_the_file_once_and_targets_are_one_ahead(tmp_path, dtype, tokens):
    assert len(windows(tmp_path, tokens=20, context=5)) == 3  # the last needs a target for its last token
    text = windows(tmp_path, tokens=tokens, context=5, dtype=dtype)
    assert len(text) == 4
    assert text.bytes_per_token == 3.0
    inputs, targets = text.batch(np.arange(4))
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.flatten().tolist() == list(range(20))
    assert targets.flatten().tolist() == list(range(1, 21))
    assert text.batch(np.array([3, 1]))[0].tolist() == [[15, 16, 17, 18, 19], [5, 6, 7, 8, 9]]


def test_windows_of_a_file_shorter_than_one_are_one_shorter_window(tmp_path):
    text = windows(tmp_path, tokens=5, context=512)
    assert text.context_length == 4
    inputs_BT, targets_BT = text.batch(np.array([0]))
    assert (inputs_BT.tolist(), targets_BT.tolist()) == ([[0, 1, 2, 3]], [[1, 2, 3, 4]])
    assert [rows.tolist() for rows in text.evaluation_batches(16, 4)] == [[0]]
    with pytest.raises(ValueError, match=r"train\.bin: 1 tokens leave none to predict"):
        windows(tmp_path, tokens=1, context=5)


@pytest.mark.parametrize(
    ("count", "promised", "reason"),
    [
        (20, 4000, r"validation\.bin: 20 tokens, not 4000 as meta\.json has it$"),
        (0, 4, r"validation\.bin: 0 tokens, not 4 as"),
        (0, 0, r"validation\.bin: no tokens; bring more text$"),
    ],
)
def test_windows_name_a_file_without_the_tokens_that_it_should_have(tmp_path, count, promised, reason):
    np.zeros(count, dtype="uint16").tofile(tmp_path / "validation.bin")
    meta = {"dtype": "uint16", "splits": {"validation": {"tokens": promised, "bytes": 4}}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=reason):
        TokenWindows(tmp_path, "validation", 8)


@pytest.mark.parametrize(
    ("batches", "size", "expected"), [(3, 2, [0, 3, 7, 11, 15, 19]), (100, 4, list(range(20))), (1, 1, [0])]
)
def test_evaluation_batches_are_distinct_windows_from_end_to_end(tmp_path, batches, size, expected):
    text = windows(tmp_path, tokens=101, context=5)
    assert np.concatenate(text.evaluation_batches(batches, size)).tolist() == expected


def test_pad_fills_up_on_the_right():
    padded, lengths = pad([[1, 2, 3], [4], [5, 6]], 9)
    assert padded.tolist() == [[1, 2, 3], [4, 9, 9], [5, 6, 9]]
    assert lengths.tolist() == [3, 1, 2]


def test_batches_by_length_need_little_padding_and_an_epoch_is_still_a_permutation():
    lengths = np.random.default_rng(0).integers(1, 400, 640)
    plain = BatchSampler(640, 8, 3)
    by_length = BatchSampler(640, 8, 3, lengths=lengths)
    assert sorted(np.concatenate([by_length[batch] for batch in range(80)])) == list(range(640))

    def padded(order: BatchSampler) -> int:
        return sum(8 * lengths[order[batch]].max() for batch in range(80))

    assert padded(by_length) < 1.15 * lengths.sum() < padded(plain)
