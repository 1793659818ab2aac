"""Our models as GGUF: one file that llama.cpp, Ollama and LM Studio load."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tiktoken
import torch
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import quantize
from tiktoken_ext.openai_public import r50k_pat_str

from llm.chat import Chat, end_of_turn, start_of_text, template_with_system
from llm.config import GPTConfig, RotaryScaling
from llm.errors import UserError
from llm.formats.families import ROPE_FREQUENCIES
from llm.formats.layout import Layout
from llm.formats.published_files import GGUF_LAYOUTS
from llm.formats.tokenizer_files import CONTROL, GGUF_SPLITS, NORMAL, UNUSED, USER_DEFINED, byte_level_split
from llm.formats.tokenizer_json import tokenizer_layout
from llm.loaded_model import LoadedModel
from llm.model.embedding import slowdown
from llm.model.gpt import GPT
from llm.tokenizer import end_of_text, to_onig

Precision = Literal["stored", "float16", "8bit"]
TYPES = {
    torch.float32: GGMLQuantizationType.F32,
    torch.bfloat16: GGMLQuantizationType.BF16,
    torch.float16: GGMLQuantizationType.F16,
}
FILE_TYPES = {
    GGMLQuantizationType.F32: LlamaFileType.ALL_F32,
    GGMLQuantizationType.BF16: LlamaFileType.MOSTLY_BF16,
    GGMLQuantizationType.F16: LlamaFileType.MOSTLY_F16,
    GGMLQuantizationType.Q8_0: LlamaFileType.MOSTLY_Q8_0,
}
BLOCK = 32
"""Weights of a row that share a scale in 8 bits."""
PSEUDO_KEYS = ("tied", "bias", "rope_scaling")
"""Keys of our layouts that are no keys of the format: its tensors say them."""


def export_gguf(
    file: Path,
    loaded: LoadedModel[GPT],
    chat: Chat | None = None,
    *,
    precision: Precision = "stored",
    details: Mapping[str, Any],
) -> None:
    """Write a model with its tokenizer as one GGUF file.

    `precision` is that of the matrices: as the model holds them, float16, or 8 bits with a scale for each 32 weights
    (Q8_0); a matrix whose rows are no multiple of 32 stays float16 then. Vectors are float32. `details` are fields of
    GGUF's block `general`, such as `name` and `license`. The template of a `chat` begins with its system prompt where a
    conversation brings none. Raises UserError for a shape or a tokenizer that llama.cpp does not read.
    """
    model, encoding = loaded
    architecture, layout = _family(model, file)
    matrix_type = _matrix_type(model, precision)
    writer = GGUFWriter(file, architecture)
    for key, value in details.items():
        _add(writer, f"general.{key}", value)
    writer.add_file_type(FILE_TYPES[matrix_type])
    if matrix_type == GGMLQuantizationType.Q8_0:
        writer.add_quantization_version(GGML_QUANT_VERSION)
    _add_shape(writer, layout, model)
    _add_tokenizer(writer, encoding, rows=model.config.vocabulary_size)
    _add_turns(writer, encoding, chat)
    for name, tensor in layout.tensors(model).items():
        tensor_type = _tensor_type(tuple(tensor.shape), matrix_type)
        writer.add_tensor(name, quantize(tensor.float().numpy(), tensor_type), raw_dtype=tensor_type)
    if model.config.rotary_scaling is not None:
        writer.add_tensor(ROPE_FREQUENCIES, _slowdown(model.config, model.config.rotary_scaling))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _family(model: GPT, file: Path) -> tuple[str, Layout]:
    """The architecture in llama.cpp that the model has, and how its file is laid out."""
    for architecture, layout in GGUF_LAYOUTS.items():
        if layout.holds(model.config):
            return architecture, layout
    families = ", ".join(f"{layout.name} {dict(layout.fixed)}" for layout in GGUF_LAYOUTS.values())
    raise UserError(f"{file}: {model.config!r} is none of {families}; --to hf has more")


def _matrix_type(model: GPT, precision: Precision) -> GGMLQuantizationType:
    if precision == "8bit":
        return GGMLQuantizationType.Q8_0
    if precision == "float16":
        return GGMLQuantizationType.F16
    return TYPES[model.embedding.token.weight.dtype]


def _tensor_type(shape: tuple[int, ...], matrix_type: GGMLQuantizationType) -> GGMLQuantizationType:
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if matrix_type == GGMLQuantizationType.Q8_0 and shape[-1] % BLOCK:
        return GGMLQuantizationType.F16
    return matrix_type


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    """Add a field of the type that its Python value has; numbers are unsigned."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, list(value))


def _add_shape(writer: GGUFWriter, layout: Layout, model: GPT) -> None:
    values = layout.describe(model.config)
    for key in layout.keys.values():
        if key not in PSEUDO_KEYS:
            _add(writer, f"{writer.arch}.{key}", values[key])
    writer.add_value_length(model.config.head_width)
    writer.add_rope_dimension_count(model.config.head_width)


def _slowdown(config: GPTConfig, scaling: RotaryScaling) -> np.ndarray:
    """How many times slower each rotary pair turns."""
    pairs = config.head_width // 2
    periods_P = config.rotary_base ** (torch.arange(pairs) / pairs)
    return slowdown(periods_P, scaling).numpy()


def _add_tokenizer(writer: GGUFWriter, encoding: tiktoken.Encoding, rows: int) -> None:
    """Add the tokens, in byte-level BPE's characters, and the merges; `rows` of the embedding have a token each."""
    layout = tokenizer_layout(encoding)
    tokens = [f"<unused_{index}>" for index in range(rows)]
    types = [UNUSED] * rows
    for token, index in layout["model"]["vocab"].items():
        tokens[index] = token
        types[index] = NORMAL
    for token in layout["added_tokens"]:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_name(layout))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([_merge_text(merge) for merge in layout["model"]["merges"]])
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)


def _merge_text(merge: str | list[str]) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)


def _split_name(layout: Mapping[str, Any]) -> str:
    """llama.cpp's name of the way in which a tokenizer splits text. Raises UserError for one that it does not have."""
    pre_tokenizer = layout["pre_tokenizer"]
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    if steps == byte_level_split(to_onig(r50k_pat_str)):
        return "gpt-2"
    for name, split in GGUF_SPLITS.items():
        if steps == split:
            return name
    raise UserError(f"GGUF has no name for this way to split text: {json.dumps(pre_tokenizer)}")


def _add_turns(writer: GGUFWriter, encoding: tiktoken.Encoding, chat: Chat | None) -> None:
    """Add the tokens that begin and end a text or a turn, and the form of a conversation."""
    text_end = end_of_text(encoding)
    start = start_of_text(encoding)
    writer.add_bos_token_id(encoding.encode_single_token(start) if start else text_end)
    if chat is None:
        writer.add_eos_token_id(text_end)
        return
    turn_end = end_of_turn(encoding, chat)
    writer.add_eos_token_id(turn_end)
    writer.add_eot_token_id(turn_end)
    writer.add_chat_template(template_with_system(chat))
