"""Byte-pair encoding: text to token ids and back.

A language model reads numbers, so text is cut into tokens and each token has an id. Byte-pair encoding (BPE; Sennrich
et al. 2016, on bytes since GPT-2) starts from the 256 byte values, so any text can be written and nothing is unknown.
Training counts neighbouring pairs in a corpus, makes the most frequent pair one new token, and repeats until the
vocabulary is full: `t h e` becomes `th e`, then `the`. Encoding replays these merges in the order in which they were
learned: a token's id is also its rank. A split pattern first cuts text into words, numbers and punctuation, each with
the space in front of it, and no token spans two of them.

Text from people goes through `encode_ordinary`: whoever types `<|endoftext|>` gets the bytes of those characters, and
never the token that ends a document. Only `end_of_text(encoding)` is that one.

Our own vocabularies are encoded by tiktoken, published ones (llm/formats/tokenizer_files.py) by `tokenizers`.
"""

import json
import re
from collections.abc import Iterable
from functools import cache, cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import tiktoken

from llm.errors import UserError
from llm.files import read_text, write_atomic

END_OF_TEXT = "<|endoftext|>"
DOCUMENT_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>")
TURN_ENDS = ("<|im_end|>", "<|eot_id|>")
LONGEST_RUN = 500_000  # whitespace characters: for each, tiktoken's regular expressions keep one of 1,000,000 places
LONGEST_COUNTED = 10_000  # bytes of a word: of a longer one, pairs are counted in parts, as time grows with the square
SAMPLE = "The cat"  # a text that no tokenizer may change


class AnyTextEncoding(tiktoken.Encoding):
    """An encoding that also takes texts with a run of a million spaces, in which tiktoken's regular expressions panic.

    Such a text is cut into words by those of Hugging Face's `tokenizers`, with the same pattern. A run may still be a
    word, of which merging takes a second for each million characters.
    """

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text, of which special tokens are no part."""
        if len(text) <= LONGEST_RUN or max(map(len, re.findall(r"\s+", text)), default=0) <= LONGEST_RUN:
            return super().encode_ordinary(text)
        from tokenizers import Regex, pre_tokenizers

        split = pre_tokenizers.Split(Regex(_to_onig(self._pat_str)), "isolated")
        words = (word.encode() for word, _ in split.pre_tokenize_str(mend_surrogates(text)))
        return list(chain.from_iterable(map(self._core_bpe.encode_single_piece, words)))


class PublishedEncoding(tiktoken.Encoding):
    """A published byte-level tokenizer, by Hugging Face's `tokenizers`: the ids that its makers meant, in any text.

    tiktoken merges by ids alone and reads a text as it is. Others list their merges, normalise, lack bytes, or look for
    words such as `<tool_call>` in a text (added tokens that are not special). Only decoding is tiktoken's.
    """

    def __init__(self, layout: str) -> None:
        """`layout` is the text of a tokenizer.json. Raises ValueError for one that does not keep text as it is."""
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_str(layout)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(str(error)) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # as text
        added = self._tokenizer.get_added_tokens_decoder()
        special = {token.content: index for index, token in added.items() if token.special}
        ranks = {token.content.encode(): index for index, token in added.items() if not token.special}
        for token, index in self._tokenizer.get_vocab(with_added_tokens=False).items():
            if index not in added:
                ranks[to_bytes(token)] = index
        if len({*ranks.values(), *special.values()}) < len(ranks) + len(special):
            raise ValueError("two of its tokens have one id")
        super().__init__("published", pat_str=".", mergeable_ranks=ranks, special_tokens=special)
        self._check()

    def _check(self) -> None:
        if getattr(self._tokenizer.model, "dropout", None):
            raise ValueError(f"its model drops merges at random, dropout {self._tokenizer.model.dropout}")
        if (text := self.decode(self.encode_ordinary(SAMPLE))) != SAMPLE:
            raise ValueError(f"it makes {text!r} of {SAMPLE!r}; only tokenizers that keep text are read")
        for token in self._special_tokens:
            if self._special_token_values.intersection(self.encode_ordinary(token)):
                raise ValueError(f"a text that holds {token!r} would get special tokens")

    @property
    def layout(self) -> str:
        """The text of its tokenizer.json."""
        return self._tokenizer.to_str()

    @cached_property
    def _with_special(self) -> Any:
        """The tokenizer that finds special tokens, too."""
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.layout)

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text, of which special tokens are no part."""
        return self._tokenizer.encode_batch_fast([mend_surrogates(text)], add_special_tokens=False)[0].ids

    def encode(self, text: str, *, allowed_special: Literal["all"]) -> list[int]:
        """Ids of a text in which special tokens are found."""
        return self._with_special.encode(mend_surrogates(text), add_special_tokens=False).ids

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return PublishedEncoding, (self.layout,)


