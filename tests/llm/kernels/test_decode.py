"""A model packed for decode.c, against the model as torch computes it."""

import logging
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from packed_models import SHAPES, distance, logits_of, name_of, pack_exactly, pack_in_int8, some_tokens
from processors import be, needs_registers
from torch import Tensor
from torch.nn import functional as F

from llm.formats.huggingface import load_pretrained
from llm.generation.engine import Engine
from llm.generation.packed import pack, pack_for_inference
from llm.generation.request import Event, Request
from llm.generation.sampling import Sampling
from llm.generation.text import generate
from llm.kernels.serving.decode_library import load_library
from llm.model.gpt import GPT
from llm.model.key_value_cache import KeyValueCache
from llm.training.frozen_blocks import split_blocks

PROMPTS = [[1 + n, 2 + n, 5][: 1 + n % 3] for n in range(27)]
"""Prompts of one to three tokens."""
README = Path(__file__).parents[3] / "README.md"


@pytest.fixture(params=SHAPES[::4], ids=name_of)
def gpt(request, make_gpt):
    return make_gpt(**({"n_head": 4} | request.param))


def run_in_turns(model: GPT, requests: list[Request]) -> list[list[int | None]]:
    """The tokens of each request, at most three at a time, which join and leave."""
    engine = Engine(model, rows=3)
    texts: dict[int, list[int | None]] = {engine.submit(request): [] for request in requests}
    while engine.busy:
        for event in engine.step():
            texts[event.handle].append(event.token)
    return list(texts.values())


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
    texts = run_in_turns(model, requests)
    assert [len(text) for text in texts] == lengths
    assert texts == run_in_turns(gpt, requests)


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


def events_of(engine: Engine, request: Request) -> list[Event]:
    """The events of one request, as of any engine."""
    handle = engine.submit(request)
    events = []
    while engine.busy:
        events += [event._replace(handle=0) for event in engine.step() if event.handle == handle]
    return events


def test_text_that_begins_as_one_before_is_the_same_to_the_bit(gpt):
    model = pack_in_int8(gpt)
    used = Engine(model, rows=3)
    talk = [3, 1, 4, 1, 5]
    for question in ([9, 2], [6], [5, 3, 5]):
        request = Request([*talk, *question], 4, logprobs=5, scored=(8, 9, 7))
        events = events_of(used, request)
        assert events == events_of(Engine(model, rows=1), request)
        talk += [*question, *(event.token for event in events)]


def test_tokens_one_at_a_time_are_the_text_at_once(make_gpt):
    model = pack_in_int8(make_gpt(context_length=200, positions="rotary"))
    tokens = some_tokens(model, 2, 200)
    cache = KeyValueCache(model.config, 2, device=model.device, dtype=model.decoder.cache_dtype)
    parts = []
    for position, token_B1 in enumerate(tokens.split(1, dim=1)):
        parts.append(model.hidden_states(token_B1, torch.full((2, 1), position), cache=cache))
    assert torch.equal(torch.cat(parts, dim=1), model.hidden_states(tokens))


def perplexity(logits_TV: Tensor, tokens_T: Tensor) -> float:
    return float(F.cross_entropy(logits_TV[:-1], tokens_T[1:]).exp())


def test_published_text_has_the_perplexity_of_float32(smollm2):
    gpt, encoding = load_pretrained(smollm2, context_length=1024)
    tokens = torch.tensor([encoding.encode_ordinary(README.read_text()[:3000])])
    expected = perplexity(logits_of(gpt, tokens)[0], tokens[0])
    model = pack(gpt, load_library())
    assert set(model.decoder.bits) == {8}
    assert perplexity(logits_of(model, tokens)[0], tokens[0]) == pytest.approx(expected, rel=0.02)


def test_float16_keys_and_values_predict_published_text_as_float32_ones_do(smollm2):
    gpt, encoding = load_pretrained(smollm2, context_length=1024)
    tokens = torch.tensor([encoding.encode_ordinary(README.read_text()[:3000])])
    model = pack_exactly(gpt)  # so that nothing else is rounded
    assert model.decoder.cache_dtype == torch.float32
    expected_TV = logits_of(model, tokens)[0]
    model.decoder.cache_dtype = torch.float16
    logits_TV = logits_of(model, tokens)[0]
    assert distance(logits_TV, expected_TV) < 1e-3  # measured: 2.5e-4, where 8-bit weights have 2e-2
    loss = F.cross_entropy(logits_TV[:-1], tokens[0, 1:]).item()
    assert loss == pytest.approx(F.cross_entropy(expected_TV[:-1], tokens[0, 1:]).item(), abs=1e-3)
    same_T = logits_TV.argmax(dim=1) == expected_TV.argmax(dim=1)
    assert same_T.float().mean() > 0.99  # measured: 0.999


