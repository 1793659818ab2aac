"""The corpus: unlabelled text. Files become documents, and documents become token files."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import tiktoken
from pydantic import Field
from tqdm import tqdm

from llm.formats.tokenizer_json import save_tokenizer
from llm.tokenizer import train_bpe
from tasks.data.cleaning.personal import mask_rows
from tasks.data.cleaning.record import RULES, Record, absorb, recorded
from tasks.data.cleaning.rules import in_languages, within_lengths, without_repetition
from tasks.data.compression import without_compression
from tasks.data.formats import Problem, each_file, without_problems
from tasks.data.formats.documents import documents, raw_documents, tidy_document
from tasks.data.splits import Split, check_train_only
from tasks.data.stream import Stream, rows_to_part, texts_to_arrow, texts_to_learn, write_stream
from tasks.data.table_parts import make_parts, read_part, read_record, with_record
from tasks.data.textfiles import raw_files
from tasks.datasets import Dataset

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

COLUMNS = ["id", "source", "text"]
LENGTHS = {"text": (1, 1_000_000)}  # characters; a million of them without a space are no prose
LONGEST = 50_000  # characters of a document that stays whole
PIECE = 10_000  # approximate characters of a piece of a longer document
FEW, SMALL = 10, 1_000  # least rows, if pieces of SMALL characters give as many
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


def read_corpus(folder: Path, params: Params | None = None, problems: list[Problem] | None = None) -> pd.DataFrame:
    """Read every file below `folder/<source>/` into a table of documents: id, source, text.

    tasks/data/formats/documents.py reads the formats. A long document is cut into pieces (`cut`), so that one book is
    not all in one split. Text is mended with ftfy (mojibake, NFC, line breaks as \\n) and has no two blank lines in a
    row. Rows are in the order of paths. Files and rows that can't be read are added to `problems`; without that list
    they raise UserError, naming file, row and reason.
    """
    files = raw_files(folder)
    columns = params.columns if params else {}
    bar = tqdm(files, desc="reading", unit="file", disable=None, leave=False)
    table = pd.DataFrame(_rows(documents, bar, folder, columns, problems), columns=COLUMNS)
    _log_size(table["text"].str.len(), len(files))
    return cut(table, longest_document(table["text"].str.len()))


def check_corpus(folder: Path, params: Params, problems: list[Problem]) -> pd.DataFrame:
    """Like `read_corpus`, but with uncut documents and only the beginnings of their texts: whole ones may be
    gigabytes."""
    rows = _rows(documents, raw_files(folder), folder, params.columns, problems)
    return pd.DataFrame(((name, source, text[:BEGINNING]) for name, source, text in rows), columns=COLUMNS)


def _log_size(lengths: pd.Series, files: int) -> None:
    logger.info("%d documents, %.1f M characters, in %d files", len(lengths), lengths.sum() / 1e6, files)


def _rows(
    read: Callable[..., Iterator[Any]],
    paths: Iterable[Path],
    folder: Path,
    columns: dict[str, str],
    problems: list[Problem] | None = None,
) -> Iterator[tuple[str, str, str]]:
    """Id, source and text of each document that `read` finds in the files."""
    for path in paths:
        name = path.relative_to(folder)
        for row, text in without_problems(each_file(read, [path], columns), problems):
            yield f"{name.as_posix()}{row}", name.parts[0], text


@dataclass(frozen=True)
class Job:
    """The input of one part of documents: files, or documents of a file that is too large for a part."""

    files: tuple[Path, ...] = ()
    rows: tuple[tuple[str, str, str], ...] = ()
    record: Record = field(default_factory=Record)
    """The record of documents that were dropped while `rows` were read."""


def jobs(folder: Path, params: Params, mask: Callable[[str], str]) -> Iterator[Job]:
    """The jobs for the parts of a corpus, in the order of its files."""
    group, size = [], 0
    for path in raw_files(folder):
        packed = without_compression(path.name) != path.name
        expected = path.stat().st_size * (EXPANDED if packed else 1)
        if group and (size + expected > PART or len(group) >= FILES):
            yield Job(tuple(group))
            group, size = [], 0
        if expected > PART:
            yield from _jobs_of(_rows(raw_documents, [path], folder, params.columns), mask)
        else:
            group, size = [*group, path], size + expected
    if group:
        yield Job(tuple(group))


def _jobs_of(rows: Iterator[tuple[str, str, str]], mask: Callable[[str], str]) -> Iterator[Job]:
    more = True
    while more:
        found, size = [], 0
        with recorded(mask) as record:  # the reader runs in here
            while more and size < PART:
                if more := (row := next(rows, None)) is not None:
                    found.append(row)
                    size += len(row[2])
        yield Job(rows=tuple(found), record=record)


def read_documents(folder: Path, params: Params, mask: Callable[[str], str], job: Job) -> pa.Table:
    """A part of documents: id, source, text, length."""
    with recorded(mask) as record:
        record.absorb(job.record)
        rows = list(_rows(documents, job.files, folder, params.columns))
        rows += [(name, source, tidy_document(text)) for name, source, text in job.rows]
    columns = {name: texts_to_arrow(row[place] for row in rows) for place, name in enumerate(COLUMNS)}
    return with_record(pa.table(columns | {"length": pa.array([len(row[2]) for row in rows], pa.int64())}), record)


def cut_documents(params: Params, longest: float, mask: Callable[[str], str], path: Path) -> pa.Table:
    """Turn a part of documents into a part of rows: cut, perhaps masked, without texts that no model should learn
    from."""
    with recorded(mask) as record:
        table = cut(read_part(path, COLUMNS).to_pandas(), longest)
        table = mask_rows(table) if params.mask_personal_data == "all" else table
        table = in_languages(table, table["text"], params.languages)
        table = within_lengths(table, table["text"], LENGTHS)
        table = without_repetition(table, table["text"])
    return rows_to_part(table, record, params.near_duplicate)


def read_stream(folder: Path, params: Params, work: Path, mask: Callable[[str], str]) -> Stream:
    """Read like `read_corpus`, but on all cores and without the rows that rules drop; write the parts below `work`.

    An interrupted call goes on with the next part.
    """
    files = raw_files(folder)
    read = make_parts(work / "documents", jobs(folder, params, mask), partial(read_documents, folder, params, mask))
    known = pd.concat([read_part(path, ["source", "length"]).to_pandas() for path in read], ignore_index=True)
    known["source"] = known["source"].astype("category")
    _log_size(known["length"], len(files))
    if not known.empty:
        check_train_only(known, params)  # before de-duplication may remove all rows of a source
    longest = longest_document(known["length"])
    rows = make_parts(work / "rows", read, partial(cut_documents, params, longest, mask), len(read))
    for path in read:
        absorb(read_record(path))
    found = set().union(*(read_record(path).rules() for path in rows))
    for rule in filter(found.__contains__, RULES):  # in the order in which the rules apply to a table
        for path in rows:
            absorb(read_record(path), rule)
    return Stream.of(work, rows)


def longest_document(lengths: pd.Series) -> float:
    """The number of characters above which a document is cut, given the lengths of all documents.

    It is LONGEST, so that no other document changes how one is cut. Only if that would give fewer than FEW rows it is
    less, down to SMALL: each split needs some rows.
    """
    rows = np.ceil(lengths.where(lengths > LONGEST, 0) / PIECE).clip(1).sum()
    return LONGEST if rows >= FEW else min(LONGEST, max(SMALL, lengths.sum() / FEW))


def cut(table: pd.DataFrame, longest: float) -> pd.DataFrame:
    """Cut documents of more than `longest` characters into pieces of about that size, or of PIECE if that is less.

    Others stay whole: they read best so, and no held-out text is then part of a document in train.
    """
    pieces = [_pieces(text, min(PIECE, longest)) if len(text) > longest else [text] for text in table["text"]]
    names = [
        [f"{name}#{n}" for n, _ in enumerate(each, 1)] if len(each) > 1 else [name]
        for name, each in zip(table["id"], pieces, strict=True)
    ]
    lists = {"id": pd.Series(names, table.index, object), "text": pd.Series(pieces, table.index, object)}
    return table.assign(**lists).explode(["id", "text"], ignore_index=True)


def _pieces(text: str, longest: float) -> list[str]:
    """Cut a text into even pieces of about `longest` characters at most: at blank lines, else at line ends, else at
    spaces. It is not cut if none of them is near."""
    count = math.ceil(len(text) / longest) or 1
    size = len(text) / count
    cuts = [0]
    for n in range(1, count):
        low, high = int((n - 0.5) * size), int(n * size)
        ends = (place + len(mark) for mark in ("\n\n", "\n", " ") if (place := text.rfind(mark, low, high)) >= 0)
        cuts += [*islice(ends, 1)]
    return [piece for start, end in pairwise([*cuts, len(text)]) if (piece := text[start:end].rstrip())] or [text]


def corpus_expectations() -> list["Expectation"]:
    """The expectations on a corpus before a model learns from it."""
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


def choose_encoding(params: Params, texts: Iterable[str]) -> tiktoken.Encoding:
    """The tokenizer that `params` names; a `bpe` one is trained on the texts."""
    if params.tokenizer == "bpe":
        return train_bpe(texts, params.vocabulary_size)
    # Half of this module's import time and memory; processes that make parts don't need it.
    from tasks.data.published import encoding_by_name, is_published, published_tokenizer

    if is_published(params.tokenizer):
        return published_tokenizer(params.tokenizer)
    return encoding_by_name(params.tokenizer)


def write_corpus(stream: Stream, folder: Path, params: Params) -> None:
    """Write `tokenizer.json` and the token files."""
    encoding = choose_encoding(params, texts_to_learn(stream, params.seed))
    save_tokenizer(encoding, folder / "tokenizer.json")
    write_stream(encoding, stream, folder)


DATASET = Dataset(
    params=Params,
    read=read_corpus,
    text=lambda table: table["text"],
    expectations=corpus_expectations,
    lengths=LENGTHS,
    write=write_corpus,
    check=check_corpus,
    stream=read_stream,
)
