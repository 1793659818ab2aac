"""The decoder-only transformer: embeddings, pre-norm blocks, output layer. One class for these families, by its config:

- GPT-2 (Radford et al. 2019): learned positions, LayerNorm, GELU, biases, output tied to the embedding;
- Llama (Touvron et al. 2023): rotary positions, RMSNorm, SwiGLU, grouped queries, no biases, output tied or not;
- Qwen2 (Yang et al. 2024): Llama with biases on queries, keys and values; Qwen3 (Yang et al. 2025): without them, but
  with an RMSNorm of queries and keys; SmolLM3: Llama without positions in every fourth block.

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
from llm.kernels.processor import has_fast_bfloat16
from llm.kernels.training.backend import TORCH
from llm.model.attention import Context, GroupedQueryAttention
from llm.model.embedding import Embedding, Rotation, rotation
from llm.model.key_value_cache import KeyValueCache
from llm.model.packed_sequences import PackedSequences


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
        self.gate = nn.Linear(shape.n_embd, shape.hidden_width, bias=shape.bias) if shape.mlp == "swiglu" else None
        self.expand = nn.Linear(shape.n_embd, shape.hidden_width, bias=shape.bias)
        self.projection = nn.Linear(shape.hidden_width, shape.n_embd, bias=shape.bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map BTC to BTC."""
        if self.gate is not None:
            return self.projection(F.silu(self.gate(x_BTC)) * self.expand(x_BTC))
        return self.projection(F.gelu(self.expand(x_BTC), approximate="tanh"))


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
        run = context.backend.run
        qkv = run(self.before_attention, x_BTC, context.angles)
        return run(self.after_attention, x_BTC, self.attention.attend(*qkv, context))

    def before_attention(self, x_BTC: Tensor, angles: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, BHTD and twice BKTD."""
        return self.attention.project_qkv(self.attention_norm(x_BTC), angles)

    def after_attention(self, x_BTC: Tensor, attended_BHTD: Tensor) -> Tensor:
        """The stream, BTC, with what attention and the MLP add to it."""
        x_BTC = x_BTC + self.dropout(self.attention.project_out(attended_BHTD, x_BTC.dtype))
        return x_BTC + self.dropout(self.mlp(self.mlp_norm(x_BTC)))


class GPT(nn.Module):
    """Predicts the next token at every position.

    Where the output is tied it is the token embedding once more: a token is likely where the stream points towards it.
    """

    padding = 32
    """Whole texts are read fastest padded to a multiple of so many tokens, which their own length decides."""
    reads_lists = False
    """Whether `hidden_states` takes `rows_BT`, and so tokens of any texts of a cache as one list."""

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
            nn.init.normal_(module.projection.weight, std=0.02 / math.sqrt(2 * self.config.n_layer))

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.blocks[0].mlp_norm.weight.device

    @property
    def reading_dtype(self) -> torch.dtype:
        """The dtype in which it multiplies fastest where it reads whole texts."""
        low = has_fast_bfloat16(self.device) or any(weight.dtype == torch.bfloat16 for weight in self.parameters())
        return torch.bfloat16 if low else torch.float32

    @property
    def cache_dtype(self) -> torch.dtype:
        """The dtype of keys and values in a cache that it reads fastest: on a CPU float32, whatever its weights are."""
        return torch.float32 if self.device.type == "cpu" else self.embedding.token.weight.dtype

    def describe(self) -> dict[str, Any]:
        """What a model folder's config.json says of it."""
        return {"gpt": self.config.model_dump()}

    def training_flops(self) -> int:
        """FLOPs that training spends on a token of a full context: six a weight that multiplies, and the attention.

        Chowdhery et al. 2022, appendix B; a causal token sees half of the context.
        """
        config = self.config
        blocks = sum(weight.numel() for weight in self.blocks.parameters() if weight.ndim == 2)
        attention = config.n_layer * config.n_head * config.head_width * config.context_length
        return 6 * (blocks + self.output_weight.numel() + attention)

    def hidden_states(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        *,
        sequences_BT: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """The normalised stream after the last block, BTC.

        Tokens stand at 0 … T-1 unless `positions_BT` says otherwise. With `sequences_BT` (integers) several texts share
        a row, and a token sees its own text alone; below zero is padding, whose output is undefined. A text whose
        `positions_BT` begin at p, not at 0, also sees the first p tokens of its row. With a cache a token also sees
        everything before its position. Raises ValueError for more tokens than the context.
        """
        if tokens_BT.shape[1] > self.config.context_length:
            raise ValueError(f"{tokens_BT.shape[1]} tokens do not fit the context of {self.config.context_length}")
        packed = None if sequences_BT is None else PackedSequences(sequences_BT, positions_BT)
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]  # of all rows
        visible_BTS = angles = None
        if cache is not None:
            end = int(positions_BT.max()) + 1
            visible_BTS = torch.arange(end, device=positions_BT.device) <= positions_BT[:, :, None]
        if self.config.positions == "rotary":
            angles = rotation(positions_BT, self.config)
        context = Context(self.backend, packed, angles, cache, positions_BT, visible_BTS)
        # A model that is frozen in bfloat16 keeps its norms, and the stream, in float32.
        x_BTC = self.dropout(self.embedding(tokens_BT, positions_BT).to(self.blocks[0].mlp_norm.weight.dtype))
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
    lower.embedding, lower.blocks, lower.norm = gpt.embedding, gpt.blocks[:count], nn.Identity()
    upper.embedding, upper.blocks, upper.norm = StreamInput(), gpt.blocks[count:], gpt.norm
    upper.dropout = nn.Identity()
    return lower.train(gpt.training), upper.train(gpt.training)
