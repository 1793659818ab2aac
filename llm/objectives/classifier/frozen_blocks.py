"""Frozen blocks read each text once: their states are kept, and a training computes only the blocks above them."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from llm.dataset import pad
from llm.model.gpt import GPT
from llm.objectives.classifier.model import Classifier

Module = TypeVar("Module", bound=nn.Module)


def count_frozen_blocks(gpt: GPT) -> int:
    """How many blocks, counted from the input, learn nothing, and neither does the embedding below them."""
    if any(weight.requires_grad for weight in gpt.embedding.parameters()):
        return 0
    for number, block in enumerate(gpt.blocks):
        if any(weight.requires_grad for weight in block.parameters()):
            return number
    return len(gpt.blocks)


@dataclass(frozen=True)
class CachedStates:
    """The hidden states of all tokens of some texts behind the frozen blocks of a GPT."""

    states_NC: Tensor
    """In bfloat16, N tokens of all texts in a row."""
    blocks: int
    """How many blocks computed them."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: Classifier, texts: Sequence[list[int]], blocks: int, batch_size: int = 16) -> Self:
        """Read texts, as tokens, by so many blocks, in the precision in which a classifier reads."""
        device, dtype = model.head.weight.device, model.gpt.reading_dtype
        lower = _with_parts(model.gpt, blocks=model.gpt.blocks[:blocks])
        streams: list[Tensor] = []
        handle = lower.blocks[-1].register_forward_hook(lambda block, inputs, output: streams.append(output))
        by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        of_text: dict[int, Tensor] = {}
        try:
            with torch.autocast(device.type, dtype=dtype, enabled=dtype == torch.bfloat16):
                for first in range(0, len(texts), batch_size):
                    rows = by_length[first : first + batch_size]
                    tokens_BT, _ = pad([texts[row] for row in rows], 0)
                    lower.hidden_states(tokens_BT.to(device))
                    for row, stream_TC in zip(rows, streams.pop(), strict=True):
                        of_text[row] = stream_TC[: len(texts[row])].bfloat16()
        finally:
            handle.remove()
        return cls(torch.cat([of_text[row] for row in range(len(texts))]), blocks)

    def above(self, model: Classifier) -> Classifier:
        """A view of a classifier with the same weights that goes on from here: its tokens are numbers of states."""
        lookup, blocks = _Lookup(self.states_NC), model.gpt.blocks[self.blocks :]
        return _with_parts(model, gpt=_with_parts(model.gpt, embedding=lookup, dropout=nn.Identity(), blocks=blocks))


def number_tokens(texts: Sequence[list[int]]) -> list[list[int]]:
    """The numbers of the tokens of each text among those of all texts in a row."""
    numbered, first = [], 0
    for tokens in texts:
        numbered.append(list(range(first, first + len(tokens))))
        first += len(tokens)
    return numbered


class _Lookup(nn.Module):
    """Stands where a GPT's embedding does: the vector of number n is the n-th state."""

    def __init__(self, states_NC: Tensor) -> None:
        super().__init__()
        self.states_NC = states_NC

    def forward(self, numbers_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """The states, BTC; they know their positions already."""
        return self.states_NC[numbers_BT]


def _with_parts(module: Module, **parts: nn.Module) -> Module:
    """A copy of a module that shares all of its weights but has other parts under these names."""
    view = copy.copy(module)
    view._modules = {**module._modules, **parts}
    return view
