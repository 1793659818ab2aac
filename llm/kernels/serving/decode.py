"""A GPT's forward pass by decode.c: weights in the form in which it reads them, and calls.

Tensor names end in their shape: L layers, B texts, T new positions, K heads of keys and values, S positions, D width of
a head, C width of the model, V vocabulary.
"""

import ctypes
from collections.abc import Sequence
from ctypes import byref
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from llm.config import GPTConfig
from llm.kernels.serving.decode_library import Block, Cache, Matrix, Model, Norm
from llm.kernels.serving.large_pages import Memory

LANES, GROUP = 16, 32  # as in products.h
FLOAT, BYTES = range(2)
BITS = {FLOAT: 32, BYTES: 8}
SCALES = {FLOAT: 0, BYTES: 1}
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30}  # ggml's numbers, as in products.h
CACHES = (torch.float32, torch.float16)
ALONE = 2**23  # bytes of weights times tokens up to which one thread is faster than two, which wait for each other
ACTIVATIONS = ("gelu", "swiglu")
FAILURES = {1: MemoryError, 2: IndexError, 3: IndexError}
WHY = {1: "no memory for a step", 2: "a token that the model lacks", 3: "a position that the cache lacks"}


def unsupported(config: GPTConfig) -> str | None:
    """What of a model's shape decode.c lacks; None where it computes the model."""
    if config.head_width * config.n_head != config.n_embd:
        return f"heads of {config.head_width}, which are not n_embd / n_head wide"
    if config.qk_norm_weight:
        return "weights in the norms of queries and keys"
    return None


@dataclass(frozen=True)
class BlockWeights:
    """The layers of a block. `expand` holds the MLP's first matrices: one, or with SwiGLU two, the gate first."""

    attention_norm: nn.LayerNorm | nn.RMSNorm
    query_key_value: nn.Linear
    attention_projection: nn.Linear
    mlp_norm: nn.LayerNorm | nn.RMSNorm
    expand: Sequence[nn.Linear]
    mlp_projection: nn.Linear


@dataclass(frozen=True)
class Weights:
    """All weights of a GPT; with a tied output layer `output` is None.

    The upper part of one has no embedding, and the lower part no norm.
    """

    embedding: Tensor | None
    positions: Tensor | None
    """A vector a position, or None with rotary positions."""
    rotation: tuple[Tensor, Tensor] | None
    """Cosines and sines of all positions, TD, or None with learned positions."""
    blocks: Sequence[BlockWeights]
    norm: nn.LayerNorm | nn.RMSNorm | None
    output: Tensor | None


