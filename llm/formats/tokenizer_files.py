"""Tokenizers of published models, from their files: the very ids that their makers' libraries give.

A tokenizer.json is opened as it is. A GGUF file holds the same parts, but for the way to split text, of which it has
the name alone. GPT-2's two files are those of a tiktoken encoding.

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
from llm.tokenizer import END_OF_TEXT, PublishedEncoding, load_tokenizer, make_encoding, to_bytes

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


def _split(pattern: str) -> list[dict[str, Any]]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [split, BYTE_LEVEL | {"use_regex": False}]


# `tokenizer.ggml.pre`, and how the makers' tokenizer.json splits text.
GGUF_SPLITS = {
    "gpt-2": [BYTE_LEVEL],
    "smollm": [DIGITS, BYTE_LEVEL],
    "starcoder": [DIGITS, BYTE_LEVEL],
    "llama-bpe": _split(LLAMA3_SPLIT),
    "qwen2": _split(QWEN2_SPLIT),
}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # `tokenizer.ggml.token_type`
GPT2_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


def gguf_encoding(metadata: dict[str, Any]) -> tiktoken.Encoding:
    """The encoding in a GGUF file's metadata.

    Raises UserError, with the key, for a tokenizer of another kind or one whose way to split text isn't known.
    """
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2":
        raise UserError(f"tokenizer.ggml.model is {kind!r}; only 'gpt2', byte-level BPE, is read")
    if split not in GGUF_SPLITS:
        known = ", ".join(map(repr, GGUF_SPLITS))
        raise UserError(f"tokenizer.ggml.pre is {split!r}; known ways to split text are {known}")
    if missing := {"tokens", "token_type", "merges"} - {key.removeprefix("tokenizer.ggml.") for key in metadata}:
        raise UserError(f"tokenizer.ggml.{min(missing)} is missing")
    tokens, kinds, merges = (metadata[f"tokenizer.ggml.{part}"] for part in ("tokens", "token_type", "merges"))
    vocabulary, added = {}, []
    for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind not in (NORMAL, CONTROL, USER_DEFINED, UNUSED):
            raise UserError(f"tokenizer.ggml.token_type of {token!r} is {kind}; byte-level BPE has no such token")
        if kind == UNUSED:
            continue
        if vocabulary.setdefault(token, index) != index:
            raise UserError(f"tokenizer.ggml.tokens holds {token!r} twice")
        if kind != NORMAL:
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            added.append({"id": index, "content": token, "special": kind == CONTROL, **flags})
    layout = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if split == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": GGUF_SPLITS[split]},
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges, "ignore_merges": split == "llama-bpe"},
    }
    return PublishedEncoding(json.dumps(layout))


def gpt2_encoding(folder: Path) -> tiktoken.Encoding:
    """GPT-2's encoding from its two files: `encoder.json` and `vocab.bpe`, or `vocab.json` and `merges.txt`.

    tiktoken's own reader of them isn't used: it keeps a copy by path in the temporary folder and reads that ever after.
    Raises UserError for files that don't belong together.
    """
    names = next((pair for pair in GPT2_FILES if (folder / pair[0]).exists()), GPT2_FILES[0])
    vocabulary = json.loads(read_text(folder / names[0]))
    lines = read_text(folder / names[1]).split("\n")
    merges = [line.split(" ") for line in lines[lines[0].startswith("#version") :] if line]
    end = vocabulary.pop(END_OF_TEXT, len(vocabulary))
    _check_ranks(vocabulary, merges)
    ranks = {to_bytes(token): index for token, index in vocabulary.items()}
    return make_encoding(r50k_pat_str, ranks, {END_OF_TEXT: end})


def _check_ranks(vocabulary: dict[str, int], merges: list[list[str]]) -> None:
    """Hold that tiktoken, which joins the two neighbours that make the lowest id, does what the list of merges says.

    It does where ids are in the order of merges, and each token by itself is merged to one: then the last two parts of
    a token are the only ones that make it.
    """
    from tokenizers import Tokenizer, models

    made = [vocabulary.get("".join(pair), -1) for pair in merges]
    if made != sorted(made) or -1 in made:
        raise UserError("its ids are not in the order of merges, as GPT-2's are")
    pairs = [tuple(pair) for pair in merges]
    encoded = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs)).encode_batch_fast(list(vocabulary))
    for (token, index), whole in zip(vocabulary.items(), encoded, strict=True):
        if whole.ids != [index]:
            raise UserError(f"its merges make {len(whole.ids)} tokens of token {token!r}")


def read_tokenizer(path: Path, metadata: dict[str, Any] | None = None) -> tiktoken.Encoding:
    """The tokenizer of a published model: a folder that holds one, a `tokenizer.json`, or a GGUF file.

    In a folder `tokenizer.json` comes first, then GPT-2's two files. A GGUF file whose `metadata` are given is not read
    again. Raises UserError, naming the file, for a tokenizer that isn't byte-level, such as SentencePiece or WordPiece.
    """
    if path.is_dir():
        if (path / "tokenizer.json").exists():
            path /= "tokenizer.json"
        elif not any((path / name).exists() for pair in GPT2_FILES for name in pair):
            raise UserError(f"{path} holds no tokenizer: neither tokenizer.json nor vocab.json and merges.txt")
    if path.suffix == ".json":
        return load_tokenizer(path)
    try:
        if path.is_dir():
            _check_class(path / "tokenizer_config.json")
            return gpt2_encoding(path)
        from llm.formats.gguf import read_gguf  # imports torch, which no other tokenizer needs

        return gguf_encoding(metadata or read_gguf(path)[0])
    except UserFileError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise UserError(f"{path}: {kind}{error}") from None


def read_chat_template(path: Path) -> str | None:
    """The chat template of a published model, a folder or a GGUF file; None where it has none.

    Of several the one named `default`. Raises UserError for files that are none.
    """
    if path.suffix == ".gguf":
        from llm.formats.gguf import read_gguf

        return read_gguf(path)[0].get("tokenizer.chat_template")
    if (path / "chat_template.jinja").exists():
        return read_text(path / "chat_template.jinja")
    file = path / "tokenizer_config.json"
    try:
        found = json.loads(read_text(file)).get("chat_template") if file.exists() else None
        return {each["name"]: each["template"] for each in found}["default"] if isinstance(found, list) else found
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: no chat template ({type(error).__name__}: {error})") from None


def _check_class(path: Path) -> None:
    """Hold that two files without a tokenizer.json are GPT-2's by what tokenizer_config.json says, if there is one."""
    config = json.loads(read_text(path)) if path.exists() else {}
    kind = config.get("tokenizer_class", "GPT2Tokenizer")
    if kind not in ("GPT2Tokenizer", "GPT2TokenizerFast") or config.get("add_prefix_space"):
        raise UserError(
            f"{path.name} says {kind}, add_prefix_space {config.get('add_prefix_space', False)}; not GPT-2's"
        )
