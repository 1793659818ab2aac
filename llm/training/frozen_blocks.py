"""The frozen blocks of a GPT as a model of their own: they give the same for a text each time, and can read it once."""

import torch
from torch import Tensor, nn

from llm.model.gpt import GPT


class StreamInput(nn.Module):
    """Takes the place of an embedding in the upper part of a GPT, which begins with the stream of the lower part."""

    def forward(self, x_BTC: Tensor, positions_BT: Tensor) -> Tensor:
        """The stream as it is, BTC."""
        return x_BTC


def split_blocks(gpt: GPT, count: int) -> tuple[GPT, GPT]:
    """The first `count` blocks of a GPT with its embedding, and the other blocks, as two models that share its weights.

    `hidden_states` of the first is the stream behind its blocks; the second takes that instead of tokens. Neither has
    an output layer.
    """
    with torch.device("meta"):  # where no weights are made
        lower = GPT(gpt.config.model_copy(update={"n_layer": count, "tied": True}))
        upper = GPT(gpt.config.model_copy(update={"n_layer": gpt.config.n_layer - count, "tied": True}))
    lower.embedding = gpt.embedding
    lower.blocks = gpt.blocks[:count]
    lower.set_submodule("norm", nn.Identity())
    upper.set_submodule("embedding", StreamInput())
    upper.set_submodule("dropout", nn.Identity())
    upper.blocks = gpt.blocks[count:]
    upper.norm = gpt.norm
    return lower.train(gpt.training), upper.train(gpt.training)
