"""tokenizer.json: Hugging Face's file of a tokenizer, written for our vocabularies, and read from anyone.

tiktoken encodes a file that `save_tokenizer` wrote, Hugging Face's `tokenizers` all others (PublishedEncoding).
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tiktoken

from llm.errors import UserError
from llm.files import read_text, write_atomic
from llm.tokenizer import from_onig, make_encoding, mend_surrogates, to_bytes, to_onig, to_text

SAMPLE = "The cat"  # a text that no tokenizer may change


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
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        ranks |= {to_bytes(token): index for token, index in vocabulary.items() if index not in added}
        if len({*ranks.values(), *special.values()}) < len(ranks) + len(special):
            raise ValueError("two of its tokens have one id")
        super().__init__("published", pat_str=".", mergeable_ranks=ranks, special_tokens=special)
        self._check()

    def _check(self) -> None:
        if getattr(self._tokenizer.model, "dropout", None):
            raise ValueError(f"its model drops merges at random, dropout {self._tokenizer.model.dropout}")
        text = self.decode(self.encode_ordinary(SAMPLE))
        if text != SAMPLE:
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

    # pyrefly: ignore[bad-override]  # tiktoken's has options for special tokens that nothing here needs
    def encode(self, text: str, *, allowed_special: Literal["all"]) -> list[int]:
        """Ids of a text in which special tokens are found."""
        return self._with_special.encode(mend_surrogates(text), add_special_tokens=False).ids

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return PublishedEncoding, (self.layout,)


def save_tokenizer(encoding: tiktoken.Encoding, path: Path) -> None:
    """Write an encoding as a Hugging Face `tokenizer.json` that gives the same ids."""
    if isinstance(encoding, PublishedEncoding):
        text = encoding.layout
    else:
        layout = _layout(encoding._pat_str, encoding._mergeable_ranks, encoding._special_tokens)
        text = json.dumps(layout, ensure_ascii=False)
    write_atomic(path, text)


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
    vocabulary = layout["model"]["vocab"]
    ranks = {to_bytes(token): rank for token, rank in vocabulary.items() if token not in special}
    has_all_bytes = all(bytes([byte]) in ranks for byte in range(256))
    if not has_all_bytes or layout != _layout(pattern, ranks, special):
        return None
    return make_encoding(pattern, ranks, special)


def _layout(pattern: str, ranks: dict[bytes, int], special: dict[str, int]) -> dict[str, Any]:
    """Hugging Face's tokenizer.json.

    tiktoken merges any two neighbours that make a known token, lowest rank first, so every such pair is listed; a word
    that is a token as a whole is taken as it is (`ignore_merges`).
    """
    text = {token: to_text(token) for token in ranks}
    vocabulary = {text[token]: rank for token, rank in ranks.items()} | special
    merges = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ranks and right in ranks:
                merges.append((rank, ranks[left], ranks[right], f"{text[left]} {text[right]}"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": to_onig(pattern)}, "behavior": "Isolated", "invert": False}
    added = [{"id": special[token], "content": token, **flags} for token in sorted(special, key=special.__getitem__)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
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
            "merges": [merge for *_, merge in sorted(merges)],
        },
    }
