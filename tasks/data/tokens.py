"""Write texts as token files: `<split>.bin`, or shards of it if it is large, and `meta.json`."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

from llm.files import write_atomic
from llm.tokenizer import end_of_text

SHARD = 256 * 2**20  # bytes; a larger token file is split into shards of this size


def token_type(encoding: tiktoken.Encoding) -> np.dtype:
    """The dtype of a token: little-endian uint16, or uint32 for a vocabulary of over 65,536."""
    return np.dtype("<u2" if encoding.n_vocab <= 2**16 else "<u4")


def encode(encoding: tiktoken.Encoding, texts: list[str]) -> tuple[bytes, dict[str, int]]:
    """Texts as the bytes of their tokens, each followed by the end-of-text token; and the numbers of documents, tokens
    and UTF-8 bytes."""
    dtype, end = token_type(encoding), end_of_text(encoding)
    found = b"".join(np.array([*encoding.encode_ordinary(text), end], dtype).tobytes() for text in texts)
    size = sum(len(text.encode()) for text in texts)
    return found, {"documents": len(texts), "tokens": len(found) // dtype.itemsize, "bytes": size}


class TokenFile:
    """Writes a split's tokens to `<split>.bin`, or to shards of SHARD bytes if there are more."""

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
        """Finish. Returns the numbers of documents, tokens and bytes, and the shards if there are several."""
        self._end()
        if len(self.shards) > 1:
            return {**self.counts, "shards": self.shards}
        (self.folder / self.shards[0]["file"]).rename(self.folder / f"{self.split}.bin")
        return dict(self.counts)


def write_files(
    encoding: tiktoken.Encoding, splits: Iterable[str], pieces: Iterable[Mapping[str, tuple[bytes, Mapping]]], to: Path
) -> dict[str, Any]:
    """Write the token files and `meta.json` into the folder `to` and return what the latter holds.

    Each piece holds the result of `encode` for some of the splits. The meta file keeps dtype, vocabulary size and, for
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
