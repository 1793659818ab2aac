"""A model on disk: its shape as JSON, its weights as safetensors, its tokenizer. No pickle."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from llm.config import GPTConfig
from llm.errors import UserError
from llm.files import read_text
from llm.formats.tokenizer_json import load_tokenizer, save_tokenizer
from llm.formats.weights import check_tensors, materialise, read_safetensors, weightless
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


Build = Callable[[GPT, Mapping[str, Any]], nn.Module]
"""Makes a model around a GPT, as config.json describes it."""


def build_gpt(gpt: GPT, config: Mapping[str, Any]) -> GPT:
    """The GPT itself."""
    return gpt


def save_model(folder: Path, loaded: LoadedModel[nn.Module], objective: str, **settings: Any) -> None:
    """Write config.json, model.safetensors and tokenizer.json into an existing folder.

    config.json holds the objective, which names a module of llm/objectives, `settings`, and `model.describe()`.
    """
    model = loaded.model
    describe = model.describe
    assert callable(describe)  # the model of every objective has it
    config = {"objective": objective, **settings, **describe()}
    weights = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(weights, metadata={"format": "pt"}))
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    save_tokenizer(loaded.encoding, folder / TOKENIZER)


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json holds. Raises UserError without one and where it is no config of ours."""
    file = folder / CONFIG
    text = read_text(file)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON: {error}") from None
    for key, kind in (("objective", str), ("gpt", dict)):
        if not isinstance(config, dict) or not isinstance(config.get(key), kind):
            raise UserError(f"{file}: {key} is missing")
    return config


def load_model(
    folder: Path,
    device: torch.device | str = "cpu",
    *,
    build: Build = build_gpt,
    dropout: float | None = None,
    context_length: int | None = None,
    n_layer: int | None = None,
    as_stored: bool = False,
) -> LoadedModel[Any]:
    """Read what `save_model` wrote, in evaluation mode.

    Where asked, with another `dropout`, a shorter context, or the first `n_layer` blocks alone.
    Weights are float32, or with `as_stored` in the precision that the file has them in. Raises UserError naming a
    missing file, a wrong config, tensor or shape, and a context that the model does not have.
    """
    config = read_config(folder)
    changed = {"dropout": dropout, "context_length": context_length, "n_layer": n_layer}
    try:
        shape = GPTConfig.model_validate(config["gpt"])
        _check_context(shape, context_length)
        if n_layer is not None and n_layer > shape.n_layer:
            raise ValueError(f"{n_layer} layers are more than the model's {shape.n_layer}")
        shape = shape.model_copy(update={name: value for name, value in changed.items() if value is not None})
        with weightless():
            model = build(GPT(shape), config)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{folder / CONFIG}: {reason}") from None
    file = folder / WEIGHTS
    tensors = read_safetensors(file)
    if n_layer is not None:
        tensors = {name: tensor for name, tensor in tensors.items() if not _is_above(name, n_layer)}
    check_tensors(file, tensors, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})

    def fill(name: str, weight: torch.Tensor) -> None:
        weight.copy_(tensors[name].read())

    def dtype_of(name: str) -> torch.dtype:
        return tensors[name].dtype if as_stored else torch.float32

    materialise(model, fill, dtype_of, device=device)
    return LoadedModel(model.eval(), load_tokenizer(folder / TOKENIZER))


def _is_above(name: str, n_layer: int) -> bool:
    """Whether a tensor belongs to a block that is left out."""
    block = re.match(r"blocks\.(\d+)\.", name)
    return block is not None and int(block[1]) >= n_layer


def _check_context(shape: GPTConfig, context_length: int | None) -> None:
    if context_length is None or context_length == shape.context_length:
        return
    if context_length > shape.context_length:
        raise ValueError(f"context_length {context_length} is more than the model's {shape.context_length}")
    if shape.positions != "rotary":
        raise ValueError(f"context_length {context_length}: learned positions keep the model's {shape.context_length}")
