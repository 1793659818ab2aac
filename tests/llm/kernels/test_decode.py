"""A model packed for decode.c, against the model as torch computes it."""

import ctypes
import logging
import platform
import subprocess
from copy import deepcopy
from itertools import cycle, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from llm.formats.huggingface import load_pretrained
from llm.generation.engine import Engine
from llm.generation.packed import pack, pack_for_inference
from llm.generation.request import Request
from llm.generation.sampling import Sampling
from llm.generation.text import generate
from llm.kernels import c_library
from llm.kernels.processor import has_fast_bfloat16
from llm.kernels.serving.decode import BITS, BYTES, FLOAT, SCALES, TYPES
from llm.kernels.serving.decode_library import SOURCES, declare, load_library
from llm.model.key_value_cache import KeyValueCache
from llm.training.frozen_blocks import split_blocks
from tests.processors import AVX_VNNI

SIZES = [{"n_embd": 36, "n_head": 6}, {"n_embd": 64, "n_head": 8, "n_kv_head": 2}, {"n_embd": 48, "n_hidden": 57}]
SHAPES = [
    {"positions": positions, "norm": norm, "mlp": mlp, "bias": bias, "tied": tied, "qk_norm": qk_norm, **sizes}
    for (positions, norm, mlp), (bias, tied, qk_norm), sizes in zip(
        product(("learned", "rotary"), ("layer", "rms"), ("gelu", "swiglu")),
        2 * [(True, True, False), (False, False, True), (True, False, False), (False, True, True)],
        cycle(SIZES),
        strict=False,
    )
]
"""All kinds of positions, norms and MLPs, with and without biases, tied, scaled queries; widths that fill no group."""


@pytest.fixture(scope="module")
def library():
    found = load_library()
    assert found is not None, "a C compiler is among what these tests need"
    return found


def name_of(shape):
    return "-".join(map(str, shape.values()))


@pytest.fixture(params=SHAPES[::4], ids=name_of)
def gpt(request, make_gpt):
    return make_gpt(**({"n_head": 4} | request.param))


def exact(gpt, library):
    return pack(deepcopy(gpt), library, exact=True)


def logits(model, tokens):
    with torch.inference_mode():
        return model(tokens).float()


def some_tokens(model, *size):
    return torch.randint(model.config.vocabulary_size, size, generator=torch.Generator().manual_seed(0))


def distance(found, expected):
    """The norm of the difference over the norm."""
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_in_float32_it_is_the_model_of_any_shape_and_makes_the_same_texts(make_gpt, library, shape):
    gpt = make_gpt(**({"n_head": 4, "norm_epsilon": 0.1} | shape))
    model, tokens, places = exact(gpt, library), some_tokens(gpt, 3, 32), torch.arange(32)[None]
    torch.testing.assert_close(logits(model, tokens), logits(gpt, tokens), atol=5e-4, rtol=1e-4)
    with torch.inference_mode():  # one row of positions is that of all
        assert torch.equal(model.logits(model.hidden_states(tokens, places)), logits(model, tokens))
    prompts = [[1 + n, 2 * n, 7][: 1 + n % 3] for n in range(7)]
    most = [3 + 5 * n % 11 for n in range(7)]
    texts = []
    for each in (gpt, model):
        engine = Engine(each, rows=3)  # which join and leave
        found = {engine.submit(Request(*asked)): [] for asked in zip(prompts, most, strict=True)}
        while engine.busy:
            for event in engine.step():
                found[event.handle].append(event.token)
        texts.append(list(found.values()))
    assert [len(text) for text in texts[0]] == most
    assert texts[0] == texts[1]


def test_halves_of_a_model_give_what_the_whole_does_to_the_bit(gpt):
    tokens = some_tokens(gpt, 3, 32)
    lower, upper = (pack_for_inference(deepcopy(half)) for half in split_blocks(gpt, 1))
    expected = pack_for_inference(deepcopy(gpt)).hidden_states(tokens)
    assert torch.equal(upper.hidden_states(lower.hidden_states(tokens)), expected)


