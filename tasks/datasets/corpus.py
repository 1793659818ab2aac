"""The corpus: unlabelled text, files as documents, documents as token files."""

import json
import logging
import math
import os
from collections.abc import Callable, Iterable
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import tiktoken
from pydantic import Field
from tqdm import tqdm

from llm.files import write_atomic
from llm.tokenizer import end_of_text, save_tokenizer, train_bpe
from tasks.data.formats import Problem, each_file, without_problems
from tasks.data.formats.documents import documents
from tasks.data.published import encoding_by_name, is_published, published_tokenizer
from tasks.data.splits import FEW, Split
from tasks.data.textfiles import raw_files
from tasks.datasets import Dataset
from tasks.stages.cluster import map_in_order

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

COLUMNS = ["id", "source", "text"]
LENGTHS = {"text": (1, 1_000_000)}  # a million characters without a space are no prose
PIECES = 100  # of a source, at least, so that a share of a few percent is some of them
SHORTEST, LONGEST = 10_000, 50_000  # characters of a piece, about
SMALL = 1_000  # characters of a piece, at least, where there is too little text for longer ones
BATCH = 1024  # documents tokenized at a time, which bounds the memory

logger = logging.getLogger(__name__)


class Params(Split):
    """How the corpus is cleaned, split and cut into tokens."""

    tokenizer: str = "bpe"
    """`bpe` trains one on the corpus; else the name of a tiktoken encoding, such as `gpt2`, or a published model's."""
    vocabulary_size: int = Field(default=8192, gt=256)
    """Tokens of a `bpe` tokenizer; any other brings its own."""
    columns: dict[str, str] = Field(default_factory=dict)
    """How a table's column with the `text` is called, where it has no usual name."""


def read_corpus(folder: Path, params: Params | None = None, problems: list[Problem] | None = None) -> pd.DataFrame:
    """Read every file below `folder/<source>/` into a table of documents: id, source, text.

    tasks/data/formats/documents.py has the forms. A document that is long, for its source, is cut into pieces (`_cut`),
    so that one book is not all in one split. Text is mended with ftfy (mojibake, NFC, line breaks as \\n) and has no
    two blank lines in a row. Rows come in the order of paths. What can't be read is put into `problems`; without that
    list it raises UserError naming file, row and reason.
    """
    files = raw_files(folder)
    columns = params.columns if params else {}
    rows = []
    for path in tqdm(files, desc="reading", unit="file", disable=None, leave=False):
        name = path.relative_to(folder)
        for row, text in without_problems(each_file(documents, [path], columns), problems):
            rows.append((f"{name.as_posix()}{row}", name.parts[0], text))
    table = _cut(pd.DataFrame(rows, columns=COLUMNS))
    logger.info(
        "%d documents, %.1f M characters, in %d files", len(table), table["text"].map(len).sum() / 1e6, len(files)
    )
    return table


def _cut(table: pd.DataFrame) -> pd.DataFrame:
    """Cut documents of over a hundredth of their source, or LONGEST if that is less, into pieces of at most about that.

    None is cut below SHORTEST, or below SMALL where there would be fewer than FEW pieces in all: each split needs some.
    Where there are many others a document stays whole, as it reads best, and what is held out is then no part of what
    is learned.
    """
    lengths = table["text"].str.len()
    longest = (lengths.groupby(table["source"]).transform("sum") / PIECES).clip(SHORTEST, LONGEST)
    if np.ceil(lengths / longest).sum() < FEW:
        longest = longest.clip(upper=max(SMALL, lengths.sum() / FEW))
    table = table.assign(text=list(map(_pieces, table["text"], longest)))
    table["id"] = [
        [f"{name}#{n}" for n, _ in enumerate(pieces, 1)] if len(pieces) > 1 else [name]
        for name, pieces in zip(table["id"], table["text"], strict=True)
    ]
    return table.explode(["id", "text"], ignore_index=True)


