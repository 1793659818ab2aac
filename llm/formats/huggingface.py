"""Published weights in our own architecture.

| family | folder (config.json, safetensors) | GGUF file | export (export.py) |
| --- | --- | --- | --- |
| GPT-2 | yes | no | yes |
| Llama 3, 3.1, 3.2, SmolLM2 | yes | yes | yes |
| Qwen2, Qwen2.5 | yes | no | yes |
| Qwen3 | yes | yes | yes |

Mixtures of experts, sliding windows, quantised folders and other scalings of rotary positions are refused, with the key
and its value. Weights are read a tensor at a time straight into their final place, so that the peak of memory is little
more than the model.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from llm.config import GPTConfig
from llm.errors import UserError, UserFileError
from llm.formats.layout import Part
from llm.formats.published_files import PublishedFiles, open_published
from llm.formats.tokenizer_files import read_tokenizer
from llm.formats.weights import StoredTensor, check_tensors, materialise, weightless
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT


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
    layout = files.layout
    whole = layout.config(files.values, str(files.config))
    if any(_differs_from_ones(files.tensors, name) for name in layout.ones(whole)):
        whole = whole.model_copy(update={"qk_norm_weight": True})
    config = _shortened(whole, context_length, files)
    encoding = read_tokenizer(source, files.metadata)
    if encoding.n_vocab > config.vocabulary_size:
        raise UserError(
            f"{source}: the tokenizer has {encoding.n_vocab} tokens, the embedding only {config.vocabulary_size} rows"
        )
    with weightless():
        model = GPT(config)
        weights = GPT(whole).state_dict()
    parts = {name: layout.parts(name, tuple(tensor.shape), whole) for name, tensor in weights.items()}
    tensors = _without_tied_output(files, parts)
    shapes = {part.name: part.shape for tensor_parts in parts.values() for part in tensor_parts}
    shapes |= dict.fromkeys(layout.ones(whole), (whole.head_width,))
    check_tensors(files.weights, tensors, shapes)

    def fill(name: str, tensor: Tensor) -> None:
        for part in parts[name]:
            target = tensor[part.rows]
            target.copy_(part.turn(tensors[part.name].read())[: len(target)])

    materialise(model, fill, lambda name: torch.float32)
    return LoadedModel(model.eval(), encoding)


def _shortened(config: GPTConfig, context_length: int | None, files: PublishedFiles) -> GPTConfig:
    """The config with a context of that length."""
    context_length = config.context_length if context_length is None else context_length
    if not 0 < context_length <= config.context_length:
        raise UserError(
            f"{files.config}: context_length {context_length} is not within the model's {config.context_length}"
        )
    return config.model_copy(update={"context_length": context_length})


def _differs_from_ones(tensors: Mapping[str, StoredTensor], name: str) -> bool:
    return name in tensors and bool((tensors[name].read() != 1).any())


def _without_tied_output(files: PublishedFiles, parts: Mapping[str, list[Part]]) -> Mapping[str, StoredTensor]:
    """Some files keep the output layer although it is tied: harmless where it equals the embedding."""
    tensors = files.tensors
    output = f"{files.layout.modules['output'][0]}.weight"
    embedding = parts["embedding.token.weight"][0].name
    if "output.weight" in parts or not {output, embedding} <= tensors.keys():
        return tensors
    if not torch.equal(tensors[output].read(), tensors[embedding].read()):
        raise UserError(f"{files.weights}: tensor {output} differs from {embedding}, to which the config ties it")
    return {name: tensor for name, tensor in tensors.items() if name != output}
