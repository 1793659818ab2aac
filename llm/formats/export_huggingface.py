"""Our models in Hugging Face's layout, which transformers, vLLM and others load."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from llm.chat import Chat, end_of_turn, start_of_text, template_with_system, turn_ends
from llm.errors import UserError
from llm.files import atomic_folder
from llm.formats.published_files import LAYOUTS
from llm.formats.tokenizer_json import save_tokenizer
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.tokenizer import end_of_text

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""`model_type` of an exported model, and the class in transformers that loads it."""


def export_huggingface(
    folder: Path, loaded: LoadedModel[GPT], chat: Chat | None = None, *, max_new_tokens: int | None = None
) -> None:
    """Write a model into a folder as transformers loads it, in the precision that it is in.

    A `chat`, such as an assistant's, becomes the tokenizer's template, which begins with its system prompt where a
    conversation brings none, and its turn's end becomes the end-of-sequence token. generation_config.json asks for the
    likeliest token each time, and for at most `max_new_tokens`. It has no `repetition_penalty`: transformers would
    count the prompt, which the chat's `text_penalty` does not. The folder must be new or empty. Raises UserError for a
    shape that no family in ARCHITECTURES has.
    """
    model, encoding = loaded
    if not isinstance(model, GPT):
        raise UserError(f"{folder}: a {type(model).__name__} has no place in this format, only a GPT has")
    kind = _family(model, folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name a new folder")
    text_end = end_of_text(encoding)
    start = start_of_text(encoding) or encoding.decode([text_end])
    end = text_end if chat is None else end_of_turn(encoding, chat)
    tokens = {"bos_token_id": encoding.encode_single_token(start), "eos_token_id": end, "pad_token_id": text_end}
    generation = tokens | {"eos_token_id": sorted(turn_ends(encoding, chat) if chat else [end]), "do_sample": False}
    if max_new_tokens:
        generation["max_new_tokens"] = max_new_tokens
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": start,
        "eos_token": encoding.decode([end]),
        "pad_token": encoding.decode([text_end]),
        "model_max_length": model.config.context_length,
        "clean_up_tokenization_spaces": False,
    }
    with atomic_folder(folder) as partial:
        weights = partial / "model.safetensors"
        save_file(LAYOUTS[kind].tensors(model), weights, metadata={"format": "pt"})
        weights.chmod(0o644)  # safetensors lets nobody but the owner read it
        if chat is not None:
            template = template_with_system(chat)
            tokenizer["chat_template"] = template  # where older programs look for it
            (partial / "chat_template.jinja").write_text(template, encoding="utf-8")
        _write_json(partial / "config.json", _config(model, kind) | tokens)
        _write_json(partial / "generation_config.json", generation)
        _write_json(partial / "tokenizer_config.json", tokenizer)
        save_tokenizer(encoding, partial / "tokenizer.json")


def _family(model: GPT, folder: Path) -> str:
    """The `model_type` whose architecture the model has."""
    for kind in ARCHITECTURES:
        if LAYOUTS[kind].holds(model.config):
            return kind
    families = ", ".join(f"{LAYOUTS[kind].name}'s {dict(LAYOUTS[kind].fixed)}" for kind in ARCHITECTURES)
    raise UserError(f"{folder}: {model.config!r} is none of {families}")


def _config(model: GPT, kind: str) -> dict[str, Any]:
    """The content of config.json, but for the tokens that begin and end a text."""
    config = LAYOUTS[kind].describe(model.config) | {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind]],
        "dtype": str(model.embedding.token.weight.dtype).removeprefix("torch."),
    }
    if kind == "llama":
        config["mlp_bias"] = model.config.bias
    return config


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
