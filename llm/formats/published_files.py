"""The files of a published model: its config's values, which layout they follow, and its tensors, still unread."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm.config import RotaryScaling
from llm.errors import UserError, UserFileError
from llm.files import read_text
from llm.formats.families import GGUF_LLAMA, GGUF_QWEN3, GPT2, LLAMA, QWEN2, QWEN3, ROPE_FREQUENCIES
from llm.formats.gguf import read_gguf
from llm.formats.layout import Layout, read_scaling
from llm.formats.weights import StoredTensor, read_safetensors
from llm.model.embedding import slowdown

LAYOUTS = {"gpt2": GPT2, "llama": LLAMA, "qwen2": QWEN2, "qwen3": QWEN3}
GGUF_LAYOUTS = {"llama": GGUF_LLAMA, "qwen3": GGUF_QWEN3}
PICKLED = (".bin", ".pt", ".pth", ".h5", ".msgpack")
_ROTARY_DEFAULTS = {"head_dim": None, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
_LLAMA_DEFAULTS = _ROTARY_DEFAULTS | {"num_key_value_heads": None, "attention_bias": False, "mlp_bias": False}
# What transformers takes for a key that a config.json leaves out.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_inner": None, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    "llama": _LLAMA_DEFAULTS,
    "qwen2": _ROTARY_DEFAULTS | {"num_key_value_heads": 32},
    "qwen3": _ROTARY_DEFAULTS | {"num_key_value_heads": 32, "head_dim": 128},
}


@dataclass(frozen=True)
class PublishedFiles:
    """A published model as its files describe it."""

    config: Path
    """The file that holds the config."""
    weights: Path
    """The file that holds the tensors, or lists them."""
    layout: Layout
    """How config and tensors are written down."""
    values: Mapping[str, Any]
    """The config's values by the layout's keys, with defaults for those that it leaves out."""
    tensors: Mapping[str, StoredTensor]
    """By their names in the layout."""
    metadata: dict[str, Any]
    """A GGUF file's metadata, which hold the tokenizer; empty for a folder."""


def open_published(source: Path) -> PublishedFiles:
    """Open a folder or a GGUF file. Raises UserError, with file and key, for what can't be read or computed."""
    return _open_gguf(source) if source.suffix == ".gguf" else _open_folder(source)


def _open_gguf(path: Path) -> PublishedFiles:
    metadata, tensors = read_gguf(path)
    architecture = metadata.get("general.architecture")
    if architecture not in tuple(GGUF_LAYOUTS):
        supported = ", ".join(map(repr, GGUF_LAYOUTS))
        raise UserError(f"{path}: general.architecture is {architecture!r}; supported are {supported}")
    prefix = f"{architecture}."
    values = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    embedding = tensors.get("token_embd.weight")
    defaults: dict[str, Any] = dict.fromkeys(("attention.head_count_kv", "attention.key_length", "rope_scaling"))
    defaults["vocab_size"] = embedding.shape[0] if embedding and embedding.shape else None
    defaults["rope.freq_base"] = 10_000.0
    values = defaults | values | {"tied": "output.weight" not in tensors, "bias": "blk.0.attn_q.bias" in tensors}
    if ROPE_FREQUENCIES in tensors:
        slowdown_P = tensors.pop(ROPE_FREQUENCIES).read().flatten()
        values["rope_scaling"] = _scaling_of(slowdown_P, values["rope.freq_base"], str(path))
        values[ROPE_FREQUENCIES] = 2 * len(slowdown_P)  # a number for each pair of a head's components
    return PublishedFiles(
        config=path,
        weights=path,
        layout=GGUF_LAYOUTS[architecture],
        values=values,
        tensors=tensors,
        metadata=metadata,
    )


