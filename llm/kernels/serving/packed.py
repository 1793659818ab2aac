"""A model for inference alone, on a CPU: weights in the layout and precision in which they are read fastest.

To make a token reads every weight once, and a CPU multiplies faster than it reads: so a token takes as long as its
weights take from memory. Where there is a C compiler they are read by decode.c (native.py), in 8 bits
or 4. Elsewhere they are bfloat16, which halves them, in an order of oneDNN's, with which torch multiplies; float32
where a processor has no bfloat16. Each changes a model in place, for good: it is not to be trained or saved any more.
"""

from ctypes import CDLL
from typing import Any

import torch
from torch import Tensor, nn

from llm.device import has_fast_bfloat16
from llm.errors import UserError
from llm.kernels.serving.native import Decoder, Packed, load_library
from llm.model.gpt import GPT


class PackedLinear(Packed):
    """A linear layer in bfloat16, its weights in oneDNN's own order."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.bias = None if bias is None else bias.detach().bfloat16()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().bfloat16().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Map bfloat16 … x in to … x out."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def pack_for_inference(model: GPT) -> GPT:
    """Give a model on a CPU the weights with which it makes texts fastest, in place, if it is not packed; returns it.

    With a C compiler it is `decode_natively`; else `prepack`, where the processor has fast bfloat16; else float32.
    """
    if model.device.type != "cpu" or any(isinstance(module, Packed) for module in model.modules()):
        return model
    if (library := load_library()) is not None:
        return decode_natively(model, library)
    return prepack(model) if can_prepack() else _without_blocks(model).float()


def bytes_are_fast() -> bool:
    """Whether many tokens at once are multiplied faster by decode.c, in 8 bits, than by torch."""
    if torch.cpu._is_amx_tile_supported():
        return False
    return torch.cpu._is_vnni_supported() or torch.backends.cpu.get_cpu_capability() == "AVX2"


def pack_for_reading(model: GPT) -> GPT:
    """As `pack_for_inference`, for whole texts, of which `features` alone are wanted.

    They are many tokens at once, which are as fast as products are. Those of AMX in bfloat16 are the fastest, then come
    decode.c's of 8 bits, where the processor has them (VNNI), then bfloat16 by AVX-512; with AVX2 alone those of 8 bits
    are faster than float32, too (benchmarks/LOG.md).
    """
    if model.device.type != "cpu" or any(isinstance(module, Packed) for module in model.modules()):
        return model
    if bytes_are_fast() and (library := load_library()) is not None:
        return decode_natively(model, library)
    if has_fast_bfloat16(model.device):
        for module in model.modules():
            if isinstance(module, nn.Linear):  # which autocast would turn each time
                module.bfloat16()
    return model.requires_grad_(False).eval()


def decode_natively(model: GPT, library: CDLL, *, exact: bool = False) -> GPT:
    """Have decode.c compute a model's `features` and `logits`, in place; returns it. For `exact` see `Decoder`.

    With AMX prompts are read by torch as before, from bfloat16 beside: its tiles multiply many tokens several times as
    fast. Without, the model's own weights are let go.
    """
    decoder = Decoder(model, library, exact=exact)
    by_torch = torch.cpu._is_amx_tile_supported() and not exact
    if by_torch:
        prepack(model)
    else:
        for part in filter(None, (model.embedding, model.blocks, model.output)):
            part.to("meta")
            for weight in part.parameters():
                vars(weight).pop("blocks", None)

    def features(tokens_BT: Tensor, positions_BT: Tensor | None = None, **more: Any) -> Tensor:
        if by_torch and tokens_BT.shape[1] > 1:  # prompts
            return GPT.features(model, tokens_BT, positions_BT, **more)
        return decoder.features(tokens_BT, positions_BT, **more)

    model.decoder = decoder
    model.features, model.logits = features, decoder.logits
    return model.requires_grad_(False).eval()


def _without_blocks(model: GPT) -> GPT:
    """Make floats of the matrices that lie in the blocks of a GGUF file, in place; returns the model."""
    return model._apply(lambda weight: weight.blocks.floats() if hasattr(weight, "blocks") else weight)


def can_prepack() -> bool:
    """Whether oneDNN is there, which it is not in every build of torch, and has bfloat16 on this processor."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def prepack(model: GPT) -> GPT:
    """Turn a model into bfloat16 with packed weights, in place; returns it. Raises UserError off the CPU."""
    if model.device.type != "cpu":
        raise UserError(f"packed weights are for a CPU, and the model is on {model.device}")
    if not can_prepack():
        raise UserError("this processor has no fast bfloat16: keep the model as it is")
    _without_blocks(model)
    # before the linear layers: with tied weights the table serves as a layer too, whose copy gets another layout
    output = PackedLinear(model.embedding.token.weight, None) if model.output is None else None
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child.weight, child.bias))
    if output is not None:
        model.output = output
    return model.bfloat16().requires_grad_(False).eval()
