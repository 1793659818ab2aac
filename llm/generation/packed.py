"""A model for generation alone, on a CPU: weights in the layout and precision in which they are read fastest.

To make a token reads every weight once, and a CPU multiplies faster than it reads: so a token takes as long as its
weights take from memory. bfloat16 halves them, int8 halves them again; and oneDNN, which torch multiplies with, reads a
matrix fastest in an order of its own. `prepack` and `quantize_int8` change a model in place, for good: it can't be
trained or saved any more.

A text comes out the same alone and among others, but for int8: a step of INT8_ROWS tokens or more multiplies another
way, which rounds to bfloat16 once more. Its logits are then within 2 % of those of a smaller step, so a seed or a near
tie may give another text.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm.errors import UserError
from llm.model.gpt import GPT

INT8_GROUP = 16
"""torch's int8 kernel reads so many inputs at a time, and past the row where they are no multiple."""
INT8_ROWS = 24
"""From so many rows on multiplying takes longer than reading, and bfloat16 is faster than torch's int8 kernel."""
WIDENED = 2048
"""Outputs whose int8 weights are then widened at a time, so that they stay in the processor's cache."""


class _Packed(nn.Module):
    """A linear layer whose weights are no parameters."""

    def _save_to_state_dict(self, *_: Any) -> None:
        raise ValueError("a model packed for inference can't be saved; keep the one that it was made from")


class PackedLinear(_Packed):
    """A linear layer in bfloat16, its weights in oneDNN's own order."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.bias = None if bias is None else bias.detach().bfloat16()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().bfloat16().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Map bfloat16 … x in to … x out."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class Int8Linear(_Packed):
    """A linear layer whose weights are int8 numbers times one scale an output; inputs stay bfloat16."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        self.weight = (weight / scale[:, None]).round().to(torch.int8)
        self.scale = scale.bfloat16()
        self.bias = None if bias is None else bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """Map bfloat16 … x in to … x out."""
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) < INT8_ROWS:
            y = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scale)
        else:
            y = torch.cat([F.linear(rows, part.bfloat16()) for part in self.weight.split(WIDENED)], dim=-1) * self.scale
        y = y if self.bias is None else y + self.bias
        return y.unflatten(0, x.shape[:-1])


def pack_for_inference(model: GPT) -> GPT:
    """Turn a model that is on a CPU with fast bfloat16 into packed weights, in place, if it is not; returns it."""
    fast = model.device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    packed = any(isinstance(module, _Packed) for module in model.modules())
    return prepack(model) if fast and not packed else model


def prepack(model: GPT) -> GPT:
    """Turn a model into bfloat16 with packed weights, in place; returns it. Raises UserError off the CPU."""
    return _convert(model, PackedLinear)


def quantize_int8(model: GPT) -> GPT:
    """Turn a model's matrices into int8, rounded to 1/127 of the largest weight of their row, in place; returns it.

    Layers whose input is no multiple of 16 wide are packed in bfloat16. Raises UserError off the CPU.
    """

    def layer(weight: Tensor, bias: Tensor | None) -> nn.Module:
        return (PackedLinear if weight.shape[1] % INT8_GROUP else Int8Linear)(weight, bias)

    return _convert(model, layer)


def _convert(model: GPT, layer: Callable[[Tensor, Tensor | None], nn.Module]) -> GPT:
    if model.device.type != "cpu":
        raise UserError(f"packed weights are for a CPU, and the model is on {model.device}")
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise UserError("this processor has no fast bfloat16: keep the model as it is")
    # before the linear layers: with tied weights the table serves as a layer too, whose copy gets another layout
    output = layer(model.embedding.token.weight, None) if model.output is None else None
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, layer(child.weight, child.bias))
    if output is not None:
        model.output = output
    return model.bfloat16().requires_grad_(False).eval()
