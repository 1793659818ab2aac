import psutil
import pytest
import torch

from llm.config import GPTShape
from llm.model.key_value_cache import KeyValueCache

CPU = torch.device("cpu")


def make_cache(rows: int, dtype: torch.dtype = torch.float32, **shape: int) -> KeyValueCache:
    return KeyValueCache(GPTShape(**shape), rows, device=CPU, dtype=dtype)


def test_rows_of_the_cache_share_its_memory_fill_up_at_their_own_positions_and_can_move():
    cache = make_cache(3, context_length=6, n_layer=2, n_head=2, n_kv_head=1, n_embd=4)
    k_BKTD = torch.arange(8.0).view(2, 1, 2, 2) + 1
    positions_BT = torch.tensor([[0, 1], [3, 4]])
    keys, values = cache.rows(1, 3).write(1, positions_BT, k_BKTD=k_BKTD, v_BKTD=-k_BKTD, end=5)
    assert torch.equal(values, -keys)
    expected = torch.zeros(2, 3, 1, 6, 2)
    expected[1, 1, :, :2] = k_BKTD[0]
    expected[1, 2, :, 3:5] = k_BKTD[1]
    assert torch.equal(keys, expected[1, 1:, :, :5])
    assert torch.equal(cache.keys_LBKSD, expected)
    cache.move(2, 0, 4)
    expected[1, 0, :, 3] = k_BKTD[1, :, 0]
    assert torch.equal(cache.keys_LBKSD, expected)
    assert torch.equal(cache.values_LBKSD, -expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache_is_zero_and_takes_memory_for_what_was_written_alone(dtype):
    before = psutil.Process().memory_info().rss
    cache = make_cache(32, dtype, context_length=4096, n_layer=4, n_head=8, n_embd=512)
    cache.keys_LBKSD[:, :2, :, :64] = 1
    assert psutil.Process().memory_info().rss - before < cache.keys_LBKSD.nbytes / 10
    assert cache.keys_LBKSD.dtype == dtype
    assert not cache.values_LBKSD[:, 5, :, ::512].any()