def test_eight_bits_stay_close_to_float32(gpt, library):
    tokens = some_tokens(gpt, 4, 32)
    model = pack_for_inference(deepcopy(gpt))
    assert set(model.decoder.bits) == {8}
    assert distance(logits(model, tokens), logits(gpt, tokens)) < 0.06  # measured: up to 0.048; bfloat16 has 0.03


def test_a_text_is_the_same_alone_and_among_others_to_the_bit(gpt):
    model = pack_for_inference(deepcopy(gpt))
    prompts = [[1 + n, 2 + n, 5][: 1 + n % 3] for n in range(27)]
    for sampling in (Sampling(), Sampling(temperature=1.0, seed=1)):
        alone = [generate(model, [prompt], max_new_tokens=8, sampling=sampling)[0] for prompt in prompts]
        assert generate(model, prompts, max_new_tokens=8, sampling=sampling) == alone


def test_a_text_that_begins_as_one_before_is_the_same_to_the_bit(gpt):
    model = pack_for_inference(deepcopy(gpt))

    def events(engine, request):
        handle, found = engine.submit(request), []
        while engine.busy:
            found += [event._replace(handle=0) for event in engine.step() if event.handle == handle]
        return found

    talk, used = [3, 1, 4, 1, 5], Engine(model, rows=3)
    for new in ([9, 2], [6], [5, 3, 5]):
        asked = Request([*talk, *new], 4, logprobs=5, scored=(8, 9, 7))
        found = events(used, asked)
        assert found == events(Engine(model, rows=1), asked)
        talk += [*new, *(event.token for event in found)]


@pytest.mark.parametrize("kind", [FLOAT, BYTES])
def test_logits_of_a_row_do_not_depend_on_how_many_there_are_or_on_threads(make_gpt, library, kind):
    gpt = make_gpt(n_embd=96, n_head=4)
    model = pack(gpt, library, exact=kind == FLOAT)
    assert model.decoder.bits[0] == BITS[kind]
    tokens = some_tokens(gpt, 150, 3)  # more than a step of the C code holds
    alone = torch.cat([logits(model, row) for row in tokens.split(1)])
    for rows in (2, 3, 7, 16, 31, 150):
        assert torch.equal(logits(model, tokens[:rows]), alone[:rows]), rows
    torch.set_num_threads(3)
    try:
        assert torch.equal(logits(model, tokens), alone)
    finally:
        torch.set_num_threads(1)


def test_a_token_at_a_time_is_the_text_at_once(make_gpt):
    model = pack_for_inference(make_gpt(context_length=200, positions="rotary"))
    tokens = some_tokens(model, 2, 200)
    cache = KeyValueCache(model.config, 2, model.device, model.decoder.cache_dtype)
    parts = [
        model.hidden_states(tokens[:, t : t + 1], torch.full((2, 1), t), cache=cache) for t in range(tokens.shape[1])
    ]
    assert torch.equal(torch.cat(parts, dim=1), model.hidden_states(tokens))


def test_the_largest_integers_of_all_overflow_no_sum(make_gpt, library):
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


def pack_tiles(kind, stored, outputs, inputs, rows, threads=1):
    """Whether tiles of this kind may stand for a matrix, their bytes, and their scales."""
    tiles = -(-outputs // 16) * -(-inputs // 32)
    packed, scales = (torch.zeros(tiles * 16 * each, dtype=torch.uint8) for each in (4 * BITS[kind], 2 * SCALES[kind]))
    pointers = rows.data_ptr(), rows.nbytes // outputs, packed.data_ptr(), scales.data_ptr()
    return load_library().pack(kind, stored, outputs, inputs, *pointers, threads), packed, scales


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@settings(max_examples=40)
@given(outputs=st.integers(1, 40), inputs=st.integers(1, 96), seed=st.integers(0, 2**16), finite=st.booleans())
def test_tiles_of_16_bits_are_those_of_their_floats_to_the_bit(dtype, outputs, inputs, seed, finite):
    bits = np.random.default_rng(seed).integers(-(2**15), 2**15, (outputs, inputs), np.int16)
    rows = torch.from_numpy(bits).view(dtype)  # infinities and NaN too
    rows = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)).to(dtype) if finite else rows
    for kind in (BYTES, FLOAT):
        stands, *found = pack_tiles(kind, TYPES[dtype], outputs, inputs, rows, threads=2)
        expected = pack_tiles(kind, TYPES[torch.float32], outputs, inputs, rows.float())
        assert stands == expected[0]
        assert stands or not finite
        if stands:
            numbers = np.float32 if kind == FLOAT else np.uint8  # one NaN is as good as another
            for one, other in zip(found, expected[1:], strict=True):
                np.testing.assert_array_equal(one.numpy().view(numbers), other.numpy().view(numbers))