def _scaling_of(slowdown_P: Tensor, base: float, file: str) -> RotaryScaling:
    """RotaryScaling from how many times slower each pair turns.

    GGUF keeps these numbers alone. All of Llama 3.1 and 3.2 were made by the values below, and differ in the factor.
    """
    reason = f"{file}: tensor {ROPE_FREQUENCIES} slows positions down in another way than Llama 3.1 does"
    try:
        scaling = RotaryScaling(
            factor=max(slowdown_P.tolist()),
            low_frequency_factor=1,
            high_frequency_factor=4,
            original_context_length=8192,
        )
    except ValueError:  # no numbers, or none that slow anything down
        raise UserError(reason) from None
    periods_P = float(base) ** (torch.arange(len(slowdown_P)) / len(slowdown_P))
    if not torch.allclose(slowdown(periods_P, scaling), slowdown_P, rtol=1e-4):
        raise UserError(reason)
    return scaling


def _open_folder(folder: Path) -> PublishedFiles:
    config_file = folder / "config.json"
    text = read_text(config_file)
    try:
        raw = json.loads(text)
        kind = raw.get("model_type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{config_file}: not the config of a model ({error})") from None
    if kind not in tuple(LAYOUTS):  # which, unlike a dict, may be asked for a list
        raise UserError(f"{config_file}: model_type {kind!r} is not one of {', '.join(LAYOUTS)}")
    layout = LAYOUTS[kind]
    values = DEFAULTS[kind] | raw
    if layout is not GPT2:
        values |= _rotary(values, str(config_file))
    if "bias" in layout.keys and layout is not GPT2 and values["mlp_bias"] != values["attention_bias"]:
        wanted = f"GPT computes the same as attention_bias, {values['attention_bias']!r}"
        raise UserError(f"{config_file}: mlp_bias is {values['mlp_bias']!r}; {wanted}")
    weights_file, tensors = _read_weights(folder)
    if not any(name.startswith(layout.prefix) for name in tensors):
        layout = layout.without_prefix()
    tensors = {name: tensor for name, tensor in tensors.items() if not layout.ignored.fullmatch(name)}
    return PublishedFiles(
        config=config_file,
        weights=weights_file,
        layout=layout,
        values=values,
        tensors=tensors,
        metadata={},
    )


def _rotary(values: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Rotary settings as flat keys; transformers nests them since version 5, and only their scaling before.

    A file with both is refused: versions of transformers read it in different ways.
    """
    nested = [(key, values[key]) for key in ("rope_parameters", "rope_scaling") if values.get(key)]
    if len(nested) > 1:
        raise UserError(f"{file}: it has both rope_parameters and rope_scaling; delete the one that is wrong")
    theta = values.get("rope_theta", 10_000.0)
    if not nested:
        return {"rope_theta": theta, "rope_scaling": None}
    key, scaling = nested[0]
    if not isinstance(scaling, dict):
        raise UserError(f"{file}: {key} is {scaling!r}, not an object of settings")
    settings = {"rope_theta": theta, "rope_type": scaling.get("type", "default")} | scaling
    try:
        return settings | {"rope_scaling": read_scaling(settings)}
    except KeyError as error:
        raise UserError(f"{file}: {error.args[0]} is missing in {settings!r}") from None


def _read_weights(folder: Path) -> tuple[Path, dict[str, StoredTensor]]:
    """The file that lists the tensors, and the tensors."""
    whole = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    if whole.exists():
        return whole, read_safetensors(whole)
    if not index.exists():
        pickled = sorted(path for path in folder.iterdir() if path.suffix in PICKLED)
        if pickled:
            raise UserError(f"{pickled[0]}: only safetensors are read, as pickled weights may run code")
        raise UserFileError(f"{folder}: neither {whole.name} nor {index.name} is there")
    text = read_text(index)
    stored = {}
    try:
        shards = json.loads(text)["weight_map"]
        for shard in sorted(set(shards.values())):
            if Path(shard).name != shard or not shard.endswith(".safetensors"):
                raise UserError(f"{index}: shard {shard!r} is no bare name of a .safetensors file beside it")
            stored[shard] = read_safetensors(folder / shard)
    except (LookupError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise UserError(f"{index}: no index of safetensors ({type(error).__name__}: {error})") from None
    for name, shard in shards.items():
        if name not in stored[shard]:
            raise UserError(f"{index}: tensor {name} is not in {shard}")
    return index, {name: stored[shard][name] for name, shard in shards.items()}