def mend_surrogates(text: str) -> str:
    """A text with halves of surrogate pairs joined, or replaced: as tiktoken mends them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def make_encoding(pattern: str, ranks: dict[bytes, int], special: dict[str, int]) -> tiktoken.Encoding:
    """An encoding that splits text by `pattern` and merges the neighbours whose token has the lowest rank, its id.

    Raises ValueError for a pattern that tiktoken doesn't understand, and for two tokens of one rank.
    """
    if len(set(ranks.values())) < len(ranks):
        raise ValueError("two of its tokens have one id")
    return AnyTextEncoding("bpe", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


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
    """Write an encoding as a Hugging Face `tokenizer.json` that gives the same ids."""
    write_atomic(path, _tokenizer_json(encoding))


def _tokenizer_json(encoding: tiktoken.Encoding) -> str:
    if isinstance(encoding, PublishedEncoding):
        return encoding.layout
    layout = _layout(encoding._pat_str, encoding._mergeable_ranks, encoding._special_tokens)
    return json.dumps(layout, ensure_ascii=False)


def load_tokenizer(path: Path) -> tiktoken.Encoding:
    """Read a `tokenizer.json`: tiktoken's encoding where `save_tokenizer` wrote one, else a PublishedEncoding.

    Raises UserError, naming the file, for a tokenizer that does not keep text as it is, and for no file.
    """
    text = read_text(path)
    try:
        return _read_layout(text) or PublishedEncoding(text)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not the tokenizer.json of a byte-level BPE ({reason})") from None


def _read_layout(text: str) -> tiktoken.Encoding | None:
    """The encoding of which `save_tokenizer` made this tokenizer.json; None for one that others made."""
    layout = json.loads(text)
    match layout["pre_tokenizer"]:
        case {"pretokenizers": [{"pattern": {"Regex": pattern}}, *_]}:
            pattern = from_onig(pattern)
        case _:
            return None
    special = {token["content"]: token["id"] for token in layout["added_tokens"]}
    empty = _layout(pattern, {}, special)
    if any(layout.get(part) != empty[part] for part in empty if part != "model"):
        return None
    vocabulary = {token: rank for token, rank in layout["model"]["vocab"].items() if token not in special}
    ranks = {to_bytes(token): rank for token, rank in vocabulary.items()}
    complete = all(bytes([byte]) in ranks for byte in range(256))
    if not complete or layout != _layout(pattern, ranks, special):
        return None
    return make_encoding(pattern, ranks, special)


def same_tokens(one: tiktoken.Encoding, other: tiktoken.Encoding) -> bool:
    """Whether both are the same tokenizer, and so cut every text into the same numbers."""
    return _tokenizer_json(one) == _tokenizer_json(other)


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


@lru_cache(maxsize=8)  # a server that replaces versions must not keep their tokenizers
def letterless_tokens(encoding: tiktoken.Encoding) -> frozenset[int]:
    """Ids of the tokens without a letter, such as digits, punctuation and line breaks, and parts of a character."""
    texts = (token_bytes(encoding, token).decode("utf-8", errors="replace") for token in range(encoding.n_vocab))
    return frozenset(token for token, text in enumerate(texts) if not any(map(str.isalpha, text)))


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


@cache
def _bytes() -> dict[int, int]:
    return {ord(character): byte for byte, character in _characters().items()}


def _to_text(token: bytes) -> str:
    return token.decode("latin-1").translate(_characters())


def to_bytes(token: str) -> bytes:
    """The bytes of a token that is spelled in byte-level BPE's characters."""
    return token.translate(_bytes()).encode("latin-1")