def test_float16_cache_takes_half_of_the_memory(make_gpt):
    model = pack(make_gpt(n_embd=64, n_head=4), load_library())
    assert model.decoder.cache_dtype == torch.float16
    halves = KeyValueCache(model.config, 1, device=model.device, dtype=torch.float16)
    floats = KeyValueCache(model.config, 1, device=model.device, dtype=torch.float32)
    assert 2 * halves.keys_LBKSD.nbytes == floats.keys_LBKSD.nbytes
    tokens = some_tokens(model, 1, 20)
    with torch.inference_mode():
        model.hidden_states(tokens, cache=halves)
        model.hidden_states(tokens, cache=floats)
    assert torch.equal(halves.keys_LBKSD[0], floats.keys_LBKSD[0].half())  # to the nearest; later layers read them
    assert torch.equal(halves.values_LBKSD[0], floats.values_LBKSD[0].half())


def test_keys_beyond_float16_are_infinite_in_its_cache(make_gpt):
    gpt = make_gpt(n_embd=64, n_head=4)
    gpt.blocks[0].attention.query_key_value.bias.data[64 + 5] = 1e6
    gpt.blocks[0].attention.query_key_value.bias.data[64 + 6] = -1e6
    model = pack(gpt, load_library())
    cache = KeyValueCache(model.config, 1, device=model.device, dtype=torch.float16)
    with torch.inference_mode():
        x_BTC = model.hidden_states(some_tokens(model, 1, 20), cache=cache)
    assert cache.keys_LBKSD[0, 0, 0, :20, 5].isposinf().all()
    assert cache.keys_LBKSD[0, 0, 0, :20, 6].isneginf().all()
    assert x_BTC.isnan().all()


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


@needs_registers
def test_amx_gives_text_that_begins_as_one_before_the_same_probabilities_within_bfloat16(gpt, monkeypatch):
    be(monkeypatch, "amx")
    model = pack_for_inference(deepcopy(gpt))
    used = Engine(model, rows=3)
    talk = [3, 1, 4, 1, 5]

    def scores(engine: Engine) -> list[float]:
        (event,) = events_of(engine, Request(talk, 1, scored=(8, 9, 7)))
        return [logprobs.token for logprobs in event.scored]

    for question in ([9, 2], [6], [5, 3, 5]):
        talk += question
        expected = scores(Engine(gpt, rows=1))
        assert scores(used) == pytest.approx(scores(Engine(model, rows=1)), abs=0.02)
        assert scores(used) == pytest.approx(expected, rel=0.01)


@pytest.fixture
def no_compiler(tmp_path, monkeypatch) -> Iterator[None]:
    """As in a process in which nothing was loaded, with an empty cache folder and no compiler."""
    with monkeypatch.context() as patch:
        load_library.cache_clear()
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        patch.setenv("CC", "no-such-compiler")
        yield
    load_library.cache_clear()


@pytest.mark.usefixtures("no_compiler")
def test_missing_compiler_has_torch_make_the_texts_and_is_logged_once(make_gpt, monkeypatch, caplog):
    kind = be(monkeypatch, "avx2")
    gpt = make_gpt(n_embd=64)
    with caplog.at_level(logging.WARNING):
        models = [pack_for_inference(deepcopy(gpt)) for _ in range(2)]
    assert [record.message for record in caplog.records] == [
        "decode.c, which is faster than torch, can't be used: there is no C compiler (no-such-compiler)"
    ]
    tokens = some_tokens(gpt, 2, 9)
    assert kind.dtype == torch.float32
    for model in models:
        assert torch.equal(logits_of(model, tokens), logits_of(gpt, tokens))


def test_inputs_that_it_can_not_read_are_errors(make_gpt):
    model = pack_in_int8(make_gpt(positions="rotary"))
    one = torch.tensor([[1]])
    two = torch.ones(2, 1, dtype=torch.long)
    zero = torch.zeros(2, 1, dtype=torch.long)

    def cache(rows: int = 2, dtype: torch.dtype = torch.float32, length: int = 32) -> KeyValueCache:
        shape = model.config.model_copy(update={"context_length": length})
        return KeyValueCache(shape, rows, device=model.device, dtype=dtype)

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


def test_packed_model_is_not_copied_or_pickled(make_gpt):
    with pytest.raises(ValueError, match="can't be copied; keep the one that it was made from"):
        deepcopy(pack_in_int8(make_gpt()))
