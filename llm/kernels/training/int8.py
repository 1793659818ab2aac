"""Frozen weights of a training as 8-bit integers, which some processors multiply twice as fast as bfloat16.

A matrix is quantized with a scale for each output that makes its largest weight 127, and its inputs with one for each
token. The backward pass multiplies the same integers by the gradient. Most values of a gradient are far below the
largest of their token, and rounding to the nearest would make many of them zero every time. So a gradient is rounded up
or down by chance, which is right on average.

A few inputs of a trained model are always much larger than the others, which would be left a few steps of their token's
scale. So a frozen matrix, which is quantized once, multiplies the weights of each input by a smoothing factor and
divides the input by it: the product is the same, and the values to be rounded are more even (SmoothQuant, Xiao et al.
2023).

Processors without VNNI add products in 16 bits, where those of two weights above 64 overflow. A frozen matrix can be
quantized to at most 64 instead, which leaves its weights 7 of their 8 bits.

Tensor names end in their shape: N tokens, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor, nn

from llm.kernels.processor import LARGEST

GOLDEN = 0.6180339887498949  # whose multiples, without their whole part, are spread evenly from 0 to 1


def _magnitudes(largest_I: Tensor) -> Tensor:
    """Largest values of inputs, or of their weights, raised from zero: inputs silent in one batch may be loud later."""
    return largest_I.clamp(min=largest_I.mean() / 10).clamp(min=torch.finfo(torch.float32).tiny)


def _quantized(x_NI: Tensor, *, by_chance: bool = False, largest: int = LARGEST) -> tuple[Tensor, Tensor]:
    """Rows as integers up to `largest`, int8 NI, and the scale of each, N1.

    They are the nearest, or `by_chance` those that are right on average: a number for each row, shifted for each
    column, as torch takes longer for a number for each of both than for what it makes of them (benchmarks/LOG.md).
    """
    scale_N1 = (x_NI.abs().amax(1, keepdim=True) / largest).clamp(min=torch.finfo(torch.float32).tiny)
    steps_NI = x_NI / scale_N1
    if not by_chance:
        return steps_NI.round().to(torch.int8), scale_N1
    columns_I = torch.arange(x_NI.shape[1], device=x_NI.device)
    chance_NI = (torch.rand(len(x_NI), 1, device=x_NI.device) + GOLDEN * columns_I).frac()
    return (steps_NI + chance_NI).floor().clamp(max=largest).to(torch.int8), scale_N1


def sums_are_exact(largest: int) -> bool:
    """Whether torch multiplies 8-bit integers exactly here, weights (the second factor) being at most `largest`.

    The first factor has values up to LARGEST. Sums of two products may overflow without VNNI, and also where torch was
    built without it or a variable such as ONEDNN_MAX_CPU_ISA keeps torch from it.
    """
    signs_NI = torch.ones(64, 256, dtype=torch.int8)
    signs_NI[1::2, ::3] = -1
    inputs_NI, weights_IO = LARGEST * signs_NI, largest * signs_NI.T.contiguous()
    exact_NO = inputs_NI.long() @ weights_IO.long()
    backwards_OI = weights_IO.T.contiguous()  # the backward pass multiplies the same weights turned
    products = torch._int_mm(inputs_NI, weights_IO), torch._int_mm(inputs_NI, backwards_OI.T)
    return all(torch.equal(product_NO.long(), exact_NO) for product_NO in products)


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight_OI: Tensor, scale_O: Tensor, smoothing_I: Tensor, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(weight_OI, scale_O, smoothing_I)
        ctx.dtype = x_NI.dtype
        quantized_NI, scale_N1 = _quantized(x_NI.float() / smoothing_I)
        return (torch._int_mm(quantized_NI, weight_OI.T) * scale_N1 * scale_O).to(dtype)

    @staticmethod
    def backward(ctx: Any, upstream_NO: Tensor) -> tuple[Tensor | None, ...]:
        weight_OI, scale_O, smoothing_I = ctx.saved_tensors
        quantized_NO, scale_N1 = _quantized(upstream_NO.float() * scale_O, by_chance=True)
        dx_NI = torch._int_mm(quantized_NO, weight_OI) * scale_N1 / smoothing_I
        return dx_NI.to(ctx.dtype), None, None, None, None


class FrozenInt8Linear(nn.Module):
    """A frozen linear layer that multiplies 8-bit integers.

    `largest_I` is how large each input was in some batch, `largest` the largest weight that the processor multiplies
    exactly, and `dtype` that of the outputs: bfloat16 or float32.
    """

    def __init__(
        self, frozen: nn.Linear, largest_I: Tensor, largest: int = LARGEST, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        super().__init__()
        self.dtype = dtype
        weight_OI = frozen.weight.detach().float()
        # Halfway: inputs and weights are then as uneven as each other.
        smoothing_I = (_magnitudes(largest_I) / _magnitudes(weight_OI.abs().amax(0))).sqrt()
        quantized_OI, scale_O1 = _quantized(weight_OI * smoothing_I, largest=largest)
        bias_O = None if frozen.bias is None else frozen.bias.detach().to(dtype)
        self.register_buffer("weight_OI", quantized_OI, persistent=False)
        self.register_buffer("scale_O", scale_O1[:, 0], persistent=False)
        self.register_buffer("smoothing_I", smoothing_I, persistent=False)
        self.register_buffer("bias_O", bias_O, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map … x I to … x O."""
        inputs = (x.flatten(0, -2), self.weight_OI, self.scale_O, self.smoothing_I, self.dtype)
        y_NO = _FrozenProduct.apply(*inputs)
        if self.bias_O is not None:
            y_NO = y_NO + self.bias_O
        return y_NO.unflatten(0, x.shape[:-1])
