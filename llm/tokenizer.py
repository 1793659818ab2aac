"""Byte-pair encoding: text to token ids and back.

A language model reads numbers, so text is cut into tokens and each token has an id. Byte-pair encoding (BPE; Sennrich
et al. 2016, on bytes since GPT-2) starts from the 256 byte values, so any text can be written and nothing is unknown.
Training counts neighbouring pairs in a corpus, makes the most frequent pair one new token, and repeats until the
vocabulary is full: `t h e` becomes `th e`, then `the`. Encoding replays these merges in the order in which they were
learned: a token's id is also its rank. A split pattern first cuts text into words, numbers and punctuation, each with
the space in front of it, and no token spans two of them.

Text from people goes through `encode_ordinary`: whoever types `<|endoftext|>` gets the bytes of those characters, and
never the token that ends a document. Only `end_of_text(encoding)` is that one.

Tokenizers of published models are read by llm/formats/tokenizer_files.py, and kept as our own are.
"""

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import tiktoken

from llm.errors import UserError
from llm.files import read_text, write_atomic

END_OF_TEXT = "<|endoftext|>"
DOCUMENT_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>")
TURN_ENDS = ("<|im_end|>", "<|eot_id|>")
LONGEST_RUN = 500_000  # whitespace characters: for each, tiktoken's regular expressions keep one of 1,000,000 places
LONGEST_COUNTED = 10_000  # bytes of a word: of a longer one, pairs are counted in parts, as time grows with the square
FIRST_LACKING = 2**32 - 1 - 256  # ids of bytes that a vocabulary lacks: below tiktoken's largest, above any model's


class AnyTextEncoding(tiktoken.Encoding):
    """An encoding that also takes texts with a run of a million spaces, in which tiktoken's regular expressions panic.

    Such a text is cut into words by those of Hugging Face's `tokenizers`, with the same pattern. A run may still be a
    word, of which merging takes a second for each million characters.
    """

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text, of which special tokens are no part."""
        if len(text) <= LONGEST_RUN or max(map(len, re.findall(r"\s+", text)), default=0) <= LONGEST_RUN:
            return super().encode_ordinary(text)
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # as tiktoken mends surrogates
        return list(chain.from_iterable(map(self._core_bpe.encode_single_piece, self._words(text))))

    def _words(self, text: str) -> Iterator[bytes]:
        from tokenizers import Regex, pre_tokenizers

        split = pre_tokenizers.Split(Regex(_to_onig(self._pat_str)), "isolated")
        return (word.encode() for word, _ in split.pre_tokenize_str(text))


class PartialEncoding(AnyTextEncoding):
    """An encoding whose vocabulary lacks some of the 256 bytes; those of a text that it lacks are left out.

    So does Hugging Face's `tokenizers`, and SmolLM2's vocabulary, for one, lacks bytes that its training text lacked.
    tiktoken needs all 256, so the others get ids that no model has. Where one turns up, its neighbours in the word may
    belong together without it, so that text is encoded once more, word by word.
    """

    def __init__(
        self, name: str, *, pat_str: str, mergeable_ranks: dict[bytes, int], special_tokens: dict[str, int]
    ) -> None:
        lacking = [byte for byte in range(256) if bytes([byte]) not in mergeable_ranks]
        ranks = mergeable_ranks | {bytes([byte]): FIRST_LACKING + byte for byte in lacking}
        super().__init__(name, pat_str=pat_str, mergeable_ranks=ranks, special_tokens=special_tokens)
        self._mergeable_ranks = mergeable_ranks
        self.max_token_value = max([*mergeable_ranks.values(), *special_tokens.values()])
        self._lacking = bytes(lacking)

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text, of which special tokens are no part."""
        return self._known(super().encode_ordinary(text))

    def encode(self, text: str, **special: Any) -> list[int]:
        """Ids of a text, of which special tokens may be part: as tiktoken's."""
        return self._known(super().encode(text, **special))

    def _known(self, tokens: list[int]) -> list[int]:
        return tokens if max(tokens, default=0) < FIRST_LACKING else list(self._without_lacking(tokens))

    def _without_lacking(self, tokens: list[int]) -> Iterator[int]:
        for special, run in groupby(tokens, self._special_token_values.__contains__):
            if special:
                yield from run
                continue
            for word in self._words(self._core_bpe.decode_bytes(list(run)).decode()):
                if known := word.translate(None, self._lacking):
                    yield from self._core_bpe.encode_single_piece(known)


