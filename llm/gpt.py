"""The decoder-only transformer: embeddings, pre-norm blocks, tied output. GPT-2, Radford et al. 2019.

Tensor names end in their shape: B batch, T positions, C width of the model, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm.attention import CausalSelfAttention, KeyValueCache, causal
from llm.config import GPTConfig, GPTShape


class MLP(nn.Module):
    """What a position does alone with what it has heard: widen four-fold, bend (GELU), narrow again."""

    def __init__(self, shape: GPTShape) -> None:
        super().__init__()
        self.expand = nn.Linear(shape.n_embd, 4 * shape.n_embd)
        self.projection = nn.Linear(4 * shape.n_embd, shape.n_embd)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map BTC to BTC."""
        return self.projection(F.gelu(self.expand(x_BTC), approximate="tanh"))


class Block(nn.Module):
    """Attention, then the MLP, each on a normalised copy and added to the stream that runs past them."""

    def __init__(self, shape: GPTShape, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.n_embd)
        self.attention = CausalSelfAttention(shape, layer)
        self.mlp_norm = nn.LayerNorm(shape.n_embd)
        self.mlp = MLP(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(
        self,
        x_BTC: Tensor,
        visible_BTS: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Map BTC to BTC; the rest is for `CausalSelfAttention`."""
        x_BTC = x_BTC + self.dropout(self.attention(self.attention_norm(x_BTC), visible_BTS, positions_BT, cache))
        return x_BTC + self.dropout(self.mlp(self.mlp_norm(x_BTC)))


class GPT(nn.Module):
    """Predicts the next token at every position.

    A token's embedding says what it is, a position's embedding where it stands; the sum runs through the blocks. The
    output layer is the token embedding once more: a token is likely where the stream points towards it.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        """N(0, 0.02); layers that add to the stream start smaller, so that its variance does not grow with depth."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, CausalSelfAttention | MLP):
            nn.init.normal_(module.projection.weight, std=0.02 / math.sqrt(2 * self.config.n_layer))

    def features(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        *,
        segments_BT: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """The normalised stream after the last block, BTC.

        Tokens stand at 0 … T-1 unless `positions_BT` says otherwise. With `segments_BT` (integers) a token sees only
        its own segment: so several texts share a row. With a cache it also sees what that holds before its position.
        Raises ValueError for a token past the context length.
        """
        if tokens_BT.shape[1] > self.config.context_length:
            raise ValueError(f"{tokens_BT.shape[1]} tokens do not fit the context of {self.config.context_length}")
        visible_BTS = None
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
        if cache is not None:
            end = int(positions_BT.max()) + 1
            visible_BTS = torch.arange(end, device=tokens_BT.device) <= positions_BT[:, :, None]
        elif segments_BT is not None:
            same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
            visible_BTS = same_BTS & causal(tokens_BT.shape[1]).to(tokens_BT.device)
        x_BTC = self.dropout(self.token_embedding(tokens_BT) + self.position_embedding(positions_BT))
        for block in self.blocks:
            x_BTC = block(x_BTC, visible_BTS, positions_BT, cache)
        return self.norm(x_BTC)

    def logits(self, x_BTC: Tensor) -> Tensor:
        """Unnormalised log-probabilities of the next token, BTV, from `features`."""
        return F.linear(x_BTC, self.token_embedding.weight)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits BTV: row t predicts token t + 1."""
        return self.logits(self.features(tokens_BT))
