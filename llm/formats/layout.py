"""How one family of published models is written down, and how that becomes GPTConfig and our tensors.

Reading and exporting use the same tables (families.py). Every config key that changes what a model computes is either
mapped to a field of GPTConfig or has to have a value under which GPT computes the same; anything else is refused.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from llm.config import GPTConfig, RotaryScaling
from llm.errors import UserError
from llm.model.gpt import GPT

QUERY_KEY_VALUE = "blocks.{}.attention.query_key_value"
QUERY_NORM, KEY_NORM = "blocks.{}.attention.query_norm", "blocks.{}.attention.key_norm"


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
    """Theirs to ours."""
    turn_back: Callable[[Tensor], Tensor]
    """Ours to theirs."""


@dataclass(frozen=True)
class Layout:
    """One way to write down one family of models."""

    name: str
    """As an error names it."""
    keys: dict[str, str]
    """GPTConfig's fields and the config keys that hold them."""
    fixed: dict[str, Any]
    """GPTConfig's fields that are the same in the whole family."""
    computed: dict[str, tuple[Any, ...]]
    """Config keys and their values under which GPT computes the same; the first is exported. A key may be absent."""
    modules: dict[str, tuple[str, ...]]
    """Our modules, {} for a block's number, and theirs, whose rows follow each other in ours."""
    head_width: tuple[str, ...] = ()
    """Config keys that, where present, have to be the width of a head."""
    prefix: str = ""
    """What their names may start with, or all lack."""
    transposed: frozenset[str] = frozenset()
    """Our modules whose weight they keep as input x output."""
    interleaved: frozenset[str] = frozenset()
    """Their modules whose heads keep rotary pairs as neighbours."""
    ignored: re.Pattern[str] = field(default=re.compile(r"(?!)"))
    """Their tensors that are no weights."""

    def without_prefix(self) -> "Layout":
        """The same for a file in which no name has the prefix."""
        modules = {}
        for ours, names in self.modules.items():
            modules[ours] = tuple(name.removeprefix(self.prefix) for name in names)
        return replace(self, modules=modules)

    def ones(self, config: GPTConfig) -> list[str]:
        """Their tensors of a head's width that are ones where our norms of queries and keys have no weights."""
        if config.qk_norm_weight or not config.qk_norm:
            return []
        names = [self.modules[ours][0] for ours in (QUERY_NORM, KEY_NORM)]
        return [f"{name.format(block)}.weight" for block in range(config.n_layer) for name in names]

    def parts(self, ours: str, shape: tuple[int, ...], config: GPTConfig) -> list[Part]:
        """Their tensors that make our tensor `ours`, of that shape."""
        path, kind = ours.rsplit(".", 1)
        number = re.search(r"\d+", path)
        block = "" if number is None else number[0]
        module = path.replace(block, "{}", 1) if block else path
        theirs = self.modules[module]
        heads = (config.n_head, config.kv_heads, config.kv_heads)
        parts = []
        first = 0
        for name, head_count in zip(theirs, heads, strict=False):
            size = head_count * config.head_width if len(theirs) > 1 else shape[0]
            part_shape = (size, *shape[1:])
            turn = turn_back = _same
            if module in self.transposed and kind == "weight":
                part_shape = part_shape[::-1]
                turn = turn_back = _transposed
            if name in self.interleaved:
                turn = partial(_halves, head_count)
                turn_back = partial(_neighbours, head_count)
            parts.append(
                Part(
                    name=f"{name.format(block)}.{kind}",
                    shape=part_shape,
                    rows=slice(first, first + size),
                    turn=turn,
                    turn_back=turn_back,
                )
            )
            first += size
        return parts

    def config(self, values: Mapping[str, Any], file: str) -> GPTConfig:
        """GPTConfig from their values. Raises UserError, naming the key and its value, for what GPT can't compute."""
        for key, allowed in self.computed.items():
            if key in values and values[key] not in allowed:
                raise UserError(f"{file}: {key} is {values[key]!r}; GPT computes {' or '.join(map(repr, allowed))}")
        layer_types = values.get("layer_types") or []
        if any(layer_type != "full_attention" for layer_type in layer_types):
            raise UserError(f"{file}: layer_types is {layer_types!r}; GPT looks back over the whole context")
        for key in self.keys.values():
            if key not in values:
                raise UserError(f"{file}: {key} is missing")
        try:
            config = GPTConfig(**self.fixed, **{ours: values[key] for ours, key in self.keys.items()})
        except ValidationError as error:
            first = error.errors()[0]
            setting = f"{self.keys[str(first['loc'][0])]} {first['input']!r}: " if first["loc"] else ""
            raise UserError(f"{file}: {setting}{first['msg'].removeprefix('Value error, ')}") from None
        for key in self.head_width:
            if values.get(key) not in (None, config.head_width):
                raise UserError(f"{file}: {key} is {values[key]!r}; GPT computes {config.head_width}, a head's width")
        if config.head_width * config.n_head == config.n_embd:
            return config.model_copy(update={"head_size": None})  # as our own models have it
        return config

    def describe(self, config: GPTConfig) -> dict[str, Any]:
        """Their config keys for a model of ours."""
        values = {ours: getattr(config, ours) for ours in self.keys}
        values |= {"n_kv_head": config.kv_heads, "n_hidden": config.hidden_width, "head_size": config.head_width}
        if config.rotary_scaling is not None:
            values["rotary_scaling"] = published_scaling(config.rotary_scaling)
        constants = {key: allowed[0] for key, allowed in self.computed.items()}
        described = constants | {key: values[ours] for ours, key in self.keys.items()}
        return {key: value for key, value in described.items() if value is not None}

    def tensors(self, model: GPT) -> dict[str, Tensor]:
        """A model's tensors as the family keeps them, in the model's dtype."""
        tensors = {}
        for ours, tensor in model.state_dict().items():
            for part in self.parts(ours, tuple(tensor.shape), model.config):
                tensors[part.name] = part.turn_back(tensor[part.rows]).contiguous()
        for name in self.ones(model.config):
            tensors[name] = model.norm.weight.new_ones(model.config.head_width)
        return tensors

    def holds(self, config: GPTConfig) -> bool:
        """Whether a model of ours is of this family."""
        grouped = "n_kv_head" not in self.keys and config.kv_heads != config.n_head
        return not grouped and all(getattr(config, name) == value for name, value in self.fixed.items())


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.t()


def _halves(heads: int, tensor: Tensor) -> Tensor:
    """Component 2i of a head becomes i, and 2i + 1 becomes i + D/2: pairs as `rotate` turns them."""
    return tensor.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _neighbours(heads: int, tensor: Tensor) -> Tensor:
    """Undo `_halves`."""
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


LLAMA3_SCALING = {
    "factor": "factor",
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
    "original_context_length": "original_max_position_embeddings",
}


def read_scaling(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """RotaryScaling's values from transformers' rotary settings; None where they scale nothing.

    Raises KeyError for a missing setting.
    """
    if settings.get("rope_type") != "llama3":
        return None
    return {ours: settings[key] for ours, key in LLAMA3_SCALING.items()}


def published_scaling(scaling: RotaryScaling) -> dict[str, Any]:
    """The same as transformers' `rope_scaling`."""
    return {"rope_type": "llama3"} | {key: getattr(scaling, ours) for ours, key in LLAMA3_SCALING.items()}
