"""How others write down the models that GPT covers: one table a layout, for their config keys and tensor names.

Reading and exporting use the same tables. Every config key that changes what a model computes is either mapped to a
field of GPTConfig or has to have a value under which GPT computes the same; anything else is refused, never guessed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from llm.config import GPTConfig
from llm.errors import UserError

QUERY_KEY_VALUE = "blocks.{}.attention.query_key_value"


@dataclass(frozen=True)
class Part:
    """A tensor of theirs, and which rows of one of ours it is."""

    name: str
    """Theirs."""
    shape: tuple[int, ...]
    """Theirs."""
    rows: slice
    """Of ours."""
    turn: Callable[[Tensor], Tensor]
    """Theirs to ours; in a layout that is exported, ours to theirs too."""


@dataclass(frozen=True)
class Layout:
    """One way to write down one family of models."""

    name: str
    """As an error names it."""
    keys: Mapping[str, str]
    """GPTConfig's fields and the config keys that hold them."""
    fixed: Mapping[str, Any]
    """GPTConfig's fields that are the same in the whole family."""
    computed: Mapping[str, tuple]
    """Config keys and their values under which GPT computes the same; the first is exported. A key may be absent."""
    head_width: tuple[str, ...]
    """Config keys that, where present, have to be the width of a head; all are exported."""
    modules: Mapping[str, tuple[str, ...]]
    """Our modules, {} for a block's number, and theirs, whose rows follow each other in ours."""
    window: str = "sliding_window"
    """Config key of how far attention looks back, where it is not over the whole context."""
    prefix: str = ""
    """What their names may start with, or all lack."""
    transposed: frozenset[str] = frozenset()
    """Our modules whose weight they keep as input x output."""
    interleaved: frozenset[str] = frozenset()
    """Their modules whose heads keep rotary pairs as neighbours."""
    head_norms: tuple[str, ...] = ()
    """Their norms of queries and keys. Ours have no weights, so theirs have to be ones."""
    ignored: re.Pattern = field(default=re.compile(r"(?!)"))
    """Their tensors that are no weights."""

    def without_prefix(self) -> "Layout":
        """The same for a file in which no name has the prefix."""
        bare = {ours: tuple(name.removeprefix(self.prefix) for name in names) for ours, names in self.modules.items()}
        return replace(self, modules=bare, head_norms=tuple(name.removeprefix(self.prefix) for name in self.head_norms))

    def ones(self, config: GPTConfig) -> list[str]:
        """Their tensors of a head's width that have to be ones."""
        return [f"{name.format(block)}.weight" for block in range(config.n_layer) for name in self.head_norms]

    def parts(self, ours: str, shape: tuple[int, ...], config: GPTConfig) -> list[Part]:
        """Their tensors that make our tensor `ours`, of that shape."""
        path, kind = ours.rsplit(".", 1)
        number = re.search(r"\d+", path)
        module = path if number is None else path.replace(number[0], "{}", 1)
        heads = (config.n_head, config.kv_heads, config.kv_heads)
        theirs = self.modules[module]
        sizes = [count * config.head_width for count in heads] if len(theirs) > 1 else shape[:1]
        parts, first = [], 0
        for name, size, count in zip(theirs, sizes, heads, strict=False):
            stored, turn = (size, *shape[1:]), _same
            if module in self.transposed and kind == "weight":
                stored, turn = stored[::-1], _transposed
            if name in self.interleaved:
                turn = _halves(count)
            full_name = f"{name.format(number and number[0])}.{kind}"
            parts.append(Part(full_name, stored, slice(first, first + size), turn))
            first += size
        return parts

    def config(self, found: Mapping[str, Any], file: str) -> GPTConfig:
        """GPTConfig from their values. Raises UserError, naming the key and its value, for what GPT can't compute."""
        for key, values in self.computed.items():
            if key in found and found[key] not in values:
                raise UserError(f"{file}: {key} is {found[key]!r}; GPT computes {' or '.join(map(repr, values))}")
        if missing := [key for key in self.keys.values() if key not in found]:
            raise UserError(f"{file}: {missing[0]} is missing")
        try:
            config = GPTConfig(**self.fixed, **{ours: found[key] for ours, key in self.keys.items()})
        except ValidationError as error:
            first = error.errors()[0]
            place = f"{self.keys[str(first['loc'][0])]} {first['input']!r}: " if first["loc"] else ""
            raise UserError(f"{file}: {place}{first['msg'].removeprefix('Value error, ')}") from None
        for key in self.head_width:
            if found.get(key) not in (None, config.head_width):
                raise UserError(f"{file}: {key} is {found[key]!r}; GPT computes width / heads, {config.head_width}")
        return config

    def describe(self, config: GPTConfig) -> dict[str, Any]:
        """Their config keys for a model of ours."""
        values = config.model_dump() | {"n_kv_head": config.kv_heads, "n_hidden": config.hidden_width}
        constants = {key: allowed[0] for key, allowed in self.computed.items() if allowed[0] is not None}
        widths = dict.fromkeys(self.head_width, config.head_width)
        return constants | widths | {key: values[ours] for ours, key in self.keys.items()}

    def holds(self, config: GPTConfig) -> bool:
        """Whether a model of ours is of this family."""
        grouped = "n_kv_head" not in self.keys and config.kv_heads != config.n_head
        return not grouped and all(getattr(config, name) == value for name, value in self.fixed.items())


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.t()


