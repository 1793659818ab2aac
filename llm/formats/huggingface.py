"""Published weights in our own architecture, and our models where others load them.

    python -m llm.formats.huggingface export models/assistant FOLDER

Reads GPT-2 and Llama-type models from folders as Hugging Face lays them out (config.json, safetensors) and Llama-type
models from GGUF files; writes such folders. A model of ours with `qk_norm` is written as a Qwen3 model and can be read
back. Published Qwen3 models are refused: they scale queries and keys by trained weights, which ours lack. Weights are
read a tensor at a time straight into their final place, so that the peak of memory is little more than the model.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiktoken
import torch
from safetensors.torch import save_file
from torch import Tensor

from llm.chat import Chat, start_of_text, turn_ends
from llm.config import GPTConfig
from llm.errors import UserError, UserFileError
from llm.files import atomic_folder, read_text
from llm.formats.families import GGUF_LLAMA, GPT2, LLAMA, QWEN3, Layout, Part
from llm.formats.gguf import read_gguf
from llm.formats.model_folder import load_model, read_config
from llm.formats.tokenizer_files import read_tokenizer
from llm.formats.weights import StoredTensor, check_tensors, materialise, read_safetensors, weightless
from llm.model.gpt import GPT
from llm.tokenizer import end_of_text, save_tokenizer

LAYOUTS = {"gpt2": GPT2, "llama": LLAMA, "mistral": LLAMA, "qwen3": QWEN3}
ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}  # exported
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".h5", ".msgpack")
_LLAMA_DEFAULTS = {"num_key_value_heads": None, "rms_norm_eps": 1e-6, "attention_bias": False, "mlp_bias": False}
# What transformers takes for a key that a config.json leaves out.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_inner": None, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    "llama": _LLAMA_DEFAULTS | {"tie_word_embeddings": False},
    "mistral": _LLAMA_DEFAULTS | {"tie_word_embeddings": False, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128, "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
}


def load_pretrained(
    source: Path,
    *,
    context_length: int | None = None,
    dropout: float = 0.0,
) -> tuple[GPT, tiktoken.Encoding]:
    """Read a folder in Hugging Face's layout or a GGUF file, for further training with `dropout`.

    `context_length` may shorten the context. The model is in evaluation mode. Its tokenizer must be a byte-level BPE
    that leaves text as it is, as GPT-2's and Llama 3's: Llama 2's and Mistral's SentencePiece (`byte_fallback`, a
    normalizer, `tokenizer.ggml.model` llama) is refused. Raises UserError, naming file and place, for a missing file,
    for what GPT does not compute exactly, for wrong tensors and for another tokenizer.
    """
    if not source.is_dir() and (source.suffix != ".gguf" or not source.exists()):
        raise UserFileError(f"{source} is neither a folder nor a .gguf file")
    is_gguf = source.suffix == ".gguf"
    config_file = source if is_gguf else source / "config.json"
    weights_file, layout, found, tensors, metadata = _read_gguf(source) if is_gguf else _read_folder(source)
    whole = layout.config(found, str(config_file))
    config = _shortened(whole, context_length, layout.window, found.get(layout.window), str(config_file))
    encoding = read_tokenizer(source, metadata)
    if encoding.n_vocab > config.vocabulary_size:
        raise UserError(
            f"{source}: the tokenizer has {encoding.n_vocab} tokens, the embedding only {config.vocabulary_size} rows"
        )
    with weightless():
        model, shapes = GPT(config), GPT(whole).state_dict()
    parts = {name: layout.parts(name, tuple(tensor.shape), whole) for name, tensor in shapes.items()}
    tensors = _without_tied_output(tensors, layout, parts, str(weights_file))
    ones = dict.fromkeys(layout.ones(whole), (whole.head_width,))
    check_tensors(weights_file, tensors, {part.name: part.shape for row in parts.values() for part in row} | ones)
    if others := [name for name in ones if (tensors[name].read() != 1).any()]:
        raise UserError(
            f"{weights_file}: tensor {others[0]} is not all ones; GPT's queries and keys have no such weight"
        )

    def fill(name: str, tensor: Tensor) -> None:
        for part in parts[name]:
            target = tensor[part.rows]
            target.copy_(part.turn(tensors[part.name].read())[: len(target)])

    materialise(model, fill, lambda name: torch.float32)
    return model.eval(), encoding


def _shortened(config: GPTConfig, context_length: int | None, key: str, window: object, file: str) -> GPTConfig:
    context_length = config.context_length if context_length is None else context_length
    if not 0 < context_length <= config.context_length:
        raise UserError(f"{file}: context_length {context_length} is not within the model's {config.context_length}")
    if not isinstance(window, int | None):
        raise UserError(f"{file}: {key} is {window!r}, not a number of tokens")
    if window and window < context_length:
        way_out = f"GPT looks back over the whole context; ask for a context_length of at most {window}"
        raise UserError(f"{file}: {key} is {window}; {way_out}")
    return config.model_copy(update={"context_length": context_length})


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


_Found = tuple[Path, Layout, dict[str, Any], Mapping[str, StoredTensor], dict[str, Any]]


def _read_gguf(path: Path) -> _Found:
    metadata, tensors = read_gguf(path)
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise UserError(f"{path}: general.architecture is {architecture!r}; only 'llama' is supported")
    found = {key.removeprefix("llama."): value for key, value in metadata.items() if key.startswith("llama.")}
    rows = next(iter(tensors["token_embd.weight"].shape), None) if "token_embd.weight" in tensors else None
    defaults = {"vocab_size": rows, "rope.freq_base": 10_000.0, "attention.head_count_kv": None}
    found = defaults | found | {"tied": "output.weight" not in tensors, "bias": "blk.0.attn_q.bias" in tensors}
    return path, GGUF_LLAMA, found, tensors, metadata


def _read_folder(folder: Path) -> _Found:
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
    found = DEFAULTS[kind] | raw
    if layout is not GPT2:
        found |= _rotary(found, str(config_file))
    if layout is LLAMA and found["mlp_bias"] != found["attention_bias"]:
        wanted = f"GPT computes the same as attention_bias, {found['attention_bias']!r}"
        raise UserError(f"{config_file}: mlp_bias is {found['mlp_bias']!r}; {wanted}")
    file, tensors = _read_weights(folder)
    if not any(name.startswith(layout.prefix) for name in tensors):
        layout = layout.without_prefix()
    tensors = {name: tensor for name, tensor in tensors.items() if not layout.ignored.fullmatch(name)}
    return file, layout, found, tensors, {}


def _rotary(found: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Rotary settings as flat keys; transformers nests them since version 5, and only their scaling before.

    Of a file with both it takes `rope_scaling` alone, earlier versions `rope_theta` and that: so both have to agree.
    """
    theta = found.get("rope_theta", 10_000.0)
    settings = []
    for key in ("rope_parameters", "rope_scaling"):
        nested = found.get(key) or {}
        if not isinstance(nested, dict):
            raise UserError(f"{file}: {key} is {nested!r}, not an object of settings")
        if nested:
            named = {name: value for name, value in nested.items() if name != "type"}
            settings.append({"rope_theta": theta, "rope_type": nested.get("type", "default")} | named)
    if settings[1:] and settings[0] != settings[1]:
        other = f"rope_parameters {found['rope_parameters']!r}"
        raise UserError(f"{file}: rope_scaling is {found['rope_scaling']!r}; GPT computes the same as {other}")
    return settings[0] if settings else {"rope_theta": theta}


