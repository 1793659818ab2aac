"""How a model reads texts fastest: its padding, its precision, and tokens of many texts as batches or as one list."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from llm.generation.packed import PackedGPT
from llm.kernels.processor import has_fast_bfloat16
from llm.model.gpt import GPT


@dataclass(frozen=True)
class Reading:
    """How a model reads texts fastest."""

    device: torch.device
    dtype: torch.dtype
    """Of the products where it reads whole texts."""
    cache_dtype: torch.dtype
    """Of keys and values in its cache."""
    padding: int
    """Whole texts are padded to a multiple of so many tokens, which their own length decides."""
    takes_lists: bool
    """Whether its `hidden_states` takes `rows_BT`, and so tokens of any texts of a cache as one list."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Matrix products in `dtype`."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype == torch.bfloat16)


def reading_of(model: GPT) -> Reading:
    """How this model reads texts: by decode.c text by text, or by torch in batches."""
    if isinstance(model, PackedGPT):
        return Reading(
            device=model.device,
            dtype=torch.float32,
            cache_dtype=model.decoder.cache_dtype,
            padding=1,
            takes_lists=model.prompt_model is None,  # torch, which then reads prompts, needs batches
        )
    is_low = has_fast_bfloat16(model.device) or any(weight.dtype == torch.bfloat16 for weight in model.parameters())
    is_cpu = model.device.type == "cpu"
    return Reading(
        device=model.device,
        dtype=torch.bfloat16 if is_low else torch.float32,
        cache_dtype=torch.float32 if is_cpu else next(model.parameters()).dtype,
        padding=32,
        takes_lists=False,
    )
