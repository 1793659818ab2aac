"""Models that are packed for decode.c: shapes, and what their tests share."""

from copy import deepcopy
from itertools import cycle, product

import torch
from torch import Tensor

from llm.generation.packed import PackedGPT, pack
from llm.kernels.serving.decode_library import load_library
from llm.model.gpt import GPT

SIZES = [{"n_embd": 36, "n_head": 6}, {"n_embd": 64, "n_head": 8, "n_kv_head": 2}, {"n_embd": 48, "n_hidden": 57}]
OPTIONS = 2 * [(True, True, False), (False, False, True), (True, False, False), (False, True, True)]
KINDS = product(("learned", "rotary"), ("layer", "rms"), ("gelu", "swiglu"))
SHAPES = [
    {"positions": positions, "norm": norm, "mlp": mlp, "bias": bias, "tied": tied, "qk_norm": qk_norm, **sizes}
    for (positions, norm, mlp), (bias, tied, qk_norm), sizes in zip(KINDS, OPTIONS, cycle(SIZES), strict=False)
]
"""All kinds of positions, norms and MLPs, with and without biases, tied, scaled queries; widths that fill no group."""


def name_of(shape: dict[str, object]) -> str:
    """The name of a shape in a test's id."""
    return "-".join(map(str, shape.values()))


def pack_exactly(gpt: GPT) -> PackedGPT:
    """A packed copy whose weights, keys and values stay float32."""
    return pack(deepcopy(gpt), load_library(), exact=True)


def pack_in_int8(gpt: GPT) -> PackedGPT:
    """A packed copy that decode.c computes alone, on any kind of processor that it knows."""
    return pack(deepcopy(gpt), load_library())


def logits_of(model: GPT, tokens_BT: Tensor) -> Tensor:
    """Its logits, float32."""
    with torch.inference_mode():
        return model(tokens_BT).float()


def some_tokens(model: GPT, rows: int, length: int) -> Tensor:
    """Tokens of a model's vocabulary, BT."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(model.config.vocabulary_size, (rows, length), generator=draw)


def distance(tensor: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm."""
    return float((tensor - expected).norm() / expected.norm())