def _pieces(text: str, longest: float) -> list[str]:
    """Cut into even pieces of about `longest` characters at most: at blank lines, else line ends, else spaces.

    It is not cut where none of them is near.
    """
    count = math.ceil(len(text) / longest) or 1
    size = len(text) / count
    cuts = [0]
    for n in range(1, count):
        low, high = int((n - 0.5) * size), int(n * size)
        ends = (place + len(mark) for mark in ("\n\n", "\n", " ") if (place := text.rfind(mark, low, high)) >= 0)
        cuts += [*islice(ends, 1)]
    return [piece for start, end in pairwise([*cuts, len(text)]) if (piece := text[start:end].rstrip())] or [text]


def corpus_expectations() -> list["Expectation"]:
    """What a corpus must be before a model learns from it."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=COLUMNS),
        *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in COLUMNS),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
        *(
            gxe.ExpectColumnValueLengthsToBeBetween(column=column, min_value=low, max_value=high)
            for column, (low, high) in LENGTHS.items()
        ),
        gxe.ExpectColumnValuesToNotMatchRegex(column="text", regex="\N{REPLACEMENT CHARACTER}", mostly=0.99),
    ]


def write_tokens(
    encoding: tiktoken.Encoding, splits: dict[str, pd.DataFrame], folder: Path, mapped: Callable[..., Iterable] = map
) -> dict[str, Any]:
    """Write `<split>.bin` for each table of texts and `meta.json` into `folder`, and return what the latter holds.

    A .bin is little-endian uint16, or uint32 for over 65,536 tokens: the documents in the table's order, each followed
    by the end-of-text token. The meta file keeps dtype, vocabulary size and, for each split, documents, tokens and
    UTF-8 bytes of the texts (for bits per byte). `mapped` works as `map` does, perhaps on many machines.
    """
    dtype = np.dtype("<u2" if encoding.n_vocab <= 2**16 else "<u4")
    end = end_of_text(encoding)
    total, counts = sum(map(len, splits.values())), {}

    def encode(texts: list[str]) -> bytes:
        tokens = encoding.encode_ordinary_batch(texts, num_threads=os.cpu_count() or 1)
        return b"".join(np.array([*ids, end], dtype).tobytes() for ids in tokens)

    with tqdm(desc="tokenizing", total=total, unit="document", disable=None, leave=False) as bar:
        for split, table in splits.items():
            written = 0
            with (folder / f"{split}.bin").open("wb") as file:
                pieces = [table["text"].iloc[start : start + BATCH].tolist() for start in range(0, len(table), BATCH)]
                for texts, tokens in zip(pieces, mapped(encode, pieces), strict=True):
                    written += file.write(tokens)
                    bar.update(len(texts))
            size = sum(len(text.encode()) for text in table["text"])
            counts[split] = {"documents": len(table), "tokens": written // dtype.itemsize, "bytes": size}
    meta = {"dtype": dtype.name, "vocabulary_size": encoding.n_vocab, "splits": counts}
    write_atomic(folder / "meta.json", json.dumps(meta, indent=2) + "\n")
    return meta


def choose_encoding(params: Params, texts: Iterable[str]) -> tiktoken.Encoding:
    """The tokenizer that `params` names; a `bpe` one is trained on the texts."""
    if params.tokenizer == "bpe":
        return train_bpe(texts, params.vocabulary_size)
    if is_published(params.tokenizer):
        return published_tokenizer(params.tokenizer)
    return encoding_by_name(params.tokenizer)


def write_corpus(splits: dict[str, pd.DataFrame], folder: Path, params: Params) -> None:
    """Write `tokenizer.json` and the token files, on a Ray cluster where the environment names one."""
    encoding = choose_encoding(params, splits["train"]["text"])
    save_tokenizer(encoding, folder / "tokenizer.json")
    write_tokens(encoding, splits, folder, map_in_order)


DATASET = Dataset(
    params=Params,
    read=read_corpus,
    text=lambda table: table["text"],
    stratify=("source",),
    weight=lambda table: table["text"].str.len(),
    expectations=corpus_expectations,
    lengths=LENGTHS,
    write=write_corpus,
    check=read_corpus,
)
