"""Byte-pair encoding: text to token ids and back.

A language model reads numbers, so text is cut into tokens and each token has an id. Byte-pair encoding (BPE; Sennrich
et al. 2016, on bytes since GPT-2) starts from the 256 byte values, so any text can be written and nothing is unknown.
Training counts neighbouring pairs in a corpus, makes the most frequent pair one new token, and repeats until the
vocabulary is full: `t h e` becomes `th e`, then `the`. Encoding replays these merges in the order in which they were
learned: a token's id is also its rank. A split pattern first cuts text into words, numbers and punctuation, each with
the space in front of it, and no token spans two of them.

Text from people goes through `encode_ordinary`: whoever types `<|endoftext|>` gets the bytes of those characters, and
never the token that ends a document. Only `encoding.eot_token` is that one.
"""

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import tiktoken

from llm.files import write_atomic

END_OF_TEXT = "<|endoftext|>"


def train_bpe(texts: Iterable[str], vocabulary_size: int) -> tiktoken.Encoding:
    """Learn a byte-level BPE with GPT-2's split pattern.

    `vocabulary_size` counts the 256 bytes, the merges and, with the last id, END_OF_TEXT; texts that hold fewer merges
    give a smaller vocabulary. Raises ValueError for a size without room for the bytes.
    """
    from tiktoken_ext.openai_public import r50k_pat_str
    from tokenizers import Tokenizer, trainers

    if vocabulary_size < 257:
        raise ValueError(f"vocabulary_size {vocabulary_size} has no room for 256 bytes and {END_OF_TEXT}")
    tokenizer = Tokenizer.from_str(json.dumps(_layout(r50k_pat_str, {}, {})))
    alphabet = sorted(_characters().values())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ranks = {_to_bytes(token): rank for token, rank in tokenizer.get_vocab().items()}
    return tiktoken.Encoding(
        "bpe", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)}
    )


def named_encoding(name: str) -> tiktoken.Encoding:
    """The tiktoken encoding of that name.

    Raises ValueError for a name that tiktoken doesn't know, RuntimeError where it can't download the vocabulary.
    """
    if name not in (known := tiktoken.list_encoding_names()):
        raise ValueError(f"{name!r} is no tiktoken encoding; known are {', '.join(sorted(known))}")
    try:
        return tiktoken.get_encoding(name)
    except OSError as error:
        way_out = "set TIKTOKEN_CACHE_DIR to a folder that another machine's tiktoken has filled"
        raise RuntimeError(f"tiktoken can't download {name} here ({type(error).__name__}): {way_out}") from None


def save_tokenizer(encoding: tiktoken.Encoding, path: Path) -> None:
    """Write any tiktoken encoding as a Hugging Face `tokenizer.json` that gives the same ids."""
    layout = _layout(encoding._pat_str, encoding._mergeable_ranks, encoding._special_tokens)
    write_atomic(path, json.dumps(layout, ensure_ascii=False))


def load_tokenizer(path: Path) -> tiktoken.Encoding:
    """Read what `save_tokenizer` wrote: the same ids, split pattern and special tokens.

    Raises ValueError, naming the file, for another kind of tokenizer.
    """
    try:
        layout = json.loads(path.read_text(encoding="utf-8"))
        special = {token["content"]: token["id"] for token in layout["added_tokens"]}
        split = layout["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        ranks = {_to_bytes(token): rank for token, rank in layout["model"]["vocab"].items() if token not in special}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not the tokenizer.json of a byte-level BPE ({type(error).__name__}: {error})"
        ) from None
    return tiktoken.Encoding("bpe", pat_str=_from_onig(split), mergeable_ranks=ranks, special_tokens=special)


def _layout(pattern: str, ranks: dict[bytes, int], special: dict[str, int]) -> dict[str, Any]:
    """Hugging Face's tokenizer.json.

    tiktoken merges any two neighbours that make a known token, lowest rank first, so every such pair is listed; a word
    that is a token as a whole is taken as it is (`ignore_merges`).
    """
    text = {token: _to_text(token) for token in ranks}
    pairs = [
        (rank, ranks[token[:cut]], ranks[token[cut:]], f"{text[token[:cut]]} {text[token[cut:]]}")
        for token, rank in ranks.items()
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _to_onig(pattern)}, "behavior": "Isolated", "invert": False}
    vocabulary = {text[token]: rank for token, rank in ranks.items()} | special
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": special[token], "content": token, **flags} for token in sorted(special, key=special.get)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": dict(sorted(vocabulary.items(), key=lambda item: item[1])),
            "merges": [merge for *_, merge in sorted(pairs)],
        },
    }


# `{1,3}+` is possessive in tiktoken's regular expressions but a repeated repetition in Hugging Face's, Oniguruma's;
# the atomic group means the same to both.
def _to_onig(pattern: str) -> str:
    return re.sub(r"(\\p\{\w+\}\{\d+,\d+\})\+", r"(?>\1)", pattern)


def _from_onig(pattern: str) -> str:
    return re.sub(r"\(\?>(\\p\{\w+\}\{\d+,\d+\})\)", r"\1+", pattern)


@cache
def _characters() -> dict[int, str]:
    """GPT-2's printable character for each byte: itself where it prints and is no space, else one from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


@cache
def _bytes() -> dict[int, int]:
    return {ord(character): byte for byte, character in _characters().items()}


def _to_text(token: bytes) -> str:
    return token.decode("latin-1").translate(_characters())


def _to_bytes(token: str) -> bytes:
    return token.translate(_bytes()).encode("latin-1")