class Decoder:
    """A GPT's weights as decode.c reads them, and its `hidden_states` and `logits`.

    With `exact` they stay float32, as do keys and values. Otherwise matrices have 8 bits, in groups of 32 inputs; keys
    and values are float16. Raises ValueError for a model that decode.c doesn't compute.
    """

    def __init__(self, config: GPTConfig, weights: Weights, library: ctypes.CDLL, *, exact: bool = False) -> None:
        if (reason := unsupported(config)) is not None:
            raise ValueError(f"decode.c has no {reason}")
        self.config = config
        self._library = library
        self._exact = exact
        self._memory = Memory()
        self._tensors: list[Tensor] = []  # of which C has pointers
        self.cache_dtype = torch.float32 if exact else torch.float16
        """Of keys and values that it reads fastest."""
        self.bits: list[int] = []
        """Bits a weight of each matrix: those of the blocks, the embedding, and the output layer if it is not tied."""
        blocks = (Block * config.n_layer)()
        for number, block in enumerate(weights.blocks):
            blocks[number] = self._block(block)
        embedding = Matrix() if weights.embedding is None else self._matrix([weights.embedding])
        output = embedding if weights.output is None else self._matrix([weights.output])
        cosine, sine = weights.rotation or (None, None)
        self._model = Model(
            n_layer=config.n_layer,
            n_embd=config.n_embd,
            n_head=config.n_head,
            kv_heads=config.kv_heads,
            hidden=config.hidden_width,
            rms=config.norm == "rms",
            qk_norm=config.qk_norm,
            activation=ACTIVATIONS.index(config.mlp),
            epsilon=config.norm_epsilon,
            positions=self._pointer(weights.positions),
            cosine=self._pointer(cosine),
            sine=self._pointer(sine),
            embedding=embedding,
            output=output,
            norm=self._norm(weights.norm),
            blocks=blocks,
        )
        self.nbytes = self._memory.kept + sum(tensor.nbytes for tensor in self._tensors)
        """Bytes of all weights."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise ValueError("a model packed for inference can't be copied; keep the one that it was made from")

    def _threads(self, tokens: int) -> int:
        return 1 if self.nbytes * tokens < ALONE else torch.get_num_threads()

    def _pointer(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        tensor = tensor.detach().float().contiguous()
        self._tensors.append(tensor)
        return tensor.data_ptr()

    def _norm(self, norm: nn.LayerNorm | nn.RMSNorm | None) -> Norm:
        if norm is None:
            return Norm()
        return Norm(self._pointer(norm.weight), self._pointer(getattr(norm, "bias", None)))

    def _block(self, block: BlockWeights) -> Block:
        return Block(
            attention_norm=self._norm(block.attention_norm),
            mlp_norm=self._norm(block.mlp_norm),
            query_key_value=self._linear([block.query_key_value]),
            attention_projection=self._linear([block.attention_projection]),
            expand=self._linear(block.expand),
            mlp_projection=self._linear([block.mlp_projection]),
        )

    def _linear(self, layers: Sequence[nn.Linear]) -> Matrix:
        bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
        return self._matrix([layer.weight for layer in layers], bias=bias)

    def _matrix(self, weights: Sequence[Tensor], bias: Tensor | None = None) -> Matrix:
        """Weights, one below the other, outputs x inputs, in tiles of 8 bits, or of 32.

        Those that are no numbers, or too large for a scale of 16 bits, stay as they are: a broken model must look so.
        Where all are kept in one type that C reads, there is no copy in float32 between.
        """
        rows_OI = _rows(weights)
        matrix = None if self._exact else self._pack(rows_OI, BYTES)
        if matrix is None:
            matrix = self._pack(rows_OI, FLOAT)
        assert matrix is not None  # any number is a float
        matrix.bias = self._pointer(bias)
        return matrix

    def _pack(self, rows_OI: Tensor, kind: int) -> Matrix | None:
        """The matrix in memory of its own; None where its numbers can't be of this kind."""
        outputs, inputs = rows_OI.shape
        tiles = -(-outputs // LANES) * -(-inputs // GROUP)
        weight_bytes = tiles * LANES * GROUP * BITS[kind] // 8
        scale_bytes = tiles * LANES * SCALES[kind] * 2
        address = self._memory.room(weight_bytes + scale_bytes)
        scales = address + weight_bytes
        source = (outputs, inputs, rows_OI.data_ptr(), rows_OI.nbytes // outputs)
        arguments = (kind, TYPES[rows_OI.dtype], *source, address, scales, torch.get_num_threads())
        if not self._library.pack(*arguments):
            return None
        self._memory.keep(weight_bytes + scale_bytes)
        self.bits.append(BITS[kind])
        return Matrix(kind=kind, outputs=outputs, inputs=inputs, weights=address, scales=scales)

    def hidden_states(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None,
        cache_LBKSD: tuple[Tensor, Tensor] | None,
        rows_BT: Tensor | None = None,
    ) -> Tensor:
        """The normalised stream after the last block, float32 BTC, with a cache of keys and values or without.

        A model without an embedding takes the stream of the blocks below, BTC, instead of tokens.
        `rows_BT` names the row of the cache that each token belongs to, in the order of their positions; else each text
        has its own. Raises ValueError for too many tokens, for texts that begin behind 0 where no cache has what comes
        before, and for a cache of another precision or fewer rows, IndexError for a token or a position that is not
        there.
        """
        texts, length = tokens_BT.shape[:2]
        if rows_BT is None and length > self.config.context_length:
            raise ValueError(f"{length} tokens do not fit the context of {self.config.context_length}")
        if positions_BT is None:
            positions_BT = torch.arange(length)
        positions_BT = positions_BT.expand(texts, length)
        if cache_LBKSD is None:
            return self._without_cache(tokens_BT, positions_BT)
        if rows_BT is None:
            rows_BT = torch.arange(texts)[:, None].expand(texts, length)
        rows = 1 + int(rows_BT.max()) if rows_BT.numel() else 0
        keys_LBKSD, _ = cache_LBKSD
        if rows > keys_LBKSD.shape[1]:
            raise ValueError(f"{rows} texts, and the cache has {keys_LBKSD.shape[1]} rows")
        return self._with_cache(tokens_BT, positions_BT, rows_BT=rows_BT, cache=self._cache(cache_LBKSD))

    def _with_cache(self, tokens_BT: Tensor, positions_BT: Tensor, *, rows_BT: Tensor, cache: Cache) -> Tensor:
        texts, length = tokens_BT.shape[:2]
        rows_BT = rows_BT.long().contiguous()
        positions_BT = positions_BT.long().contiguous()
        out_BTC = torch.empty(texts, length, self.config.n_embd)
        tokens = None
        if tokens_BT.is_floating_point():
            out_BTC.copy_(tokens_BT)
        else:
            tokens_BT = tokens_BT.long().contiguous()
            tokens = tokens_BT.data_ptr()
        count = texts * length
        places = (tokens, rows_BT.data_ptr(), positions_BT.data_ptr())
        arguments = (byref(self._model), count, *places, byref(cache), out_BTC.data_ptr(), self._threads(count))
        _check(self._library.hidden_states(*arguments))
        return out_BTC

    def _cache(self, cache_LBKSD: tuple[Tensor, Tensor]) -> Cache:
        """A cache as decode.c has it."""
        keys_LBKSD, values_LBKSD = cache_LBKSD
        dtype, strides = keys_LBKSD.dtype, keys_LBKSD.stride()
        if dtype not in CACHES or (values_LBKSD.dtype, values_LBKSD.stride()) != (dtype, strides):
            kinds = ", ".join(f"{part.dtype} with strides {part.stride()}" for part in cache_LBKSD)
            raise ValueError(f"a cache of {kinds}; decode.c reads float16 or float32, keys and values alike")
        layer, row, head, *_ = strides
        return Cache(
            keys=keys_LBKSD.data_ptr(),
            values=values_LBKSD.data_ptr(),
            layer=layer,
            row=row,
            head=head,
            positions=min(keys_LBKSD.shape[3], self.config.context_length),
            half=dtype == torch.float16,
        )

    def _without_cache(self, tokens_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """Text by text, in the cache of a single one: a small one, in memory that was used before."""
        if (positions_BT[:, :1] > 0).any():
            raise ValueError("a text that does not begin at 0, and no cache of what comes before")
        config = self.config
        end = 1 + int(positions_BT.max()) if positions_BT.numel() else 0
        size = (config.n_layer, 1, config.kv_heads, min(end, config.context_length), config.head_width)
        cache_LBKSD = (torch.zeros(size, dtype=self.cache_dtype), torch.zeros(size, dtype=self.cache_dtype))
        texts = []
        for tokens_1T, positions_1T in zip(tokens_BT.split(1), positions_BT.split(1), strict=True):
            texts.append(self.hidden_states(tokens_1T, positions_1T, cache_LBKSD))
        return torch.cat(texts)

    def logits(self, x_BTC: Tensor) -> Tensor:
        """Unnormalised log-probabilities of the next token, float32 … x V."""
        x_BTC = x_BTC.float().contiguous()
        out_BTV = torch.empty(*x_BTC.shape[:-1], self.config.vocabulary_size)
        count = x_BTC.numel() // self.config.n_embd
        arguments = (byref(self._model), count, x_BTC.data_ptr(), out_BTV.data_ptr(), self._threads(count))
        _check(self._library.logits(*arguments))
        return out_BTV


def _rows(weights: Sequence[Tensor]) -> Tensor:
    """The rows of matrices, one below the other, in a type that C reads."""
    rows = torch.cat([weight.detach() for weight in weights]) if len(weights) > 1 else weights[0].detach().contiguous()
    if rows.device.type != "cpu":
        raise ValueError(f"there are no weights on {rows.device}: a model that was packed has let them go")
    return rows if rows.dtype in TYPES else rows.float()


def _check(failed: int) -> None:
    if failed:
        raise FAILURES[failed](WHY[failed])
