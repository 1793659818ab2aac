"""The corpus: unlabelled text. Files become documents, and documents become token files."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import tiktoken
from pydantic import Field

from llm.formats.tokenizer_json import save_tokenizer
from llm.tokenizer import train_bpe
from tasks.data.cleaning.record import RULES, Record, absorb, recorded
from tasks.data.compression import without_compression
from tasks.data.dataset import Dataset
from tasks.data.formats.documents import Document, documents, raw_documents, tidy_document
from tasks.data.problems import Problem, rows_of_file, without_problems
from tasks.data.quality import cell_expectations
from tasks.data.rows import Rows, part_of_rows
from tasks.data.splits import Split
from tasks.data.steps import check_sources, clean
from tasks.data.table_parts import make_parts, read_part, read_record, with_record
from tasks.data.textfiles import raw_files
from tasks.data.tokens import texts_to_learn, write_tokens

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

COLUMNS = ["id", "source", "text"]
LENGTHS = {"text": (1, 1_000_000)}  # characters; a million of them without a space are no prose
LONGEST = 50_000  # characters of a document that stays whole
PIECE = 10_000  # approximate characters of a piece of a longer document
FEW = 10  # least rows, if pieces of SMALL characters give as many
SMALL = 1_000
PART = 16 * 2**20  # approximate characters of a part, or bytes of its files
FILES = 1_000  # of a part, at most
BEGINNING = 1_000  # characters that `threestage data check` reads of a document
EXPANDED = 4  # approximate growth of a compressed file

logger = logging.getLogger(__name__)


class Params(Split):
    """Parameters for cleaning, splitting and tokenizing the corpus."""

    tokenizer: str = "bpe"
    """`bpe` trains one on the corpus; else the name of a tiktoken encoding, such as `gpt2`, or a published model's."""
    vocabulary_size: int = Field(default=8192, gt=256)
    """Tokens of a `bpe` tokenizer; any other brings its own."""
    columns: dict[str, str] = Field(default_factory=dict)
    """The name of a table's column `text`, if it is not a usual one."""


class Row(NamedTuple):
    """A document of the corpus."""

    id: str
    source: str
    text: str


ReadDocuments = Callable[..., Iterator[Document | Problem]]


def _rows(
    read: ReadDocuments, path: Path, folder: Path, params: Params, problems: list[Problem] | None = None
) -> Iterator[Row]:
    """The documents that `read` finds in a file."""
    name = path.relative_to(folder)
    file_rows = rows_of_file(partial(read, columns=params.columns), path)
    for document in without_problems(file_rows, problems):
        yield Row(id=f"{name.as_posix()}{document.suffix}", source=name.parts[0], text=document.text)


def read_corpus(folder: Path, params: Params, problems: list[Problem] | None = None) -> pd.DataFrame:
    """Read every file below `folder/<source>/` into a table of documents: id, source, text.

    tasks/data/formats/documents.py reads the formats. A long document is cut into pieces (`cut`), so that one book is
    not all in one split. Text is mended with ftfy (mojibake, NFC, line breaks as \\n) and has no two blank lines in a
    row. Rows are in the order of paths. Files and rows that can't be read are added to `problems`; without that list
    they raise UserError, naming file, row and reason.
    """
    rows: list[Row] = []
    for path in raw_files(folder):
        rows += _rows(documents, path, folder=folder, params=params, problems=problems)
    table = pd.DataFrame(rows, columns=COLUMNS)
    return cut(table, longest_document(table["text"].str.len()))


def check_corpus(folder: Path, params: Params, problems: list[Problem]) -> pd.DataFrame:
    """Like `read_corpus`, but with uncut documents and only the beginnings of their texts: whole ones may be
    gigabytes."""
    rows: list[list[str]] = []
    for path in raw_files(folder):
        for row in _rows(documents, path, folder=folder, params=params, problems=problems):
            rows.append([row.id, row.source, row.text[:BEGINNING]])
    return pd.DataFrame(rows, columns=COLUMNS)


@dataclass(frozen=True)
class Job:
    """The input of one part of documents: files, or documents of a file that is too large for a part."""

    files: tuple[Path, ...] = ()
    rows: tuple[Row, ...] = ()
    record: Record = field(default_factory=Record)
    """The record of documents that were dropped while `rows` were read."""


Mask = Callable[[str], str]


def jobs(folder: Path, params: Params, mask: Mask) -> Iterator[Job]:
    """The jobs for the parts of a corpus, in the order of its files."""
    group: list[Path] = []
    size = 0
    for path in raw_files(folder):
        is_compressed = without_compression(path.name) != path.name
        expected = path.stat().st_size * (EXPANDED if is_compressed else 1)
        if group and (size + expected > PART or len(group) >= FILES):
            yield Job(files=tuple(group))
            group = []
            size = 0
        if expected > PART:
            yield from _jobs_of_large_file(_rows(raw_documents, path, folder=folder, params=params), mask)
        else:
            group.append(path)
            size += expected
    if group:
        yield Job(files=tuple(group))


def _jobs_of_large_file(rows: Iterator[Row], mask: Mask) -> Iterator[Job]:
    row: Row | None = None
    while True:
        chosen: list[Row] = []
        size = 0
        with recorded(mask) as record:  # the reader runs in here
            while size < PART and (row := next(rows, None)) is not None:
                chosen.append(row)
                size += len(row.text)
        yield Job(rows=tuple(chosen), record=record)
        if row is None:
            return


