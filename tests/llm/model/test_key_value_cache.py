import psutil
import pytest
import torch

from llm.config import GPTShape
from llm.model.key_value_cache import KeyValueCache

CPU = torch.device("cpu")


def make_cache(shape: GPTShape, rows: int, dtype: torch.dtype = torch.float32) -> KeyValueCache:
    return KeyValueCache(shape, rows, device=CPU, dtype=dtype)


def test_cache_rows_fill_up_at_their_own_positions():
    cache = make_cache(GPTShape(context_length=6, n_layer=2, n_head=2, n_embd=4), 2)
    k_BHTD = torch.arange(16.0).view(2, 2, 2, 2)
    positions_BT = torch.tensor([[0, 1], [3, 4]])
    keys, values = cache.write(1, positions_BT, k_BKTD=k_BHTD, v_BKTD=-k_BHTD, end=5)
    assert keys.shape == (2, 2, 5, 2)
    assert torch.equal(keys[0, :, :2], k_BHTD[0])
    assert torch.equal(keys[1, :, 3:5], k_BHTD[1])
    assert torch.equal(values, -keys)
    assert not keys[0, :, 2:].any()
    assert not keys[1, :, :3].any()
    assert not cache.keys_LBKSD[0].any()


def test_rows_of_the_cache_share_its_memory_and_can_move():
    cache = make_cache(GPTShape(context_length=6, n_layer=2, n_head=2, n_kv_head=1, n_embd=4), 3)
    assert cache.keys_LBKSD.shape == (2, 3, 1, 6, 2)
    ones = torch.ones(1, 1, 2, 2)
    cache.rows(2, 3).write(0, torch.tensor([[0, 1]]), k_BKTD=ones, v_BKTD=2 * ones, end=2)
    assert cache.keys_LBKSD[0, 2, :, :2].eq(1).all()
    cache.move(2, 0, 2)
    assert cache.keys_LBKSD[0, 0, :, :2].eq(1).all()
    assert cache.values_LBKSD[0, 0, :, :2].eq(2).all()
    assert cache.keys_LBKSD.sum() == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache_is_zero_and_takes_memory_for_what_was_written_alone(dtype):
    before = psutil.Process().memory_info().rss
    cache = make_cache(GPTShape(context_length=4096, n_layer=4, n_head=8, n_embd=512), 32, dtype)
    cache.keys_LBKSD[:, :2, :, :64] = 1
    assert psutil.Process().memory_info().rss - before < cache.keys_LBKSD.nbytes / 10
    assert cache.keys_LBKSD.shape == (4, 32, 8, 4096, 64)
    assert cache.keys_LBKSD.dtype == dtype
    assert not cache.values_LBKSD[:, 5, :, ::512].any()
