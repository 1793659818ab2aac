import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import GPTConfig, GPTShape, RotaryScaling
from llm.model.gpt import GPT

quick = settings(max_examples=25)


@pytest.mark.parametrize("changed", [1, 16, 31])
def test_positions_see_no_later_one(make_gpt, changed):
    gpt = make_gpt()
    tokens = torch.randint(gpt.config.vocabulary_size, (1, 32), generator=torch.Generator().manual_seed(0))
    before = gpt(tokens)
    tokens[0, changed:] = (tokens[0, changed:] + 1) % gpt.config.vocabulary_size
    after = gpt(tokens)
    assert torch.equal(before[0, :changed], after[0, :changed])
    assert (before[0, changed] - after[0, changed]).abs().max() > 1e-3


def test_text_past_the_context_is_refused(make_gpt):
    with pytest.raises(ValueError, match=r"^33 tokens do not fit the context of 32$"):
        make_gpt()(torch.zeros(1, 33, dtype=torch.int64))


def test_new_model_expects_every_token_alike_and_adds_little_to_its_stream():
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(context_length=16, n_layer=8, n_head=2, n_embd=64, vocabulary_size=1000))
    tokens = torch.randint(1000, (8, 16))
    loss = torch.nn.functional.cross_entropy(gpt(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(1000), abs=0.1)
    for name, weight in gpt.named_parameters():
        if weight.ndim == 2:
            expected = 0.02 / 4 if "projection" in name else 0.02
            assert weight.std().item() == pytest.approx(expected, rel=0.05)
        else:
            assert bool((weight == (0 if name.endswith("bias") else 1)).all())


def test_dropout_acts_in_training_alone(make_gpt):
    gpt, tokens = make_gpt(dropout=0.5), torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(gpt(tokens), gpt(tokens))
    assert torch.equal(gpt(tokens), make_gpt(dropout=0.0)(tokens))
    gpt.train()
    assert not torch.equal(gpt(tokens), gpt(tokens))


LLAMA = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "n_kv_head": 1, "n_hidden": 24}


@quick
@given(st.integers(0, 20), st.integers(1, 6))
def test_rotary_positions_count_distances_alone(make_gpt, shift, length):
    gpt = make_gpt(**LLAMA)
    tokens = torch.arange(length)[None]
    moved = gpt.hidden_states(tokens, tokens + shift)
    torch.testing.assert_close(moved, gpt.hidden_states(tokens), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"n_embd": 10}, "n_embd 10 is not a multiple of n_head 4"),
        ({"n_kv_head": 3}, "n_head 4 is not a multiple of n_kv_head 3"),
        ({"n_embd": 12, "positions": "rotary"}, "a head's width of 3 is odd"),
        ({"qk_norm_weight": True}, "qk_norm_weight is true and qk_norm false"),
        (
            {"rotary_scaling": dict.fromkeys(RotaryScaling.model_fields, 4)},
            "low_frequency_factor 4.0 is not below high_frequency_factor 4.0",
        ),
    ],
)
def test_shape_that_does_not_fit_is_refused(values, reason):
    with pytest.raises(ValueError, match=reason):
        GPTShape(**({"context_length": 8, "n_layer": 1, "n_head": 4, "n_embd": 8} | values))
