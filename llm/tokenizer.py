"""Byte-pair encoding: text to token ids and back.

A language model reads numbers, so text is cut into tokens and each token has an id. Byte-pair encoding (BPE; Sennrich
et al. 2016, on bytes since GPT-2) starts from the 256 byte values, so any text can be written and nothing is unknown.
Training counts neighbouring pairs in a corpus, makes the most frequent pair one new token, and repeats until the
vocabulary is full: `t h e` becomes `th e`, then `the`. Encoding replays these merges in the order in which they were
learned: a token's id is also its rank. A split pattern first cuts text into words, numbers and punctuation, each with
the space in front of it, and no token spans two of them.

Text from people goes through `encode_ordinary`: whoever types `<|endoftext|>` gets the bytes of those characters, and
never the token that ends a document. Only `end_of_text(encoding)` is that one.

Our own vocabularies are encoded by tiktoken, published ones (llm/formats/tokenizer_json.py) by `tokenizers`.
"""

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from itertools import chain

import tiktoken

from llm.errors import UserError

END_OF_TEXT = "<|endoftext|>"
DOCUMENT_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>")
TURN_ENDS = ("<|im_end|>", "<|eot_id|>")
LONGEST_RUN = 500_000  # whitespace characters: for each, tiktoken's regular expressions keep one of 1,000,000 places
LONGEST_COUNTED = 10_000  # bytes of a word: of a longer one, pairs are counted in parts, as time grows with the square


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

        split = pre_tokenizers.Split(Regex(to_onig(self._pat_str)), "isolated")
        words = [word.encode() for word, _ in split.pre_tokenize_str(mend_surrogates(text))]
        return list(chain.from_iterable(map(self._core_bpe.encode_single_piece, words)))


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
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    if vocabulary_size < 257:
        raise UserError(f"vocabulary_size {vocabulary_size} has no room for 256 bytes and {END_OF_TEXT}")
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(to_onig(r50k_pat_str)), "isolated")
    characters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, characters, pre_tokenizers.FixedLength(LONGEST_COUNTED)])
    alphabet = sorted(_byte_characters().values())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ranks = {to_bytes(token): rank for token, rank in tokenizer.get_vocab().items()}
    return make_encoding(r50k_pat_str, ranks, {END_OF_TEXT: len(ranks)})


def named_encoding(name: str) -> tiktoken.Encoding:
    """The tiktoken encoding of that name.

    Raises UserError for a name that tiktoken doesn't know, and where it can't download the vocabulary.
    """
    names = tiktoken.list_encoding_names()
    if name not in names:
        raise UserError(f"{name!r} is no tiktoken encoding; known are {', '.join(sorted(names))}")
    try:
        encoding = tiktoken.get_encoding(name)
    except OSError as error:
        way_out = "set TIKTOKEN_CACHE_DIR to a folder that another machine's tiktoken has filled"
        raise UserError(f"tiktoken can't download {name} here ({type(error).__name__}): {way_out}") from None
    return make_encoding(encoding._pat_str, encoding._mergeable_ranks, encoding._special_tokens)


def same_tokens(first: tiktoken.Encoding, second: tiktoken.Encoding) -> bool:
    """Whether two encodings have the same tokens under the same ids."""
    same_ranks = first._mergeable_ranks == second._mergeable_ranks
    return same_ranks and first._special_tokens == second._special_tokens


def stop_tokens(encoding: tiktoken.Encoding) -> frozenset[int]:
    """Ids of the special tokens that end a document or a turn of a conversation."""
    special = encoding._special_tokens
    return frozenset(special[name] for name in DOCUMENT_ENDS + TURN_ENDS if name in special)


def end_of_text(encoding: tiktoken.Encoding) -> int:
    """Id of the token that ends a document, or a turn in a vocabulary that ends nothing else.

    Raises UserError for an encoding with neither.
    """
    for name in DOCUMENT_ENDS + TURN_ENDS:
        if name in encoding._special_tokens:
            return encoding._special_tokens[name]
    special = ", ".join(encoding._special_tokens) or "none"
    raise UserError(f"no special token ends a text: {special}, where one of {', '.join(DOCUMENT_ENDS)} was expected")


def token_bytes(encoding: tiktoken.Encoding, token: int) -> bytes:
    """A token's bytes, a special one's text as UTF-8; empty for an id that the vocabulary leaves out."""
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


# `{1,3}+` is possessive in tiktoken's regular expressions but a repeated repetition in Hugging Face's, Oniguruma's;
# the atomic group means the same to both.
def to_onig(pattern: str) -> str:
    """A split pattern of tiktoken's as Hugging Face's `tokenizers` reads it."""
    return re.sub(r"(\\p\{\w+\}\{\d+,\d+\})\+", r"(?>\1)", pattern)


def from_onig(pattern: str) -> str:
    """A split pattern of Hugging Face's as tiktoken reads it."""
    return re.sub(r"\(\?>(\\p\{\w+\}\{\d+,\d+\})\)", r"\1+", pattern)


@cache
def _byte_characters() -> dict[int, str]:
    """GPT-2's printable character for each byte: itself where it prints and is no space, else one from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unprintable = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    return characters | {byte: chr(256 + number) for number, byte in enumerate(unprintable)}


@cache
def _character_bytes() -> dict[int, int]:
    return {ord(character): byte for byte, character in _byte_characters().items()}


def to_text(token: bytes) -> str:
    """A token's bytes, spelled in byte-level BPE's characters."""
    return token.decode("latin-1").translate(_byte_characters())


def to_bytes(token: str) -> bytes:
    """The bytes of a token that is spelled in byte-level BPE's characters."""
    return token.translate(_character_bytes()).encode("latin-1")
