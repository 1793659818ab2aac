"""Our models in Hugging Face's layout, where others load them.

python -m llm.formats.export models/assistant FOLDER
"""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import tiktoken
from safetensors.torch import save_file
from torch import Tensor

from llm.chat import Chat, start_of_text, turn_ends
from llm.errors import UserError
from llm.files import atomic_folder
from llm.formats.layout import Layout
from llm.formats.model_folder import load_model, read_config
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
    "smollm3": "SmolLM3ForCausalLM",
}
"""`model_type` of an exported model, and the class in transformers that loads it."""


def export_huggingface(folder: Path, loaded: LoadedModel[GPT], chat: Chat | None = None) -> None:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json as transformers loads them.

    The template of a `chat`, such as an assistant's, becomes chat_template.jinja, which begins with its system prompt
    where a conversation brings none, and generation_config.json says where its turns end. It has no
    `repetition_penalty`: transformers would count the prompt, which the chat's `text_penalty` does not. The folder must
    be new or empty. Raises UserError for a shape that no family in ARCHITECTURES has.
    """
    model, encoding = loaded
    if not isinstance(model, GPT):
        raise UserError(f"{folder}: a {type(model).__name__} has no place in this format, only a GPT has")
    kind = _family(model, folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name a new folder")
    start = start_of_text(encoding) or encoding.decode([end_of_text(encoding)])
    config = _config(model, kind, encoding, start=start)
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": start,
        "eos_token": encoding.decode([end_of_text(encoding)]),
        "model_max_length": model.config.context_length,
        "clean_up_tokenization_spaces": False,
    }
    with atomic_folder(folder) as partial:
        save_file(_weights(model, LAYOUTS[kind]), partial / "model.safetensors", metadata={"format": "pt"})
        (partial / "model.safetensors").chmod(0o644)  # safetensors lets nobody but the owner read it
        _write_json(partial / "config.json", config)
        _write_json(partial / "tokenizer_config.json", tokenizer)
        if chat is not None:
            (partial / "chat_template.jinja").write_text(_with_system(chat), encoding="utf-8")
            ends = {"bos_token_id": config["bos_token_id"], "eos_token_id": sorted(turn_ends(encoding, chat))}
            _write_json(partial / "generation_config.json", ends)
        save_tokenizer(encoding, partial / "tokenizer.json")


def _family(model: GPT, folder: Path) -> str:
    """The `model_type` whose architecture the model has."""
    for kind in ARCHITECTURES:
        if LAYOUTS[kind].holds(model.config):
            return kind
    families = ", ".join(f"{LAYOUTS[kind].name}'s {dict(LAYOUTS[kind].fixed)}" for kind in ARCHITECTURES)
    raise UserError(f"{folder}: {model.config!r} is none of {families}")


def _config(model: GPT, kind: str, encoding: tiktoken.Encoding, *, start: str) -> dict[str, Any]:
    """The content of config.json."""
    end = end_of_text(encoding)
    config = LAYOUTS[kind].describe(model.config) | {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind]],
        "dtype": str(model.norm.weight.dtype).removeprefix("torch."),
        "bos_token_id": encoding.encode_single_token(start),
        "eos_token_id": end,
    }
    if kind in ("llama", "smollm3"):
        config["mlp_bias"] = model.config.bias
    if kind == "smollm3":
        config["pad_token_id"] = end  # transformers' own default is a token of the published vocabulary
    return config


def _weights(model: GPT, layout: Layout) -> dict[str, Tensor]:
    """The model's tensors by the names of its family."""
    weights = {}
    for name, tensor in model.state_dict().items():
        for part in layout.parts(name, tuple(tensor.shape), model.config):
            weights[part.name] = part.turn(tensor[part.rows]).contiguous()
    for name in layout.ones(model.config):
        weights[name] = model.norm.weight.new_ones(model.config.head_width)
    return weights


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _with_system(chat: Chat) -> str:
    """The chat's template, with the chat's system prompt as the default for conversations without one."""
    if not chat.system:
        return chat.template
    turns = json.dumps([{"role": "system", "content": chat.system}], ensure_ascii=False)
    lacking = "not messages or messages[0]['role'] != 'system'"
    return f"{{%- if {lacking} -%}}{{%- set messages = {turns} + messages -%}}{{%- endif %}}\n{chat.template}"


def main() -> None:
    """Write a model of the pipeline as a folder that transformers loads."""
    parser = ArgumentParser(prog="python -m llm.formats.export", description=main.__doc__)
    parser.add_argument("model", type=Path, help="folder of config.json, model.safetensors and tokenizer.json")
    parser.add_argument("folder", type=Path, help="where to write, new or empty")
    arguments = parser.parse_args()
    try:
        loaded = load_model(arguments.model)
        chat = read_config(arguments.model).get("chat")
        if chat is not None:
            chat = Chat.model_validate(chat)
        export_huggingface(arguments.folder, loaded, chat)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
