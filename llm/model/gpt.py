"""The decoder-only transformer: embeddings, pre-norm blocks, output layer. One class for these families, by its config:

- GPT-2 (Radford et al. 2019): learned positions, LayerNorm, GELU, biases, output tied to the embedding;
- Llama (Touvron et al. 2023): rotary positions, RMSNorm, SwiGLU, grouped queries, no biases, output tied or not;
- Qwen2 (Yang et al. 2024): Llama with biases on queries, keys and values; Qwen3 (Yang et al. 2025): without them, but
  with an RMSNorm of queries and keys.

`make run` trains Qwen3's shape from scratch, without weights in the norms of queries and keys: it learns fastest in
minutes (benchmarks/LOG.md).

Tensor names end in their shape: B batch, T positions, C width of the model, V vocabulary.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm.config import GPTConfig, GPTShape
from llm.kernels.training.backend import TORCH
from llm.kernels.training.packed_sequences import PackedSequences
from llm.model.attention import Context, GroupedQueryAttention, Past
from llm.model.embedding import Embedding, rotation
from llm.model.key_value_cache import KeyValueCache


def build_norm(shape: GPTShape) -> nn.LayerNorm | nn.RMSNorm:
    """Scale every vector to the same size, so that no layer's input explodes or fades with depth."""
    if shape.norm == "rms":
        return nn.RMSNorm(shape.n_embd, eps=shape.norm_epsilon)
    return nn.LayerNorm(shape.n_embd, eps=shape.norm_epsilon, bias=shape.bias)


class MLP(nn.Module):
    """What a position computes alone: a wider layer, an activation, and back to the width of the model.

    The activation is GELU, or SwiGLU (Shazeer 2020), which multiplies each value by a gate from a second matrix.
    """

    def __init__(self, shape: GPTShape) -> None:
        super().__init__()
        self.gate: nn.Linear | None = None
        if shape.mlp == "swiglu":
            self.gate = nn.Linear(shape.n_embd, shape.hidden_width, bias=shape.bias)
        self.expand = nn.Linear(shape.n_embd, shape.hidden_width, bias=shape.bias)
        self.projection = nn.Linear(shape.hidden_width, shape.n_embd, bias=shape.bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map BTC to BTC."""
        if self.gate is not None:
            wide = F.silu(self.gate(x_BTC)) * self.expand(x_BTC)
        else:
            wide = F.gelu(self.expand(x_BTC), approximate="tanh")
        return self.projection(wide)


class Block(nn.Module):
    """Attention, then the MLP, each on a normalised copy and added to the stream that runs past them."""

    def __init__(self, shape: GPTShape, layer: int) -> None:
        super().__init__()
        self.attention_norm = build_norm(shape)
        self.attention = GroupedQueryAttention(shape, layer)
        self.mlp_norm = build_norm(shape)
        self.mlp = MLP(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x_BTC: Tensor, context: Context) -> Tensor:
        """Map BTC to BTC."""
        attended_BTC = self.attention(self.attention_norm(x_BTC), context)
        x_BTC = x_BTC + self.dropout(attended_BTC)
        computed_BTC = self.mlp(self.mlp_norm(x_BTC))
        return x_BTC + self.dropout(computed_BTC)


class GPT(nn.Module):
    """Predicts the next token at every position.

    Where the output is tied it is the token embedding once more: a token is likely where the stream points towards it.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.backend = TORCH
        """What it computes with; llm/training/backend.py makes a model with another one."""
        self.embedding = Embedding(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = build_norm(config)
        self.output = None if config.tied else nn.Linear(config.n_embd, config.vocabulary_size, bias=False)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        """N(0, 0.02); layers that add to the stream start smaller, so that its variance does not grow with depth."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, GroupedQueryAttention | MLP):
            additions = 2 * self.config.n_layer
            nn.init.normal_(module.projection.weight, std=0.02 / math.sqrt(additions))

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.blocks.parameters()).device

    def describe(self) -> dict[str, Any]:
        """What a model folder's config.json says of it."""
        return {"gpt": self.config.model_dump()}

    def hidden_states(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        *,
        sequences_BT: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """The normalised stream after the last block, BTC.

        Where frozen blocks were split off (llm/training/frozen_blocks.py), their stream, BTC, is in place of tokens.
        Tokens stand at 0 … T-1 unless `positions_BT` says otherwise. With `sequences_BT` (integers) several texts share
        a row, and a token sees its own text alone; below zero is padding, whose output is undefined. A text whose
        `positions_BT` begin at p, not at 0, also sees the first p tokens of its row. With a cache a token also sees
        everything before its position. Raises ValueError for more tokens than the context.
        """
        length = tokens_BT.shape[1]
        if length > self.config.context_length:
            raise ValueError(f"{length} tokens do not fit the context of {self.config.context_length}")
        packed = None if sequences_BT is None else PackedSequences(sequences_BT, positions_BT)
        if positions_BT is None:
            positions_BT = torch.arange(length, device=tokens_BT.device)[None]  # of all rows
        past = None
        if cache is not None:
            end = int(positions_BT.max()) + 1
            visible_BTS = torch.arange(end, device=positions_BT.device) <= positions_BT[:, :, None]
            past = Past(cache=cache, positions_BT=positions_BT, visible_BTS=visible_BTS)
        angles = rotation(positions_BT, self.config) if self.config.positions == "rotary" else None
        context = Context(backend=self.backend, packed=packed, angles=angles, past=past)
        # A model that is frozen in bfloat16 keeps its norms, and the stream, in float32.
        x_BTC = self.embedding(tokens_BT, positions_BT).to(next(self.blocks.parameters()).dtype)
        x_BTC = self.dropout(x_BTC)
        for block in self.blocks:
            x_BTC = block(x_BTC, context)
        return self.norm(x_BTC)

    @property
    def output_weight(self) -> Tensor:
        """The output layer's matrix, VC: the loss needs it."""
        return self.embedding.token.weight if self.output is None else self.output.weight

    def logits(self, x_BTC: Tensor) -> Tensor:
        """Unnormalised log-probabilities of the next token, BTV, from `hidden_states`."""
        return F.linear(x_BTC, self.output_weight) if self.output is None else self.output(x_BTC)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits BTV: row t predicts token t + 1."""
        return self.logits(self.hidden_states(tokens_BT))
