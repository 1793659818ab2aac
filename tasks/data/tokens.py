"""Write texts as token files: `<split>.bin`, or shards of it if it is large, and `meta.json`."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tiktoken

from llm.files import write_atomic
from llm.tokenizer import end_of_text
from tasks.data.rows import Rows, SplitCodes
from tasks.data.splits import SPLITS
from tasks.data.table_parts import make_parts, read_part

SHARD = 256 * 2**20  # bytes; a larger token file is split into shards of this size
LEARNED = 100_000_000  # characters that a tokenizer is trained on

logger = logging.getLogger(__name__)

Meta = dict[str, Any]
"""The content of `meta.json`."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of some documents, each followed by the end-of-text token."""

    content: bytes | memoryview
    counts: Mapping[str, int]
    """Numbers of documents, tokens and UTF-8 bytes of the texts."""


def token_type(encoding: tiktoken.Encoding) -> np.dtype:
    """The dtype of a token: little-endian uint16, or uint32 for a vocabulary of over 65,536."""
    return np.dtype("<u2" if encoding.n_vocab <= 2**16 else "<u4")


def encode(encoding: tiktoken.Encoding, texts: list[str]) -> Tokens:
    """The tokens of texts."""
    dtype = token_type(encoding)
    end = end_of_text(encoding)
    content = b"".join(np.array([*encoding.encode_ordinary(text), end], dtype).tobytes() for text in texts)
    size = sum(len(text.encode()) for text in texts)
    counts = {"documents": len(texts), "tokens": len(content) // dtype.itemsize, "bytes": size}
    return Tokens(content, counts)


class TokenFile:
    """Writes a split's tokens to `<split>.bin`, or to shards of SHARD bytes if there are more."""

    def __init__(self, folder: Path, split: str, itemsize: int) -> None:
        self.folder = folder
        self.split = split
        self.itemsize = itemsize
        self.counts: Counter[str] = Counter(documents=0, tokens=0, bytes=0)
        self.shards: list[dict[str, Any]] = []
        self._begin()

    def _begin(self) -> None:
        name = f"{self.split}.{len(self.shards) + 1:05}.bin"
        self._file = (self.folder / name).open("wb")
        self._hash = hashlib.sha256()
        self.shards.append({"file": name, "tokens": 0, "sha256": ""})

    def add(self, tokens: Tokens) -> None:
        """Write the tokens of some documents."""
        self.counts.update(tokens.counts)
        content = memoryview(tokens.content)
        while len(content):
            shard = self.shards[-1]
            free = SHARD - shard["tokens"] * self.itemsize
            if free == 0:
                self._end()
                self._begin()
                continue
            written = content[:free]
            self._file.write(written)
            self._hash.update(written)
            shard["tokens"] += len(written) // self.itemsize
            content = content[free:]

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


def write_files(encoding: tiktoken.Encoding, pieces: Iterable[Mapping[str, Tokens]], folder: Path) -> Meta:
    """Write the token files and `meta.json` into a folder and return what the latter holds.

    Each piece holds tokens for some of the splits. The meta file keeps dtype, vocabulary size and, for each split,
    documents, tokens and UTF-8 bytes of the texts (for bits per byte). A split of over SHARD bytes is several files
    there, each with its tokens and SHA-256 under `shards`.
    """
    dtype = token_type(encoding)
    files = {split: TokenFile(folder, split, dtype.itemsize) for split in SPLITS}
    for piece in pieces:
        for split, tokens in piece.items():
            files[split].add(tokens)
    counts = {split: file.close() for split, file in files.items()}
    meta = {"dtype": dtype.name, "vocabulary_size": encoding.n_vocab, "splits": counts}
    write_atomic(folder / "meta.json", json.dumps(meta, indent=2) + "\n")
    return meta


def texts_to_learn(rows: Rows, seed: int) -> Iterator[str]:
    """The texts of train; a sample of the rows if they have more than LEARNED characters."""
    train = rows.facts[rows.facts["split"] == SPLITS[0]]
    drawn = train.sample(frac=1, random_state=seed)
    drawn = train.loc[drawn.index[drawn["length"].cumsum() <= LEARNED].sort_values()]
    if len(drawn) < len(train):
        characters = drawn["length"].sum() / 1e6
        share = f"{len(drawn)} of {len(train)} rows, {characters:.1f} M characters"
        logger.info("a tokenizer is trained on %s", share)
    for positions in replace(rows, facts=drawn).positions_by_part():
        yield from rows.texts(positions)


def _token_part(job: tuple[Path, SplitCodes], encoding: tiktoken.Encoding) -> pa.Table:
    path, codes = job
    texts = read_part(path, ["text"])["text"]
    columns: dict[str, pa.Array] = {}
    for number, split in enumerate(SPLITS):
        tokens = encode(encoding, texts.take(pa.array(np.flatnonzero(codes == number))).to_pylist())
        columns[split] = pa.array([tokens.content], pa.large_binary())
        for name, count in tokens.counts.items():
            columns[f"{split} {name}"] = pa.array([count])
    return pa.table(columns)


def _token_pieces(paths: Iterable[Path]) -> Iterator[dict[str, Tokens]]:
    for path in paths:
        part = read_part(path)
        piece: dict[str, Tokens] = {}
        for split in SPLITS:
            counts = {name: part[f"{split} {name}"][0].as_py() for name in ("documents", "tokens", "bytes")}
            piece[split] = Tokens(memoryview(part[split][0].as_buffer()), counts)
        yield piece


def write_tokens(encoding: tiktoken.Encoding, rows: Rows, folder: Path) -> Meta:
    """Write the token files of all splits and their `meta.json`, on all cores; `text` is what is encoded."""
    work = partial(_token_part, encoding=encoding)
    parts = make_parts(rows.folder / "tokens", rows.codes_by_part(), work, total=len(rows.parts))
    return write_files(encoding, _token_pieces(parts), folder)