def test_published_text_has_the_perplexity_of_float32(smollm2, library):
    text = (Path(__file__).parents[3] / "README.md").read_text()[:3000]
    gpt, encoding = load_pretrained(smollm2, context_length=1024)
    tokens = torch.tensor([encoding.encode_ordinary(text)])

    def perplexity(logits_TV):
        return float(F.cross_entropy(logits_TV[:-1], tokens[0, 1:]).exp())

    expected = perplexity(logits(gpt, tokens)[0])
    model = pack(gpt, library)
    assert set(model.decoder.bits) == {8}
    assert perplexity(logits(model, tokens)[0]) == pytest.approx(expected, rel=0.02)


def test_float16_keys_and_values_predict_published_text_as_float32_ones_do(smollm2, library):
    text = (Path(__file__).parents[3] / "README.md").read_text()[:3000]
    gpt, encoding = load_pretrained(smollm2, context_length=1024)
    tokens = torch.tensor([encoding.encode_ordinary(text)])
    model = exact(gpt, library)  # so that nothing else is rounded
    assert model.decoder.cache_dtype == torch.float32
    expected_TV = logits(model, tokens)[0]
    model.decoder.cache_dtype = torch.float16
    logits_TV = logits(model, tokens)[0]
    assert distance(logits_TV, expected_TV) < 1e-3  # measured: 2.5e-4, where 8-bit weights have 2e-2
    losses = [F.cross_entropy(each[:-1], tokens[0, 1:]).item() for each in (logits_TV, expected_TV)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    same_T = logits_TV.argmax(dim=1) == expected_TV.argmax(dim=1)
    assert same_T.float().mean() > 0.99  # measured: 0.999


def test_a_float16_cache_takes_half_of_the_memory_and_keeps_what_it_does_not_reach_as_infinity(make_gpt, library):
    gpt = make_gpt(n_embd=64, n_head=4)
    model = pack(deepcopy(gpt), library)
    halves, floats = (
        KeyValueCache(model.config, 1, model.device, dtype) for dtype in (model.decoder.cache_dtype, torch.float32)
    )
    assert 2 * halves.keys_LBKSD.nbytes == floats.keys_LBKSD.nbytes
    tokens = some_tokens(gpt, 1, 20)
    with torch.inference_mode():
        model.hidden_states(tokens, cache=halves)
        model.hidden_states(tokens, cache=floats)
    assert torch.equal(halves.keys_LBKSD[0], floats.keys_LBKSD[0].half())  # to the nearest; later layers read them
    assert torch.equal(halves.values_LBKSD[0], floats.values_LBKSD[0].half())
    gpt.blocks[0].attention.query_key_value.bias.data[64 + 5] = 1e6
    gpt.blocks[0].attention.query_key_value.bias.data[64 + 6] = -1e6
    broken, cache = pack(gpt, library), KeyValueCache(model.config, 1, model.device, torch.float16)
    with torch.inference_mode():
        x_BTC = broken.hidden_states(tokens, cache=cache)
    assert cache.keys_LBKSD[0, 0, 0, :20, 5].isposinf().all()
    assert cache.keys_LBKSD[0, 0, 0, :20, 6].isneginf().all()
    assert x_BTC.isnan().all()


GIVE = """
#include "products.h"
#include <stdio.h>

int main(void) {
    const float all[][2] = {{1, -4}, {NAN, 1}, {1, -INFINITY}, {0, 0}, {0x1p-140f, -0x1p-149f}, {3e38f, -3e38f}};
    for (int row = 0; row < 6; row++) {
        int8_t bytes[GROUP];
        float scale;
        int32_t offset;
        const Inputs x = {.bytes = bytes, .scales = &scale, .offsets = &offset};
        give(&x, BYTES, 0, all[row], 2);
        printf("%d %d %d %g %d\\n", bytes[0], bytes[1], bytes[2], scale, offset);
    }
}
"""


def test_inputs_of_any_size_and_none_are_rounded_without_undefined_behaviour(tmp_path):
    source, program = tmp_path / "give.c", tmp_path / "give"
    source.write_text(GIVE)
    checks = "-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all", "-Wno-unused-function"
    options = *(each for each in c_library.COMPILE if each not in ("-c", "-O3")), "-O1", f"-I{SOURCES[0].parent}"
    subprocess.run(["gcc", *options, *checks, source, "-o", program, "-lm"], check=True)
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [line.split()[:3] for line in ran.stdout.splitlines()] == [
        ["32", "-127", "0"],
        *[["0", "0", "0"]] * 4,
        ["127", "-127", "0"],
    ]
    scales = [float(line.split()[3]) for line in ran.stdout.splitlines()]
    assert scales[0] == pytest.approx(4 / 127, rel=1e-4)
    assert ran.stdout.splitlines()[0].split()[4] == str(-128 * -95)
    assert np.isnan(scales[1:3]).all()
    assert np.isfinite(scales[3:]).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_input_that_is_no_number_makes_all_outputs_of_its_token_nan_and_no_other(make_gpt, library, value):
    gpt = make_gpt(n_embd=64, n_head=4, tied=False)
    model = pack(gpt, library)
    assert model.decoder.bits[-1] == BITS[BYTES]
    x = torch.randn(3, 64)
    expected = model.logits(x)
    x[1, 40] = value
    found = model.logits(x)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


def test_a_packed_model_has_no_other_weights(make_gpt):
    gpt = make_gpt(n_embd=64)
    count, model = sum(weight.numel() for weight in gpt.parameters()), pack_for_inference(gpt)
    assert not [*model.parameters()]
    assert 1.1 * count < model.decoder.nbytes < 1.3 * count  # a byte each, a scale a group, and padding of small ones


def test_with_amx_prompts_are_read_by_torch_in_bfloat16_and_the_rest_by_c(make_gpt, monkeypatch):
    gpt = make_gpt(n_embd=64)
    by_torch, tokens = deepcopy(gpt).bfloat16(), some_tokens(gpt, 2, 9)
    by_c = pack_for_inference(deepcopy(gpt))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    model = pack_for_inference(deepcopy(gpt))
    with torch.inference_mode():
        assert torch.equal(model.hidden_states(tokens), by_torch.hidden_states(tokens))
        assert torch.equal(model.hidden_states(tokens[:, :1]), by_c.hidden_states(tokens[:, :1]))
    prompts = [[1 + n, 2 + n, 5][: 1 + n % 3] for n in range(9)]
    alone = [generate(model, [prompt], max_new_tokens=8)[0] for prompt in prompts]
    assert generate(model, prompts, max_new_tokens=8) == alone


def fresh(monkeypatch, tmp_path):
    """As a process in which nothing was loaded, with an empty cache folder."""
    load_library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def unbuilt(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        fresh(patch, tmp_path)
        yield patch
    load_library.cache_clear()


def test_without_a_compiler_torch_makes_the_texts_and_the_reason_is_said_once(unbuilt, make_gpt, caplog):
    unbuilt.setenv("CC", "no-such-compiler")
    gpt = make_gpt(n_embd=64)
    with caplog.at_level(logging.WARNING):
        models = [pack_for_inference(deepcopy(gpt)) for _ in range(2)]
    assert [record.message for record in caplog.records] == [
        "decode.c, which is faster than torch, can't be used: there is no C compiler (no-such-compiler)"
    ]
    tokens, expected = some_tokens(gpt, 2, 9), deepcopy(gpt).bfloat16() if has_fast_bfloat16(gpt.device) else gpt
    assert all(torch.equal(logits(model, tokens), logits(expected, tokens)) for model in models)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are kinds of x86")
@pytest.mark.parametrize(
    "march",
    [
        "x86-64-v2",
        "x86-64-v3",
        pytest.param("alderlake", marks=pytest.mark.skipif(not AVX_VNNI, reason="the processor has no AVX-VNNI")),
    ],
)
def test_a_processor_without_avx512_computes_the_same(make_gpt, library, march, tmp_path, monkeypatch):
    monkeypatch.setattr(c_library, "COMPILE", tuple(each.replace("native", march) for each in c_library.COMPILE))
    older = declare(ctypes.CDLL(str(c_library.build(SOURCES, tmp_path))))
    for bits in (32, 8):
        gpt = make_gpt(n_embd=64, n_head=4)
        tokens = some_tokens(gpt, 19, 5)
        model, other = (pack(deepcopy(gpt), build, exact=bits == 32) for build in (library, older))
        assert other.decoder.bits[0] == bits
        for each in (model, other):  # one thing is rounded at a time: weights and inputs, or keys and values
            each.decoder.cache_dtype = torch.float16 if bits == 32 else torch.float32
        found_BTV, expected_BTV = logits(other, tokens), logits(model, tokens)
        distances_BT = (found_BTV - expected_BTV).norm(dim=-1) / expected_BTV.norm(dim=-1)
        assert distances_BT.quantile(0.9) < (1e-5 if bits == 32 else 1e-6)  # measured: 2e-6 and 4e-7
        assert distances_BT.max() < 0.02  # where one input is rounded to another integer


def test_what_it_can_not_read_is_an_error(make_gpt):
    model, cpu = pack_for_inference(make_gpt(positions="rotary")), torch.device("cpu")
    one, two, zero = torch.tensor([[1]]), torch.ones(2, 1, dtype=torch.long), torch.zeros(2, 1, dtype=torch.long)

    def cache(rows=2, dtype=torch.float32, length=model.config.context_length):
        return KeyValueCache(model.config.model_copy(update={"context_length": length}), rows, cpu, dtype)

    for error, reason, inputs, options in [
        (IndexError, "a token that the model lacks", [one * model.config.vocabulary_size], {}),
        (IndexError, "a position that the cache lacks", [one, one * 4], {"cache": cache(length=4)}),
        (IndexError, "a position that the cache lacks", [two, zero + 32], {"cache": cache(length=320)}),
        (ValueError, "33 tokens do not fit the context of 32", [torch.zeros(1, 33).long()], {}),
        (ValueError, "reads a text a row", [one], {"sequences_BT": one}),
        (ValueError, "a text that does not begin at 0, and no cache", [one, one], {}),
        (ValueError, "a cache of torch.bfloat16", [two, zero], {"cache": cache(dtype=torch.bfloat16)}),
        (ValueError, "2 texts, and the cache has 1", [two, zero], {"cache": cache(rows=1)}),
    ]:
        with pytest.raises(error, match=reason):
            model.hidden_states(*inputs, **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_what_fits_no_eight_bits_stays_as_it_is(make_gpt, library, value):
    gpt = make_gpt()
    with torch.no_grad():
        gpt.blocks[0].mlp.expand.weight[3, 5] = value
    decoder = pack(deepcopy(gpt), library).decoder
    assert decoder.bits[2:4] == [32, 8]
    tokens = some_tokens(gpt, 1, 4)
    found = decoder.logits(decoder.hidden_states(tokens, None, None))
    assert torch.isfinite(found).all() == torch.isfinite(logits(gpt, tokens)).all()


def test_a_packed_model_is_not_copied_or_pickled(make_gpt):
    with pytest.raises(ValueError, match="can't be copied; keep the one that it was made from"):
        deepcopy(pack_for_inference(make_gpt()))
