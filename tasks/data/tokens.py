"""Texts as token files: `<split>.bin`, or shards where that is large, and `meta.json`."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

from llm.files import write_atomic
from llm.tokenizer import PartialEncoding, end_of_text

WHOLE = 2**20  # bytes of text that are cut into tokens at a time
CUT, END = b"<|\x00cut|>", b"<|\x00end|>"
ASCII, SPACES = bytes(range(128)), bytes.maketrans(b"\t\n\v\f\r", b"     ")
WIDE = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")  # spaces, too
RUN = re.compile(rb"  +")
# GPT-2's split pattern, and one that cuts a text alike where runs of spaces are at its end alone: it looks at nothing
# that follows a word, so that tiktoken's regular expressions have an automaton for it.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
SIMPLE = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"
SHARD = 256 * 2**20  # bytes; of these a token file is made that is larger


def token_type(encoding: tiktoken.Encoding) -> np.dtype:
    """How a token is written: little-endian uint16, or uint32 for over 65,536 of them."""
    return np.dtype("<u2" if encoding.n_vocab <= 2**16 else "<u4")


def encode(encoding: tiktoken.Encoding, texts: list[str]) -> tuple[bytes, dict[str, int]]:
    """Texts as the bytes of their tokens, each with the end-of-text token behind it; documents, tokens, UTF-8 bytes."""
    dtype, coded = token_type(encoding), [text.encode() for text in texts]
    simple = encoding._pat_str == PATTERN and not isinstance(encoding, PartialEncoding)
    found = b"".join(each.astype(dtype).tobytes() for each in (_simple if simple else _each)(encoding, coded))
    size = sum(map(len, coded))
    return found, {"documents": len(texts), "tokens": len(found) // dtype.itemsize, "bytes": size}


def _each(encoding: tiktoken.Encoding, texts: Iterable[bytes]) -> Iterator[np.ndarray]:
    """The tokens of each text, with the end-of-text token behind them."""
    end = end_of_text(encoding)
    for text in texts:
        yield np.array([*encoding.encode_ordinary(text.decode()), end])


@lru_cache(maxsize=1)
def _with_simple_pattern(encoding: tiktoken.Encoding) -> tiktoken.Encoding:
    special = {END.decode(): end_of_text(encoding), CUT.decode(): encoding.max_token_value + 1}
    return tiktoken.Encoding("bpe", pat_str=SIMPLE, mergeable_ranks=encoding._mergeable_ranks, special_tokens=special)


def _simple(encoding: tiktoken.Encoding, texts: Iterable[bytes]) -> Iterator[np.ndarray]:
    """As `_each`, of many texts at once, by SIMPLE: of a run of spaces before a word the last one is cut off."""
    simple, held, size = _with_simple_pattern(encoding), [], 0

    def tokens() -> np.ndarray:
        found = simple.encode_to_numpy(b"".join(held).decode(), allowed_special="all")
        held.clear()
        return found[found != simple.max_token_value]

    for text in texts:
        if b"\0" in text or WIDE.search(text.translate(None, ASCII).decode()):
            yield tokens()
            yield from _each(encoding, [text])
            continue
        ends = (run.end() for run in RUN.finditer(text.translate(SPACES)))
        cuts = [0, *(end - 1 for end in ends if end < len(text)), len(text)]
        held += [CUT.join(text[start:end] for start, end in pairwise(cuts)), END]
        size += len(text)
        if size > WHOLE:
            yield tokens()
            size = 0
    yield tokens()


class TokenFile:
    """One split's tokens as they come, in `<split>.bin`; where they are more, in shards of SHARD bytes."""

    def __init__(self, folder: Path, split: str, itemsize: int) -> None:
        self.folder, self.split, self.itemsize = folder, split, itemsize
        self.counts: Counter[str] = Counter(documents=0, tokens=0, bytes=0)
        self.shards: list[dict[str, Any]] = []
        self._begin()

    def _begin(self) -> None:
        name = f"{self.split}.{len(self.shards) + 1:05}.bin"
        self._file, self._hash = (self.folder / name).open("wb"), hashlib.sha256()
        self.shards.append({"file": name, "tokens": 0, "sha256": ""})

    def add(self, tokens: bytes, counts: Mapping[str, int]) -> None:
        """Write the tokens of some documents."""
        self.counts.update(counts)
        rest = memoryview(tokens)
        while len(rest):
            shard = self.shards[-1]
            if room := SHARD - shard["tokens"] * self.itemsize:
                self._file.write(rest[:room])
                self._hash.update(rest[:room])
                shard["tokens"] += len(rest[:room]) // self.itemsize
                rest = rest[room:]
            else:
                self._end()
                self._begin()

    def _end(self) -> None:
        self._file.close()
        self.shards[-1]["sha256"] = self._hash.hexdigest()

    def close(self) -> dict[str, Any]:
        """Finish; documents, tokens and bytes, and the shards where there are several."""
        self._end()
        if len(self.shards) > 1:
            return {**self.counts, "shards": self.shards}
        (self.folder / self.shards[0]["file"]).rename(self.folder / f"{self.split}.bin")
        return dict(self.counts)


def write_files(
    encoding: tiktoken.Encoding, splits: Iterable[str], pieces: Iterable[Mapping[str, tuple[bytes, Mapping]]], to: Path
) -> dict[str, Any]:
    """Write the token files and `meta.json` into the folder `to` and return what the latter holds.

    Each piece has, for some of the splits, what `encode` gives. The meta file keeps dtype, vocabulary size and, for
    each split, documents, tokens and UTF-8 bytes of the texts (for bits per byte). A split of over SHARD bytes is
    several files there, each with its tokens and SHA-256 under `shards`.
    """
    dtype = token_type(encoding)
    files = {split: TokenFile(to, split, dtype.itemsize) for split in splits}
    for piece in pieces:
        for split, (tokens, counts) in piece.items():
            files[split].add(tokens, counts)
    counts = {split: file.close() for split, file in files.items()}
    meta = {"dtype": dtype.name, "vocabulary_size": encoding.n_vocab, "splits": counts}
    write_atomic(to / "meta.json", json.dumps(meta, indent=2) + "\n")
    return meta
