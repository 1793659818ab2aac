"""Tokenizers and chat templates of published models, from their files: the very ids that their makers' libraries give.

A tokenizer.json is opened as it is. A GGUF file holds the same parts, but for the way to split text, of which it has
the name alone.

Special tokens are never found in people's text here (`encode_ordinary`), and none are put around it. Added tokens that
are not special are found in text, as everywhere.
"""

import json
from pathlib import Path
from typing import Any

import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str

from llm.errors import UserError, UserFileError
from llm.files import read_text
from llm.formats.tokenizer_json import PublishedEncoding, load_tokenizer
from llm.tokenizer import END_OF_TEXT, make_encoding, to_bytes

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


def byte_level_split(pattern: str) -> list[dict[str, Any]]:
    """How a tokenizer.json splits text by a pattern, and then spells its bytes."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [split, BYTE_LEVEL | {"use_regex": False}]


# `tokenizer.ggml.pre`, and how the makers' tokenizer.json splits text.
GGUF_SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [BYTE_LEVEL],
    "smollm": [DIGITS, BYTE_LEVEL],
    "starcoder": [DIGITS, BYTE_LEVEL],
    "llama-bpe": byte_level_split(LLAMA3_SPLIT),
}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # `tokenizer.ggml.token_type`


def gguf_encoding(metadata: dict[str, Any]) -> tiktoken.Encoding:
    """The encoding in a GGUF file's metadata.

    Raises UserError, with the key, for a tokenizer of another kind or one whose way to split text isn't known.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise UserError(f"tokenizer.ggml.model is {model!r}; only 'gpt2', byte-level BPE, is read")
    split = metadata.get("tokenizer.ggml.pre")
    if split not in GGUF_SPLITS:
        raise UserError(
            f"tokenizer.ggml.pre is {split!r}; known ways to split text are {', '.join(map(repr, GGUF_SPLITS))}"
        )
    for part in ("merges", "token_type", "tokens"):
        if f"tokenizer.ggml.{part}" not in metadata:
            raise UserError(f"tokenizer.ggml.{part} is missing")
    tokens = metadata["tokenizer.ggml.tokens"]
    types = metadata["tokenizer.ggml.token_type"]
    vocabulary: dict[str, int] = {}
    added = []
    for index, (token, token_type) in enumerate(zip(tokens, types, strict=True)):
        if token_type not in (NORMAL, CONTROL, USER_DEFINED, UNUSED):
            raise UserError(f"tokenizer.ggml.token_type of {token!r} is {token_type}; byte-level BPE has no such token")
        if token_type == UNUSED:
            continue
        if vocabulary.setdefault(token, index) != index:
            raise UserError(f"tokenizer.ggml.tokens holds {token!r} twice")
        if token_type != NORMAL:
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            added.append({"id": index, "content": token, "special": token_type == CONTROL, **flags})
    merges = metadata["tokenizer.ggml.merges"]
    layout = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": GGUF_SPLITS[split]},
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges, "ignore_merges": split == "llama-bpe"},
    }
    return PublishedEncoding(json.dumps(layout))


def gpt2_encoding(vocabulary: Path) -> tiktoken.Encoding:
    """GPT-2's encoding from its `encoder.json`, whose ids are in the order of the merges."""
    ids = json.loads(read_text(vocabulary))
    special = {END_OF_TEXT: ids.pop(END_OF_TEXT)}
    return make_encoding(r50k_pat_str, {to_bytes(token): index for token, index in ids.items()}, special)


def read_tokenizer(path: Path, metadata: dict[str, Any] | None = None) -> tiktoken.Encoding:
    """The tokenizer of a published model: a folder with a `tokenizer.json`, or a GGUF file.

    A GGUF file whose `metadata` are given is not read again. Raises UserError, naming the file, for none and for a
    tokenizer that isn't byte-level, such as SentencePiece or WordPiece.
    """
    if path.is_dir():
        return load_tokenizer(path / "tokenizer.json")
    try:
        return gguf_encoding(metadata or _gguf_metadata(path))
    except UserFileError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise UserError(f"{path}: {kind}{error}") from None


def read_chat_template(path: Path) -> str | None:
    """The chat template of a published model, a folder or a GGUF file; None where it has none.

    Of several the one named `default`. Raises UserError for files that are none.
    """
    if path.suffix == ".gguf":
        return _gguf_metadata(path).get("tokenizer.chat_template")
    if (path / "chat_template.jinja").exists():
        return read_text(path / "chat_template.jinja")
    file = path / "tokenizer_config.json"
    if not file.exists():
        return None
    try:
        templates = json.loads(read_text(file)).get("chat_template")
        if not isinstance(templates, list):
            return templates
        by_name = {template["name"]: template["template"] for template in templates}
        return by_name["default"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: no chat template ({type(error).__name__}: {error})") from None


def _gguf_metadata(path: Path) -> dict[str, Any]:
    from llm.formats.gguf import read_gguf  # imports torch, which no other tokenizer needs

    metadata, _ = read_gguf(path)
    return metadata
