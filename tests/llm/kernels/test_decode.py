"""A model packed for decode.c, against the model as torch computes it."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from packed_models import SHAPES, distance, logits_of, name_of, pack_exactly, pack_in_int8, some_tokens
from processors import be, needs_registers
from torch.nn import functional as F

from llm.formats.huggingface import load_pretrained
from llm.generation.packed import pack, pack_for_inference
from llm.generation.request import Request
from llm.generation.sampling import Sampling
from llm.generation.text import generate, run
from llm.kernels.serving.decode_library import load_library
from llm.model.key_value_cache import KeyValueCache
from llm.training.frozen_blocks import split_blocks

PROMPTS = [[1 + n, 2 + n, 5][: 1 + n % 3] for n in range(27)]
"""Prompts of one to three tokens."""
README = Path(__file__).parents[3] / "README.md"


@pytest.fixture(params=SHAPES[::4], ids=name_of)
def gpt(request, make_gpt):
    return make_gpt(**({"n_head": 4} | request.param))


@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_decoder_of_any_shape_in_float32_is_that_of_torch_and_makes_the_same_texts(make_gpt, shape):
    gpt = make_gpt(**({"n_head": 4, "norm_epsilon": 0.1} | shape))
    model = pack_exactly(gpt)
    tokens = some_tokens(gpt, 3, 32)
    torch.testing.assert_close(logits_of(model, tokens), logits_of(gpt, tokens), atol=5e-4, rtol=1e-4)
    positions_1T = torch.arange(32)[None]
    with torch.inference_mode():  # one row of positions is that of all
        assert torch.equal(model.logits(model.hidden_states(tokens, positions_1T)), logits_of(model, tokens))
    lengths = [3 + 5 * n % 11 for n in range(7)]
    requests = [Request([1 + n, 2 * n, 7][: 1 + n % 3], length) for n, length in enumerate(lengths)]
    texts = run(model, requests, rows=3)  # which join and leave
    assert [len(text.tokens) for text in texts] == lengths
    assert texts == run(gpt, requests, rows=3)


def test_halves_of_a_model_give_what_the_whole_does_to_the_bit(gpt):
    tokens = some_tokens(gpt, 3, 32)
    lower, upper = split_blocks(gpt, 1)
    packed_lower = pack_in_int8(lower)
    packed_upper = pack_in_int8(upper)
    expected = pack_in_int8(gpt).hidden_states(tokens)
    assert torch.equal(packed_upper.hidden_states(packed_lower.hidden_states(tokens)), expected)


def test_eight_bits_stay_close_to_float32(gpt):
    tokens = some_tokens(gpt, 4, 32)
    model = pack_in_int8(gpt)
    assert set(model.decoder.bits) == {8}
    assert distance(logits_of(model, tokens), logits_of(gpt, tokens)) < 0.06  # measured: up to 0.048; bfloat16 has 0.03


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=1)], ids=["greedy", "drawn"])
def test_text_is_the_same_alone_and_among_others_to_the_bit(gpt, sampling):
    model = pack_in_int8(gpt)
    alone = [generate(model, [prompt], max_new_tokens=8, sampling=sampling)[0] for prompt in PROMPTS]
    assert generate(model, PROMPTS, max_new_tokens=8, sampling=sampling) == alone


def test_tokens_one_at_a_time_are_the_text_at_once(make_gpt):
    model = pack_in_int8(make_gpt(context_length=200, positions="rotary"))
    tokens = some_tokens(model, 2, 200)
    cache = KeyValueCache(model.config, 2, device=model.device, dtype=model.decoder.cache_dtype)
    parts = []
    for position, token_B1 in enumerate(tokens.split(1, dim=1)):
        parts.append(model.hidden_states(token_B1, torch.full((2, 1), position), cache=cache))
    assert torch.equal(torch.cat(parts, dim=1), model.hidden_states(tokens))


@torch.inference_mode()
def test_published_text_is_predicted_as_by_float32(smollm2):
    gpt, encoding = load_pretrained(smollm2, context_length=256)
    tokens_1T = torch.tensor([encoding.encode_ordinary(README.read_text())[:256]])
    expected_TV = logits_of(gpt, tokens_1T)[0]
    loss = F.cross_entropy(expected_TV[:-1], tokens_1T[0, 1:]).item()
    model = pack_in_int8(gpt)
    assert set(model.decoder.bits) == {8}
    assert model.decoder.cache_dtype == torch.float16
    logits_TV = logits_of(model, tokens_1T)[0]
    assert F.cross_entropy(logits_TV[:-1], tokens_1T[0, 1:]).item() == pytest.approx(loss, abs=0.02)
    model = pack_exactly(gpt)  # so that keys and values alone are rounded
    model.decoder.cache_dtype = torch.float16
    logits_TV = logits_of(model, tokens_1T)[0]
    assert distance(logits_TV, expected_TV) < 1e-3  # measured: 2.5e-4, where 8-bit weights have 2e-2
    assert F.cross_entropy(logits_TV[:-1], tokens_1T[0, 1:]).item() == pytest.approx(loss, abs=1e-3)


@torch.inference_mode()
def test_float16_cache_takes_half_of_the_memory_and_holds_large_keys_as_infinite(make_gpt):
    gpt = make_gpt(n_embd=64, n_head=4)
    gpt.blocks[0].attention.query_key_value.bias.data[64 + 5 : 64 + 7] = torch.tensor([1e6, -1e6])
    model = pack_in_int8(gpt)
    halves = KeyValueCache(model.config, 1, device=model.device, dtype=torch.float16)
    floats = KeyValueCache(model.config, 1, device=model.device, dtype=torch.float32)
    assert 2 * halves.keys_LBKSD.nbytes == floats.keys_LBKSD.nbytes
    tokens = some_tokens(model, 1, 20)
    assert model.hidden_states(tokens, cache=halves).isnan().all()
    model.hidden_states(tokens, cache=floats)
    assert halves.keys_LBKSD.isinf().any()
    assert torch.equal(halves.keys_LBKSD[0], floats.keys_LBKSD[0].half())  # to the nearest; later layers read them
    assert torch.equal(halves.values_LBKSD[0], floats.values_LBKSD[0].half())


def test_packed_model_has_no_other_weights(make_gpt):
    gpt = make_gpt(n_embd=64)
    count = sum(weight.numel() for weight in gpt.parameters())
    model = pack(gpt, load_library())
    assert not [*model.parameters()]
    assert 1.1 * count < model.decoder.nbytes < 1.3 * count  # a byte each, a scale a group, and padding of small ones


@needs_registers
def test_amx_reads_prompts_by_torch_in_bfloat16_and_everything_else_by_c(make_gpt, monkeypatch):
    gpt = make_gpt(n_embd=64)
    by_torch = deepcopy(gpt).bfloat16()
    by_c = pack_in_int8(gpt)
    tokens = some_tokens(gpt, 2, 9)
    be(monkeypatch, "amx")
    model = pack_for_inference(deepcopy(gpt))
    with torch.inference_mode():
        assert torch.equal(model.hidden_states(tokens), by_torch.hidden_states(tokens))
        assert torch.equal(model.hidden_states(tokens[:, :1]), by_c.hidden_states(tokens[:, :1]))


ONE = torch.tensor([[1]])
TWO = torch.tensor([[1], [1]])


@pytest.mark.parametrize(
    ("error", "reason", "inputs", "cached"),
    [
        (IndexError, "a token that the model lacks", [ONE * 10**6], {}),
        (IndexError, "a position that the cache lacks", [ONE, ONE * 4], {"rows": 1, "length": 4}),
        (IndexError, "a position that the cache lacks", [TWO, TWO + 31], {"length": 320}),
        (ValueError, "33 tokens do not fit the context of 32", [ONE.repeat(1, 33)], {}),
        (ValueError, "a text that does not begin at 0, and no cache", [ONE, ONE], {}),
        (ValueError, "a cache of torch.bfloat16", [TWO, TWO - 1], {"dtype": torch.bfloat16}),
        (ValueError, "2 texts, and the cache has 1", [TWO, TWO - 1], {"rows": 1}),
    ],
)
def test_inputs_that_it_can_not_read_are_errors(make_gpt, error, reason, inputs, cached):
    model = pack_in_int8(make_gpt(positions="rotary"))
    options = {"rows": 2, "dtype": torch.float32, "length": 32} | cached
    shape = model.config.model_copy(update={"context_length": options["length"]})
    cache = KeyValueCache(shape, options["rows"], device=model.device, dtype=options["dtype"])
    with pytest.raises(error, match=reason):
        model.hidden_states(*inputs, cache=cache if cached else None)


def test_packed_model_refuses_copies_saves_and_packed_sequences(make_gpt):
    model = pack_in_int8(make_gpt())
    with pytest.raises(ValueError, match="can't be copied; keep the one that it was made from"):
        deepcopy(model)
    with pytest.raises(ValueError, match="can't be saved; keep the one that it was made from"):
        model.state_dict()
    with pytest.raises(ValueError, match="reads a text a row"):
        model.hidden_states(ONE, sequences_BT=ONE)
