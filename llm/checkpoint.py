"""A model on disk: its shape as JSON, its weights as safetensors, its tokenizer. No pickle."""

import json
from pathlib import Path

import tiktoken
import torch
from safetensors.torch import save

from llm.classifier import Classifier
from llm.config import GPTConfig
from llm.gpt import GPT
from llm.tokenizer import load_tokenizer, save_tokenizer
from llm.weights import check_tensors, materialise, read_safetensors, weightless

KINDS = ("foundation", "classifier", "assistant")


def save_model(folder: Path, model: GPT | Classifier, encoding: tiktoken.Encoding, kind: str) -> None:
    """Write config.json, model.safetensors and tokenizer.json into an existing folder."""
    if isinstance(model, Classifier):
        config = {"kind": kind, "gpt": model.gpt.config.model_dump(), "max_tokens": model.max_tokens}
    else:
        config = {"kind": kind, "gpt": model.config.model_dump()}
    weights = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_tokenizer(encoding, folder / "tokenizer.json")


def load_model(
    folder: Path, device: torch.device | str = "cpu", *, dropout: float | None = None
) -> tuple[GPT | Classifier, tiktoken.Encoding]:
    """Read what `save_model` wrote, for further training with another `dropout`; the model is in evaluation mode.

    Weights are float32. Raises FileNotFoundError for a missing file, ValueError naming a wrong config, tensor or shape.
    """
    config_file, weights_file = folder / "config.json", folder / "model.safetensors"
    try:
        config = json.loads(config_file.read_text())
        if config["kind"] not in KINDS:
            raise ValueError(f"kind {config['kind']!r} is not one of {', '.join(KINDS)}")
        shape = GPTConfig.model_validate(config["gpt"] | ({} if dropout is None else {"dropout": dropout}))
        with weightless():
            model = Classifier(GPT(shape), config["max_tokens"]) if config["kind"] == "classifier" else GPT(shape)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ValueError(f"{config_file}: {reason}") from None
    tensors = read_safetensors(weights_file)
    check_tensors(weights_file, tensors, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    materialise(model, lambda name, tensor: tensor.copy_(tensors[name].read()), torch.float32, device)
    return model.eval(), load_tokenizer(folder / "tokenizer.json")
