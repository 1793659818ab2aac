"""Published weights in our own architecture, and our models where others load them.

    python -m llm.formats.huggingface export models/assistant FOLDER

| family | folder (config.json, safetensors) | GGUF file | export |
| --- | --- | --- | --- |
| GPT-2 | yes | no | yes |
| Llama 3, 3.1, 3.2, SmolLM2 | yes | yes | yes |
| Mistral, with a context within its sliding window | yes | as Llama | as Llama |
| Qwen2, Qwen2.5 | yes | yes | yes |
| Qwen3 | yes | yes | yes |
| SmolLM3 | yes | no | yes |

Mixtures of experts, sliding windows, quantised folders and other scalings of rotary positions are refused, with the key
and its value. Weights are read a tensor at a time straight into their final place, so that the peak of memory is little
more than the model.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from llm.chat import Chat, start_of_text, turn_ends
from llm.config import GPTConfig
from llm.errors import UserError, UserFileError
from llm.files import atomic_folder
from llm.formats.layout import Layout, Part
from llm.formats.model_folder import load_model, read_config
from llm.formats.published_files import LAYOUTS, PublishedFiles, open_published
from llm.formats.tokenizer_files import read_tokenizer
from llm.formats.weights import StoredTensor, check_tensors, materialise, weightless
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.tokenizer import end_of_text, save_tokenizer

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
"""`model_type` of what is exported, and the class in transformers that loads it."""


def load_pretrained(
    source: Path,
    *,
    context_length: int | None = None,
    dropout: float = 0.0,
) -> LoadedModel[GPT]:
    """Read a folder in Hugging Face's layout or a GGUF file, for further training with `dropout`.

    `context_length` may shorten the context. The model is in evaluation mode. Its tokenizer must be a byte-level BPE,
    as GPT-2's, Llama 3's and Qwen's: Llama 2's and Mistral's SentencePiece is refused. Raises UserError, naming file
    and place, for a missing file, for what GPT does not compute exactly, for wrong tensors and for another tokenizer.
    """
    if not source.is_dir() and (source.suffix != ".gguf" or not source.exists()):
        raise UserFileError(f"{source} is neither a folder nor a .gguf file")
    files = open_published(source)
    layout, tensors = files.layout, files.tensors
    whole = layout.config(files.values, str(files.config))
    if any(_differs_from_ones(tensors, name) for name in layout.ones(whole)):
        whole = whole.model_copy(update={"qk_norm_weight": True})
    config = _shortened(whole, context_length, files)
    encoding = read_tokenizer(source, files.metadata)
    if encoding.n_vocab > config.vocabulary_size:
        raise UserError(
            f"{source}: the tokenizer has {encoding.n_vocab} tokens, the embedding only {config.vocabulary_size} rows"
        )
    with weightless():
        model, shapes = GPT(config), GPT(whole).state_dict()
    parts = {name: layout.parts(name, tuple(tensor.shape), whole) for name, tensor in shapes.items()}
    tensors = _without_tied_output(tensors, layout, parts, str(files.weights))
    ones = dict.fromkeys(layout.ones(whole), (whole.head_width,))
    check_tensors(files.weights, tensors, {part.name: part.shape for row in parts.values() for part in row} | ones)

    def fill(name: str, tensor: Tensor) -> None:
        for part in parts[name]:
            target = tensor[part.rows]
            target.copy_(part.turn(tensors[part.name].read())[: len(target)])

    materialise(model, fill, lambda name: torch.float32)
    return LoadedModel(model.eval(), encoding)


def _shortened(config: GPTConfig, context_length: int | None, files: PublishedFiles) -> GPTConfig:
    """The config with a context of that length, over all of which the published model has to look."""
    context_length = config.context_length if context_length is None else context_length
    if not 0 < context_length <= config.context_length:
        raise UserError(
            f"{files.config}: context_length {context_length} is not within the model's {config.context_length}"
        )
    window = files.layout.window_length(files.values, str(files.config))
    if window and window < context_length:
        way_out = f"GPT looks back over the whole context; ask for a context_length of at most {window}"
        raise UserError(f"{files.config}: {files.layout.window} is {window}; {way_out}")
    return config.model_copy(update={"context_length": context_length})


def _differs_from_ones(tensors: Mapping[str, StoredTensor], name: str) -> bool:
    return name in tensors and bool((tensors[name].read() != 1).any())


def _without_tied_output(
    tensors: Mapping[str, StoredTensor], layout: Layout, parts: Mapping[str, list[Part]], file: str
) -> Mapping[str, StoredTensor]:
    """Some files keep the output layer although it is tied: harmless where it equals the embedding."""
    output = f"{layout.modules['output'][0]}.weight"
    (embedding,) = (part.name for part in parts["embedding.token.weight"])
    if "output.weight" in parts or not {output, embedding} <= tensors.keys():
        return tensors
    if not torch.equal(tensors[output].read(), tensors[embedding].read()):
        raise UserError(f"{file}: tensor {output} differs from {embedding}, to which the config ties it")
    return {name: tensor for name, tensor in tensors.items() if name != output}


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
    config = model.config
    kind = next((kind for kind in ARCHITECTURES if LAYOUTS[kind].holds(config)), None)
    if kind is None:
        wanted = ", ".join(f"{LAYOUTS[kind].name}'s {dict(LAYOUTS[kind].fixed)}" for kind in ARCHITECTURES)
        raise UserError(f"{folder}: {config!r} is none of {wanted}")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name a new folder")
    layout, end = LAYOUTS[kind], end_of_text(encoding)
    token = encoding.decode([end])
    start = start_of_text(encoding) or token
    described = layout.describe(config) | {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind]],
        "dtype": str(model.norm.weight.dtype).removeprefix("torch."),
        "bos_token_id": encoding.encode_single_token(start),
        "eos_token_id": end,
    }
    if kind in ("llama", "smollm3"):
        described["mlp_bias"] = config.bias
    if kind == "smollm3":
        described["pad_token_id"] = end  # transformers' own default is a token of the published vocabulary
    weights = {
        part.name: part.turn(tensor[part.rows]).contiguous()
        for ours, tensor in model.state_dict().items()
        for part in layout.parts(ours, tuple(tensor.shape), config)
    }
    weights |= {name: model.norm.weight.new_ones(config.head_width) for name in layout.ones(config)}
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": start,
        "eos_token": token,
        "model_max_length": config.context_length,
        "clean_up_tokenization_spaces": False,
    }
    with atomic_folder(folder) as partial:
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        (partial / "model.safetensors").chmod(0o644)  # safetensors lets nobody but the owner read it
        (partial / "config.json").write_text(json.dumps(described, indent=2) + "\n")
        (partial / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n")
        if chat is not None:
            (partial / "chat_template.jinja").write_text(_with_system(chat), encoding="utf-8")
            ends = {"bos_token_id": described["bos_token_id"], "eos_token_id": sorted(turn_ends(encoding, chat))}
            (partial / "generation_config.json").write_text(json.dumps(ends, indent=2) + "\n")
        save_tokenizer(encoding, partial / "tokenizer.json")


def _with_system(chat: Chat) -> str:
    """The chat's template, with the chat's system prompt as the default for conversations without one."""
    if not chat.system:
        return chat.template
    said = json.dumps([{"role": "system", "content": chat.system}], ensure_ascii=False)
    lacking = "not messages or messages[0]['role'] != 'system'"
    return f"{{%- if {lacking} -%}}{{%- set messages = {said} + messages -%}}{{%- endif %}}\n{chat.template}"


def main() -> None:
    """Export a model that the pipeline made."""
    parser = ArgumentParser(prog="python -m llm.formats.huggingface", description=main.__doc__)
    commands = parser.add_subparsers(required=True)
    export = commands.add_parser("export", help="write a model as a folder that transformers loads")
    export.add_argument("model", type=Path, help="folder of config.json, model.safetensors and tokenizer.json")
    export.add_argument("folder", type=Path, help="where to write, new or empty")
    arguments = parser.parse_args()
    try:
        loaded = load_model(arguments.model)
        chat = read_config(arguments.model).get("chat")
        export_huggingface(arguments.folder, loaded, chat and Chat.model_validate(chat))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