def _read_weights(folder: Path) -> tuple[Path, dict[str, StoredTensor]]:
    """The file that lists the tensors, and the tensors."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists():
        return whole, read_safetensors(whole)
    if not index.exists():
        if others := sorted(path.name for path in folder.iterdir() if path.suffix in OTHER_WEIGHTS):
            raise UserError(f"{folder / others[0]}: only safetensors are read, as pickled weights may run code")
        raise UserFileError(f"{folder}: neither {whole.name} nor {index.name} is there")
    text = read_text(index)
    try:
        shards = json.loads(text)["weight_map"]
        names = sorted(set(shards.values()))
        if outside := [shard for shard in names if Path(shard).name != shard or not shard.endswith(".safetensors")]:
            raise UserError(f"{index}: shard {outside[0]!r} is no bare name of a .safetensors file beside it")
        stored = {shard: read_safetensors(folder / shard) for shard in names}
    except (LookupError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise UserError(f"{index}: no index of safetensors ({type(error).__name__}: {error})") from None
    if lost := [name for name, shard in shards.items() if name not in stored[shard]]:
        raise UserError(f"{index}: tensor {lost[0]} is not in {shards[lost[0]]}")
    return index, {name: stored[shard][name] for name, shard in shards.items()}


def export_huggingface(folder: Path, model: GPT, encoding: tiktoken.Encoding, chat: Chat | None = None) -> None:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json as transformers loads them.

    The template of a `chat`, such as an assistant's, becomes chat_template.jinja, which begins with its system prompt
    where a conversation brings none, and generation_config.json says where its turns end. The folder must be new or
    empty. Raises UserError for a shape that is none of GPT-2's, Llama's and Qwen3's.
    """
    if not isinstance(model, GPT):
        raise UserError(f"{folder}: a {type(model).__name__} has no place in this format, only a GPT has")
    config = model.config
    kind = next((kind for kind in ARCHITECTURES if LAYOUTS[kind].holds(config)), None)
    if kind is None:
        wanted = ", ".join(f"{layout.name}'s {dict(layout.fixed)}" for layout in (GPT2, LLAMA, QWEN3))
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
    if kind == "llama":
        described["mlp_bias"] = config.bias
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
        model, encoding = load_model(arguments.model)
        chat = read_config(arguments.model).get("chat")
        export_huggingface(arguments.folder, model, encoding, chat and Chat.model_validate(chat))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
