"""Write texts as token files, `<split>.bin`, and `meta.json`: on all cores, a batch of texts at a time in memory."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tiktoken

from llm.files import write_atomic
from llm.tokenizer import end_of_text
from tasks.data.splits import SPLITS
from tasks.stages.process_pool import map_in_order

BATCH = 8 * 2**20  # approximate characters of a batch
LEARNED = 100_000_000  # characters that a tokenizer is trained on

logger = logging.getLogger(__name__)


class Tokens(NamedTuple):
    """The tokens of some documents, each followed by the end-of-text token."""

    content: bytes
    counts: dict[str, int]
    """Numbers of documents, tokens and UTF-8 bytes of the texts."""


def token_type(encoding: tiktoken.Encoding) -> np.dtype:
    """The dtype of a token: little-endian uint16, or uint32 for a vocabulary of over 65,536."""
    return np.dtype("<u2" if encoding.n_vocab <= 2**16 else "<u4")


def encode(encoding: tiktoken.Encoding, texts: Sequence[str]) -> Tokens:
    """The tokens of texts."""
    dtype = token_type(encoding)
    end = end_of_text(encoding)
    content = b"".join(np.array([*encoding.encode_ordinary(text), end], dtype).tobytes() for text in texts)
    size = sum(len(text.encode()) for text in texts)
    return Tokens(content, {"documents": len(texts), "tokens": len(content) // dtype.itemsize, "bytes": size})


def batches(lengths: Sequence[int], size: int = BATCH) -> Iterator[range]:
    """Ranges of texts of about `size` characters each, in order."""
    start = 0
    total = 0
    for index, length in enumerate(lengths, 1):
        total += length
        if total >= size:
            yield range(start, index)
            start = index
            total = 0
    if start < len(lengths):
        yield range(start, len(lengths))


def texts_to_learn(rows: pd.DataFrame, texts: Sequence[str], seed: int) -> Iterator[str]:
    """The texts of train; a sample of them if they have more than LEARNED characters.

    `rows` has split and length by position in `texts`.
    """
    train = rows[rows["split"] == SPLITS[0]]
    drawn = train.sample(frac=1, random_state=seed)
    drawn = train.loc[drawn.index[drawn["length"].cumsum() <= LEARNED].sort_values()]
    if len(drawn) < len(train):
        logger.info("a tokenizer is trained on %d of %d rows", len(drawn), len(train))
    for position in drawn.index:
        yield texts[position]


def write_tokens(encoding: tiktoken.Encoding, rows: pd.DataFrame, texts: Sequence[str], folder: Path) -> dict[str, Any]:
    """Write the token file of each split and `meta.json`, and return what the latter holds.

    `rows` has split and length by position in `texts`. The meta file keeps dtype, vocabulary size and, for each split,
    documents, tokens and UTF-8 bytes of the texts (for bits per byte).
    """
    counts = {split: Counter(documents=0, tokens=0, bytes=0) for split in SPLITS}
    with ExitStack() as stack:
        files = {split: stack.enter_context((folder / f"{split}.bin").open("wb")) for split in SPLITS}
        for tokens_of_split in map_in_order(partial(_encode_splits, encoding), _texts_of_splits(rows, texts)):
            for split, tokens in tokens_of_split.items():
                files[split].write(tokens.content)
                counts[split].update(tokens.counts)
    meta = {
        "dtype": token_type(encoding).name,
        "vocabulary_size": encoding.n_vocab,
        "splits": {split: dict(count) for split, count in counts.items()},
    }
    write_atomic(folder / "meta.json", json.dumps(meta, indent=2) + "\n")
    return meta


def _texts_of_splits(rows: pd.DataFrame, texts: Sequence[str]) -> Iterator[dict[str, list[str]]]:
    """The texts of each split, a batch at a time."""
    for batch in batches(rows["length"].tolist()):
        of_batch = rows.iloc[batch.start : batch.stop]
        texts_of_split: dict[str, list[str]] = {}
        for split in SPLITS:
            positions = of_batch.index[of_batch["split"] == split]
            texts_of_split[split] = [texts[position] for position in positions]
        yield texts_of_split


def _encode_splits(encoding: tiktoken.Encoding, texts_of_split: Mapping[str, list[str]]) -> dict[str, Tokens]:
    return {split: encode(encoding, texts) for split, texts in texts_of_split.items()}
