"""decode.c itself: its tiles, its bits for any number of rows and threads, and its builds for other processors."""

import platform
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_models import logits_of, some_tokens
from processors import AVX_VNNI, threads
from torch import Tensor

from llm.generation.packed import pack
from llm.kernels import c_library
from llm.kernels.processor import KINDS
from llm.kernels.serving.decode import BITS, BYTES, FLOAT, SCALES, TYPES
from llm.kernels.serving.decode_library import SOURCES, declare, load_library

OTHER_PROCESSORS = [
    "avx2",
    pytest.param("avx2-vnni", marks=pytest.mark.skipif(not AVX_VNNI, reason="the processor has no AVX-VNNI")),
]


@pytest.fixture(scope="module")
def library():
    library = load_library()
    assert library is not None, "a C compiler is among what these tests need"
    return library


@pytest.mark.parametrize("kind", [FLOAT, BYTES])
def test_logits_of_a_row_do_not_depend_on_how_many_there_are_or_on_threads(make_gpt, library, kind):
    model = pack(make_gpt(n_embd=96, n_head=4), library, exact=kind == FLOAT)
    assert model.decoder.bits[0] == BITS[kind]
    tokens = some_tokens(model, 150, 3)  # more than a step of the C code holds
    alone = torch.cat([logits_of(model, row) for row in tokens.split(1)])
    for rows in (2, 3, 7, 16, 31, 150):
        assert torch.equal(logits_of(model, tokens[:rows]), alone[:rows]), rows
    with threads(3):
        assert torch.equal(logits_of(model, tokens), alone)


def test_largest_integers_of_all_overflow_no_sum(make_gpt, library):
    gpt = make_gpt(n_embd=64, n_head=4, tied=False)
    ones = torch.ones(64)
    alternating = (127 * ones).index_fill_(0, torch.arange(0, 64, 2), -127.0)
    single = (127 * ones).index_fill_(0, torch.tensor([0, 32]), -127.0)
    gpt.output.weight.data[:3] = torch.stack([alternating, single, -single])
    gpt.output.weight.data[3:] = 0
    model = pack(deepcopy(gpt), library)
    assert model.decoder.bits[-1] == BITS[BYTES]
    signs = alternating.sign()
    x = torch.stack([ones, -ones, signs, -signs, ones.cumsum(0)])
    torch.testing.assert_close(model.logits(x[:4]), x[:4] @ gpt.output.weight.T, atol=0.01, rtol=0)
    assert torch.equal(model.logits(x)[:4], model.logits(x[:4]))


class Tiles(NamedTuple):
    """A matrix in tiles of some kind."""

    stand: bool
    """Whether they may stand for the matrix."""
    weights: Tensor
    """Their bytes."""
    scales: Tensor


def pack_tiles(kind: int, rows: Tensor, threads: int = 1) -> Tiles:
    outputs, inputs = rows.shape
    tiles = -(-outputs // 16) * -(-inputs // 32)
    weights = torch.zeros(tiles * 16 * 4 * BITS[kind], dtype=torch.uint8)
    scales = torch.zeros(tiles * 16 * 2 * SCALES[kind], dtype=torch.uint8)
    source = (outputs, inputs, rows.data_ptr(), rows.nbytes // outputs)
    arguments = (kind, TYPES[rows.dtype], *source, weights.data_ptr(), scales.data_ptr(), threads)
    stand = bool(load_library().pack(*arguments))
    return Tiles(stand, weights, scales)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@settings(max_examples=40)
@given(outputs=st.integers(1, 40), inputs=st.integers(1, 96), seed=st.integers(0, 2**16), finite=st.booleans())
def test_tiles_of_16_bits_are_those_of_their_floats_to_the_bit(dtype, outputs, inputs, seed, finite):
    if finite:
        rows = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)).to(dtype)
    else:  # infinities and NaN, too
        bits = np.random.default_rng(seed).integers(-(2**15), 2**15, (outputs, inputs), dtype=np.int16)
        rows = torch.from_numpy(bits).view(dtype)
    for kind, number in ((BYTES, np.uint8), (FLOAT, np.float32)):  # as floats one NaN is as good as another
        tiles = pack_tiles(kind, rows, threads=2)
        expected = pack_tiles(kind, rows.float())
        assert tiles.stand == expected.stand
        assert tiles.stand or not finite
        if tiles.stand:
            np.testing.assert_array_equal(tiles.weights.numpy().view(number), expected.weights.numpy().view(number))
            np.testing.assert_array_equal(tiles.scales.numpy().view(number), expected.scales.numpy().view(number))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_input_makes_all_outputs_of_its_token_nan_and_tiny_and_huge_ones_are_read(make_gpt, library, value):
    model = pack(make_gpt(n_embd=64, n_head=4, tied=False), library)
    assert model.decoder.bits[-1] == BITS[BYTES]
    x = torch.randn(5, 64)
    x[2] = 0
    x[3] *= 1e-41
    x[4] *= 1e35
    expected = model.logits(x)
    x[1, 40] = value
    logits = model.logits(x)
    assert logits[1].isnan().all()
    assert torch.equal(logits[[0, 2, 3, 4]], expected[[0, 2, 3, 4]])
    assert logits[[0, 2, 3, 4]].isfinite().all()
    scaled = model.logits(x[4:] / 1e35)
    torch.testing.assert_close(logits[4:] / 1e35, scaled, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_fit_no_eight_bits_stay_as_they_are(make_gpt, library, value):
    gpt = make_gpt()
    with torch.no_grad():
        gpt.blocks[0].mlp.expand.weight[3, 5] = value
    decoder = pack(deepcopy(gpt), library).decoder
    assert decoder.bits[2:4] == [32, 8]
    tokens = some_tokens(gpt, 1, 4)
    logits = decoder.logits(decoder.hidden_states(tokens, None, None))
    assert torch.isfinite(logits).all() == torch.isfinite(logits_of(gpt, tokens)).all()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are kinds of x86")
@pytest.mark.parametrize("kind", OTHER_PROCESSORS)
def test_processor_without_avx512_computes_the_same(make_gpt, library, kind, monkeypatch):
    (row,) = [row for row in KINDS if row.name == kind]
    monkeypatch.setattr(c_library, "processor", lambda: row)
    older = declare(c_library.load(SOURCES))  # kept in the cache folder for the next time
    gpt = make_gpt(n_embd=64, n_head=4)
    tokens = some_tokens(gpt, 19, 5)
    # one thing is rounded at a time: keys and values, or weights and inputs; measured: 2e-6 and 4e-7
    for exact, cache_dtype, bound in ((True, torch.float16, 1e-5), (False, torch.float32, 1e-6)):
        models = [pack(deepcopy(gpt), built, exact=exact) for built in (library, older)]
        for model in models:
            model.decoder.cache_dtype = cache_dtype
        expected_BTV, logits_BTV = [logits_of(model, tokens) for model in models]
        distances_BT = (logits_BTV - expected_BTV).norm(dim=-1) / expected_BTV.norm(dim=-1)
        assert distances_BT.quantile(0.9) < bound
        assert distances_BT.max() < 0.02  # where one input is rounded to another integer
