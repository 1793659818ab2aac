"""Products with a frozen matrix in 8-bit integers, which many processors multiply twice as fast as bfloat16.

Of the matrix each output is rounded once, with a scale that makes its largest weight 127; of what comes in each token,
likewise. A few inputs of a trained model are always much larger than the others, which would be left a few steps of
their token's scale. So every input is divided by a factor and its weights are multiplied by it: the product is the
same, and what is rounded is more even (SmoothQuant, Xiao et al. 2023).

A gradient on its way back takes the same integers, the other way round. Most of its values are far below the largest
of their token, and to the nearest integer many would always be none. So a gradient is rounded up or down by chance,
and on average is what it was.

Tensor names end in their shape: N tokens, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor, nn

LARGEST = 127
GOLDEN = 0.6180339887498949  # whose multiples fill the numbers from 0 to 1 evenly


def has_fast_int8(device: torch.device) -> bool:
    """Whether a device has products of 8-bit integers that are worth their rounding.

    AVX-512 VNNI has: 850 GFLOP/s for 430 in bfloat16. Of AMX, whose tiles do both, nothing was measured.
    """
    here = device.type == "cpu" and torch.backends.mkldnn.is_available()  # torch itself has but a slow loop
    return here and torch.cpu._is_vnni_supported() and not torch.cpu._is_amx_tile_supported()


def _sizes(sizes_I: Tensor) -> Tensor:
    """How large inputs count as, I: one that was silent in a batch may yet speak up."""
    return sizes_I.clamp(min=sizes_I.mean() / 10).clamp(min=torch.finfo(torch.float32).tiny)


def _rounded(x_NI: Tensor, chance_NI: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rows as integers, int8 NI, and the scale of each, N1.

    They are the nearest, or with `chance_NI`, uniform from 0 to 1, those that are right on average.
    """
    scale_N1 = x_NI.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
    steps_NI = x_NI / scale_N1
    whole_NI = steps_NI.round() if chance_NI is None else (steps_NI + chance_NI).floor().clamp(max=LARGEST)
    return whole_NI.to(torch.int8), scale_N1


class _Int8Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, scale_O: Tensor, even_I: Tensor) -> Tensor:
        ctx.save_for_backward(weight_OI, scale_O, even_I)
        ctx.dtype = x_NI.dtype
        low_NI, scale_N1 = _rounded(x_NI.float() * even_I)
        return (torch._int_mm(low_NI, weight_OI.T) * scale_N1 * scale_O).bfloat16()

    @staticmethod
    def backward(ctx: Any, upstream_NO: Tensor) -> tuple[Tensor | None, ...]:
        weight_OI, scale_O, even_I = ctx.saved_tensors
        # A number for each token and one for each output: as even as one for each of both, and torch's are slow.
        outputs_O = torch.arange(len(scale_O), device=scale_O.device)
        chance_NO = (torch.rand(len(upstream_NO), 1, device=scale_O.device) + GOLDEN * outputs_O).frac()
        low_NO, scale_N1 = _rounded(upstream_NO.float() * scale_O, chance_NO)
        return (torch._int_mm(low_NO, weight_OI) * scale_N1 * even_I).to(ctx.dtype), None, None, None


class Int8Linear(nn.Module):
    """A frozen linear layer that multiplies 8-bit integers; `largest_I` is how large each input was in some batch."""

    def __init__(self, frozen: nn.Linear, largest_I: Tensor) -> None:
        super().__init__()
        weight_OI = frozen.weight.detach().float()
        even_I = (_sizes(weight_OI.abs().amax(0)) / _sizes(largest_I)).sqrt()  # both are then as uneven as each other
        low_OI, scale_O1 = _rounded(weight_OI / even_I)
        bias_O = None if frozen.bias is None else frozen.bias.detach().bfloat16()
        kept = {"weight_OI": low_OI, "scale_O": scale_O1[:, 0], "even_I": even_I, "bias_O": bias_O}
        for name, tensor in kept.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map … x I to … x O, bfloat16."""
        y_NO = _Int8Product.apply(x.flatten(0, -2), self.weight_OI, self.scale_O, self.even_I)
        return (y_NO if self.bias_O is None else y_NO + self.bias_O).unflatten(0, x.shape[:-1])