def _halves(heads: int) -> Callable[[Tensor], Tensor]:
    """Component 2i of a head becomes i, and 2i + 1 becomes i + D/2: pairs as `rotate` turns them."""
    return lambda tensor: tensor.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


_ROTARY = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "qk_norm": False}

GPT2 = Layout(
    name="GPT-2",
    keys={
        "vocabulary_size": "vocab_size",
        "context_length": "n_positions",
        "n_layer": "n_layer",
        "n_head": "n_head",
        "n_embd": "n_embd",
        "n_hidden": "n_inner",
        "norm_epsilon": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
    },
    fixed={"positions": "learned", "norm": "layer", "mlp": "gelu", "bias": True, "qk_norm": False},
    computed={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "quantization_config": (None,),
    },
    head_width=(),
    modules={
        "embedding.token": ("transformer.wte",),
        "embedding.position": ("transformer.wpe",),
        "blocks.{}.attention_norm": ("transformer.h.{}.ln_1",),
        QUERY_KEY_VALUE: ("transformer.h.{}.attn.c_attn",),
        "blocks.{}.attention.projection": ("transformer.h.{}.attn.c_proj",),
        "blocks.{}.mlp_norm": ("transformer.h.{}.ln_2",),
        "blocks.{}.mlp.expand": ("transformer.h.{}.mlp.c_fc",),
        "blocks.{}.mlp.projection": ("transformer.h.{}.mlp.c_proj",),
        "norm": ("transformer.ln_f",),
        "output": ("lm_head",),
    },
    prefix="transformer.",
    transposed=frozenset(
        (QUERY_KEY_VALUE, "blocks.{}.attention.projection", "blocks.{}.mlp.expand", "blocks.{}.mlp.projection")
    ),
    ignored=re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)"),
)

LLAMA = Layout(
    name="Llama",
    keys={
        "vocabulary_size": "vocab_size",
        "context_length": "max_position_embeddings",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_kv_head": "num_key_value_heads",
        "n_embd": "hidden_size",
        "n_hidden": "intermediate_size",
        "rotary_base": "rope_theta",
        "norm_epsilon": "rms_norm_eps",
        "bias": "attention_bias",
        "tied": "tie_word_embeddings",
    },
    fixed=_ROTARY,
    computed={
        "hidden_act": ("silu", "swish"),
        "rope_type": (None, "default"),
        "partial_rotary_factor": (None, 1),
        "quantization_config": (None,),
    },
    head_width=("head_dim",),
    modules={
        "embedding.token": ("model.embed_tokens",),
        "blocks.{}.attention_norm": ("model.layers.{}.input_layernorm",),
        QUERY_KEY_VALUE: tuple(f"model.layers.{{}}.self_attn.{name}_proj" for name in "qkv"),
        "blocks.{}.attention.projection": ("model.layers.{}.self_attn.o_proj",),
        "blocks.{}.mlp_norm": ("model.layers.{}.post_attention_layernorm",),
        "blocks.{}.mlp.gate": ("model.layers.{}.mlp.gate_proj",),
        "blocks.{}.mlp.expand": ("model.layers.{}.mlp.up_proj",),
        "blocks.{}.mlp.projection": ("model.layers.{}.mlp.down_proj",),
        "norm": ("model.norm",),
        "output": ("lm_head",),
    },
    prefix="model.",
    ignored=re.compile(r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
)

QWEN3 = replace(
    LLAMA,
    name="Qwen3",
    keys={ours: key for ours, key in LLAMA.keys.items() if ours != "bias"},
    fixed=_ROTARY | {"bias": False, "qk_norm": True},
    computed=LLAMA.computed | {"attention_bias": (False,), "use_sliding_window": (False,)},
    head_norms=tuple(f"model.layers.{{}}.self_attn.{name}_norm" for name in "qk"),
)

GGUF_LLAMA = Layout(
    name="GGUF's llama",
    keys={
        "vocabulary_size": "vocab_size",
        "context_length": "context_length",
        "n_layer": "block_count",
        "n_head": "attention.head_count",
        "n_kv_head": "attention.head_count_kv",
        "n_embd": "embedding_length",
        "n_hidden": "feed_forward_length",
        "rotary_base": "rope.freq_base",
        "norm_epsilon": "attention.layer_norm_rms_epsilon",
        "bias": "bias",
        "tied": "tied",
    },
    fixed=_ROTARY,
    computed={
        "rope.scaling.type": ("none",),
        "rope.scaling.factor": (0, 1),
        "rope.scale_linear": (0, 1),
        "expert_count": (0,),
        "attention.causal": (True,),
        "attention.scale": (0,),
    },
    head_width=("rope.dimension_count", "attention.key_length", "attention.value_length"),
    modules={
        "embedding.token": ("token_embd",),
        "blocks.{}.attention_norm": ("blk.{}.attn_norm",),
        QUERY_KEY_VALUE: ("blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v"),
        "blocks.{}.attention.projection": ("blk.{}.attn_output",),
        "blocks.{}.mlp_norm": ("blk.{}.ffn_norm",),
        "blocks.{}.mlp.gate": ("blk.{}.ffn_gate",),
        "blocks.{}.mlp.expand": ("blk.{}.ffn_up",),
        "blocks.{}.mlp.projection": ("blk.{}.ffn_down",),
        "norm": ("output_norm",),
        "output": ("output",),
    },
    window="attention.sliding_window",
    interleaved=frozenset(("blk.{}.attn_q", "blk.{}.attn_k")),
)