def read_documents(job: Job, folder: Path, params: Params, mask: Mask) -> pa.Table:
    """A part of documents: id, source, text, length."""
    rows: list[Row] = []
    with recorded(mask) as record:
        record.absorb(job.record)
        for path in job.files:
            rows += _rows(documents, path, folder=folder, params=params)
        rows += [Row(id=row.id, source=row.source, text=tidy_document(row.text)) for row in job.rows]
    columns = {
        "id": pa.array([row.id for row in rows], pa.large_string()),
        "source": pa.array([row.source for row in rows], pa.large_string()),
        "text": pa.array([row.text for row in rows], pa.large_string()),
        "length": pa.array([len(row.text) for row in rows], pa.int64()),
    }
    return with_record(pa.table(columns), record)


def cut_documents(path: Path, params: Params, longest: float, mask: Mask) -> pa.Table:
    """Turn a part of documents into a part of cleaned rows."""
    with recorded(mask) as record:
        table = cut(read_part(path, COLUMNS).to_pandas(), longest)
        table = clean(table, DATASET, params)
    return part_of_rows(table, DATASET, params.near_duplicate, record=record)


def read_parts(folder: Path, params: Params, work: Path, *, mask: Mask) -> list[Path]:
    """Read like `read_corpus`, but on all cores and without the rows that rules drop; write the parts below `work`.

    An interrupted call goes on with the next part.
    """
    read = partial(read_documents, folder=folder, params=params, mask=mask)
    document_parts = make_parts(work / "documents", jobs(folder, params, mask), read)
    facts = [read_part(path, ["source", "length"]).to_pandas() for path in document_parts]
    table = pd.concat(facts, ignore_index=True)
    logger.info("%d documents, %.1f M characters", len(table), table["length"].sum() / 1e6)
    check_sources(table, params, folder)
    cut_part = partial(cut_documents, params=params, longest=longest_document(table["length"]), mask=mask)
    parts = make_parts(work / "rows", document_parts, cut_part, total=len(document_parts))
    for path in document_parts:
        absorb(read_record(path))
    rules: set[str] = set()
    for path in parts:
        rules |= read_record(path).rules()
    for rule in [rule for rule in RULES if rule in rules]:  # in the order in which they apply to a table
        for path in parts:
            absorb(read_record(path), rule)
    return parts


def longest_document(lengths: pd.Series) -> float:
    """The number of characters above which a document is cut, given the lengths of all documents.

    It is LONGEST, so that no other document changes how one is cut. Only if that would give fewer than FEW rows it is
    less, down to SMALL: each split needs some rows.
    """
    pieces = np.ceil(lengths.where(lengths > LONGEST, 0) / PIECE).clip(1)
    if pieces.sum() >= FEW:
        return LONGEST
    return float(np.clip(lengths.sum() / FEW, SMALL, LONGEST))


def cut(table: pd.DataFrame, longest: float) -> pd.DataFrame:
    """Cut documents of more than `longest` characters into pieces of about that size, or of PIECE if that is less.

    Others stay whole: they read best so, and no held-out text is then part of a document in train.
    """
    rows: list[Row] = []
    for row in map(Row._make, table[COLUMNS].to_numpy().tolist()):
        pieces = _pieces(row.text, min(PIECE, longest)) if len(row.text) > longest else [row.text]
        for number, piece in enumerate(pieces, 1):
            suffix = f"#{number}" if len(pieces) > 1 else ""
            rows.append(Row(id=row.id + suffix, source=row.source, text=piece))
    return pd.DataFrame(rows, columns=COLUMNS)


def _pieces(text: str, longest: float) -> list[str]:
    """Cut a text into even pieces of about `longest` characters at most: at blank lines, else at line ends, else at
    spaces. It is not cut if none of them is near."""
    count = math.ceil(len(text) / longest) or 1
    size = len(text) / count
    cuts = [0]
    for number in range(1, count):
        cut_at = _last_break(text, int((number - 0.5) * size), int(number * size))
        if cut_at is not None:
            cuts.append(cut_at)
    pieces = [text[start:end].rstrip() for start, end in pairwise([*cuts, len(text)])]
    return [piece for piece in pieces if piece] or [text]


def _last_break(text: str, low: int, high: int) -> int | None:
    """The end of the last blank line between two positions, else of the last line, else of the last word."""
    for mark in ("\n\n", "\n", " "):
        start = text.rfind(mark, low, high)
        if start >= 0:
            return start + len(mark)
    return None


def corpus_expectations() -> list["Expectation"]:
    """The expectations on a corpus before a model learns from it."""
    import great_expectations.expectations as gxe

    least, most = LENGTHS["text"]
    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=COLUMNS),
        *cell_expectations(COLUMNS),
        gxe.ExpectColumnValueLengthsToBeBetween(column="text", min_value=least, max_value=most),
        gxe.ExpectColumnValuesToNotMatchRegex(column="text", regex="\N{REPLACEMENT CHARACTER}", mostly=0.99),
    ]


def choose_encoding(params: Params, texts: Iterable[str]) -> tiktoken.Encoding:
    """The tokenizer that `params` names; a `bpe` one is trained on the texts."""
    if params.tokenizer == "bpe":
        return train_bpe(texts, params.vocabulary_size)
    # Half of this module's import time and memory; processes that make parts don't need it.
    from tasks.data.published import encoding_by_name, is_published, published_tokenizer

    if is_published(params.tokenizer):
        return published_tokenizer(params.tokenizer)
    return encoding_by_name(params.tokenizer)


def write_corpus(rows: Rows, folder: Path, params: Params) -> None:
    """Write `tokenizer.json` and the token files."""
    encoding = choose_encoding(params, texts_to_learn(rows, params.seed))
    save_tokenizer(encoding, folder / "tokenizer.json")
    write_tokens(encoding, rows, folder)


DATASET = Dataset(
    params=Params,
    read=read_corpus,
    text=lambda table: table["text"],
    expectations=corpus_expectations,
    lengths=LENGTHS,
    write=write_corpus,
    check=check_corpus,
    parts=read_parts,
)