def make_encoding(pattern: str, ranks: dict[bytes, int], special: dict[str, int]) -> tiktoken.Encoding:
    """An encoding that splits text by `pattern` and merges the neighbours whose token has the lowest rank, its id.

    Raises ValueError for a pattern that tiktoken doesn't understand, and for two tokens of one rank.
    """
    if len(set(ranks.values())) < len(ranks):
        raise ValueError("two of its tokens have one id")
    complete = all(bytes([byte]) in ranks for byte in range(256))
    kind = AnyTextEncoding if complete else PartialEncoding
    return kind("bpe", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


def train_bpe(texts: Iterable[str], vocabulary_size: int) -> tiktoken.Encoding:
    """Learn a byte-level BPE with GPT-2's split pattern.

    `vocabulary_size` counts the 256 bytes, the merges and, with the last id, END_OF_TEXT; texts that hold fewer merges
    give a smaller vocabulary. Raises UserError for a size without room for the bytes.
    """
    from tiktoken_ext.openai_public import r50k_pat_str
    from tokenizers import Tokenizer, pre_tokenizers, trainers

    if vocabulary_size < 257:
        raise UserError(f"vocabulary_size {vocabulary_size} has no room for 256 bytes and {END_OF_TEXT}")
    tokenizer = Tokenizer.from_str(json.dumps(_layout(r50k_pat_str, {}, {})))
    parts = [tokenizer.pre_tokenizer, pre_tokenizers.FixedLength(LONGEST_COUNTED)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    alphabet = sorted(_characters().values())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ranks = {to_bytes(token): rank for token, rank in tokenizer.get_vocab().items()}
    return make_encoding(r50k_pat_str, ranks, {END_OF_TEXT: len(ranks)})


def named_encoding(name: str) -> tiktoken.Encoding:
    """The tiktoken encoding of that name.

    Raises UserError for a name that tiktoken doesn't know, and where it can't download the vocabulary.
    """
    if name not in (known := tiktoken.list_encoding_names()):
        raise UserError(f"{name!r} is no tiktoken encoding; known are {', '.join(sorted(known))}")
    try:
        found = tiktoken.get_encoding(name)
    except OSError as error:
        way_out = "set TIKTOKEN_CACHE_DIR to a folder that another machine's tiktoken has filled"
        raise UserError(f"tiktoken can't download {name} here ({type(error).__name__}): {way_out}") from None
    return make_encoding(found._pat_str, found._mergeable_ranks, found._special_tokens)


def save_tokenizer(encoding: tiktoken.Encoding, path: Path) -> None:
    """Write any tiktoken encoding as a Hugging Face `tokenizer.json` that gives the same ids."""
    layout = _layout(encoding._pat_str, encoding._mergeable_ranks, encoding._special_tokens)
    write_atomic(path, json.dumps(layout, ensure_ascii=False))


def load_tokenizer(path: Path) -> tiktoken.Encoding:
    """Read what `save_tokenizer` wrote: the same ids, split pattern and special tokens.

    Raises UserError, naming the file, for another kind of tokenizer and for no file.
    """
    text = read_text(path)
    try:
        layout = json.loads(text)
        special = {token["content"]: token["id"] for token in layout["added_tokens"]}
        pattern = from_onig(layout["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"])
        ranks = {to_bytes(token): rank for token, rank in layout["model"]["vocab"].items() if token not in special}
        written = _layout(pattern, {}, special)
        written["model"] |= {part: layout["model"][part] for part in ("vocab", "merges")}
        encoding = make_encoding(pattern, ranks, special)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path}: not the tokenizer.json of a byte-level BPE ({type(error).__name__}: {error})"
        ) from None
    if others := [part for part in written | layout if part not in layout or layout[part] != written.get(part)]:
        way_out = "llm.formats.tokenizer_files.read_tokenizer reads those of others"
        raise UserError(f"{path}: not as save_tokenizer writes it, in {', '.join(others)}; {way_out}")
    return encoding


def same_tokens(one: tiktoken.Encoding, other: tiktoken.Encoding) -> bool:
    """Whether both cut every text into the same numbers."""
    parts = ("_pat_str", "_mergeable_ranks", "_special_tokens")
    return all(getattr(one, part) == getattr(other, part) for part in parts)


def stop_tokens(encoding: tiktoken.Encoding) -> frozenset[int]:
    """Ids of the special tokens that end a document or a turn of a conversation."""
    return frozenset(
        encoding._special_tokens[name] for name in DOCUMENT_ENDS + TURN_ENDS if name in encoding._special_tokens
    )


def end_of_text(encoding: tiktoken.Encoding) -> int:
    """Id of the token that ends a document, or a turn in a vocabulary that ends nothing else.

    Raises UserError for an encoding with neither.
    """
    for name in DOCUMENT_ENDS + TURN_ENDS:
        if name in encoding._special_tokens:
            return encoding._special_tokens[name]
    known = ", ".join(encoding._special_tokens) or "none"
    raise UserError(f"no special token ends a text: {known}, where one of {', '.join(DOCUMENT_ENDS)} was expected")


def token_bytes(encoding: tiktoken.Encoding, token: int) -> bytes:
    """A token's bytes, a special one's text as UTF-8; none for an id that the vocabulary leaves empty."""
    try:
        return encoding.decode_single_token_bytes(token)
    except KeyError:
        return b""


def decode(encoding: tiktoken.Encoding, tokens: Iterable[int]) -> str:
    """The text of tokens, as `Encoding.decode` gives it, but ids that the vocabulary leaves empty add nothing to it.

    A model may make such ids: its embedding is often padded to a round number of rows.
    """
    return b"".join(token_bytes(encoding, token) for token in tokens).decode("utf-8", errors="replace")


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


def from_onig(pattern: str) -> str:
    """A split pattern of Hugging Face's as tiktoken reads it."""
    return re.sub(r"\(\?>(\\p\{\w+\}\{\d+,\d+\})\)", r"\1+", pattern)


@cache
def _characters() -> dict[int, str]:
    """GPT-2's printable character for each byte: itself where it prints and is no space, else one from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def byte_characters() -> frozenset[str]:
    """The 256 characters in which byte-level BPE spells tokens."""
    return frozenset(_characters().values())


@cache
def _bytes() -> dict[int, int]:
    return {ord(character): byte for byte, character in _characters().items()}


def _to_text(token: bytes) -> str:
    return token.decode("latin-1").translate(_characters())


def to_bytes(token: str) -> bytes:
    """The bytes of a token that is spelled in byte-level BPE's characters."""
    return token.translate(_bytes()).encode("latin-1")
