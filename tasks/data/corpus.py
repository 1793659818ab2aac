"""The corpus: unlabelled text, which becomes documents, and these become token files.

It may be larger than memory. Documents are cleaned a batch at a time, on all cores, and written to one Arrow file, from
which each text is read when it is needed. Memory holds id, source, length and MinHashes of each.
"""

import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import tiktoken
from pydantic import Field

from llm.errors import UserError
from llm.tokenizer import train_bpe
from tasks.data.duplicates import first_of_groups
from tasks.data.files import (
    PROSE,
    Row,
    RowError,
    columns_of,
    form_of,
    mend,
    raw_files,
    read_lines,
    read_rows,
    read_text,
    suffix_of,
)
from tasks.data.findings import Findings
from tasks.data.inbox import IN_INBOX
from tasks.data.mail.html import html_text
from tasks.data.personal import mask, mask_rows
from tasks.data.preprocess import drop_lengths, drop_repetition
from tasks.data.quality import cell_expectations
from tasks.data.shingles import text_hashes
from tasks.data.splits import Split, check_train_only, draw_splits, is_train_only
from tasks.stages.process_pool import map_in_order

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

COLUMNS = ["id", "source", "text"]
TEXTS = {"text": (1, 1_000_000)}  # characters; a million of them without a space are no prose
USUAL = {"text": ("text", "content", "body", "document", "article", "story", "passage", "markdown")}
MAILS = ("eml", "mbox")  # forms of a text that begins like a mail
PART = 16 * 2**20  # characters; a longer text is several documents
BATCH = 4 * 2**20  # approximate characters of the documents that are cleaned at a time
LONGEST = 50_000  # characters of a document that stays whole
PIECE = 10_000  # approximate characters of a piece of a longer document
FEW = 10  # least rows, if pieces of SMALL characters give as many
SMALL = 1_000
CHECKED = 20_000  # rows that Great Expectations checks at most

logger = logging.getLogger(__name__)


class Params(Split):
    """Parameters for cleaning, splitting and tokenizing the corpus."""

    tokenizer: str = "bpe"
    """`bpe` trains one on the corpus; else the name of a tiktoken encoding, such as `gpt2`, or a published model's."""
    vocabulary_size: int = Field(default=8192, gt=256)
    """Tokens of a `bpe` tokenizer; any other brings its own."""
    columns: dict[str, str] = Field(default_factory=dict)
    """The name of a table's column `text`, if it is not a usual one."""


class Document(NamedTuple):
    """A document of the corpus."""

    id: str
    source: str
    text: str


class Cleaned(NamedTuple):
    """Clean documents, and those that were dropped."""

    table: pd.DataFrame
    findings: Findings


class StoredTexts(Sequence[str]):
    """The texts of an Arrow file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._column = pa.ipc.open_file(pa.memory_map(str(path))).read_all()["text"]

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: Any) -> Any:
        return self._column[int(index)].as_py()


def read(folder: Path, params: Params, findings: Findings) -> pd.DataFrame:
    """All documents of the files below `folder/<source>/`, as they are written: id, source, text."""
    return pd.DataFrame(documents(folder, params=params, findings=findings), columns=COLUMNS)


def expectations(params: Params) -> list["Expectation"]:
    """The expectations on a corpus before a model learns from it."""
    import great_expectations.expectations as gxe

    least, most = TEXTS["text"]
    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=COLUMNS),
        *cell_expectations(COLUMNS),
        gxe.ExpectColumnValueLengthsToBeBetween(column="text", min_value=least, max_value=most),
        gxe.ExpectColumnValuesToNotMatchRegex(column="text", regex="\N{REPLACEMENT CHARACTER}", mostly=0.99),
    ]


def documents(folder: Path, params: Params, findings: Findings) -> Iterator[Document]:
    """The documents of all files, in the order of paths: of texts, HTML pages, and tables with a column of texts."""
    for path in raw_files(folder):
        name = path.relative_to(folder)
        form = form_of(path)
        try:
            if form == "html":
                texts: Iterable[tuple[str, str]] = [("", _page_text(read_text(path)))]
            elif form == "text" or (suffix_of(path) in PROSE and form in MAILS):
                texts = _parts_of_text(path)
            else:
                texts = _texts_of_rows(path, params.columns, findings)
            for suffix, text in texts:
                yield Document(id=f"{name.as_posix()}{suffix}", source=name.parts[0], text=text)
        except UserError as error:
            findings.add_error(error)


def _page_text(html: str) -> str:
    return "\n".join(" ".join(line.split()) for line in html_text(html).splitlines())


def _parts_of_text(path: Path) -> Iterator[tuple[str, str]]:
    """A file as one document, or a large one as several, cut at ends of lines."""
    lines: list[str] = []
    size = 0
    number = 1
    for _, line in read_lines(path):
        if lines and size + len(line) > PART:
            yield f"#{number}", "".join(lines)
            number += 1
            lines = []
            size = 0
        lines.append(line)
        size += len(line)
    yield f"#{number}" if number > 1 else "", "".join(lines)


def _texts_of_rows(path: Path, columns: Mapping[str, str], findings: Findings) -> Iterator[tuple[str, str]]:
    """The text of each row of a table, or chats of two as chitchat-dataset keeps them."""
    for row in read_rows(path, findings):
        if row.number is None and isinstance(row.cells, Mapping) and _are_chats(row.cells):
            yield from _chats(path, row.cells, findings)
            continue
        try:
            yield f"#{row.number}" if row.number else "", _text_of(row, columns)
        except RowError as error:
            findings.add_problem(f"{path}, row {row.number}" if row.number else path, str(error))


def _text_of(row: Row, columns: Mapping[str, str]) -> str:
    column = columns_of(row.cells, USUAL, columns).get("text")
    text = row.cells[column] if column else None
    if column and text is None:
        return ""  # as a cell of CSV that is empty
    if not isinstance(text, str):
        names = "" if column else f", only {', '.join(map(str, row.cells))}"
        raise RowError(f'no string under "text"{names}')
    return text


def _are_chats(cells: Mapping[str, Any]) -> bool:
    return bool(cells) and all(isinstance(chat, Mapping) and "messages" in chat for chat in cells.values())


def _chats(path: Path, chats: Mapping[str, Any], findings: Findings) -> Iterator[tuple[str, str]]:
    """`{id: {"messages": [[{"sender", "text"}]]}}`: a chat is one document, a message one line, `A: …` or `B: …`.

    Chats that nobody answered are dropped.
    """
    for name, chat in chats.items():
        try:
            messages = list(chain.from_iterable(chat["messages"]))
            senders = [message["sender"] for message in messages]
            texts = [" ".join(message["text"].split()) for message in messages]
        except (KeyError, TypeError, AttributeError) as error:
            findings.add_problem(f"{path}, chat {name}", f"no messages with sender and text ({error})")
            continue
        turns = [(sender, text) for sender, text in zip(senders, texts, strict=True) if text]
        order = list(dict.fromkeys(sender for sender, _ in turns))
        chat_text = "\n".join(f"{chr(ord('A') + order.index(sender))}: {text}" for sender, text in turns)
        if len(order) > 1:
            yield f"#{name}", chat_text
        else:
            findings.drop("unanswered", f"{path.name}#{name}", "nobody answered", text=chat_text)


def batches_of(rows: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents of about BATCH characters at a time."""
    batch: list[Document] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row.text)
        if size >= BATCH:
            yield batch
            batch = []
            size = 0
    if batch:
        yield batch


def clean(batch: Sequence[Document], params: Params, longest: float) -> Cleaned:
    """Mend the texts of documents, cut long ones, and drop those from which no model should learn."""
    findings = Findings()
    tidied = [row._replace(text=tidy_document(row.text)) for row in batch]
    table = cut(tidied, longest)
    if params.mask_personal_data == "all":
        table = mask_rows(table)
    table = drop_lengths(table, TEXTS, findings)
    return Cleaned(drop_repetition(table, TEXTS, findings), findings)


def tidy_document(text: str) -> str:
    """A document with broken characters mended, no two blank lines in a row and no space around it."""
    return re.sub(r"\n([ \t]*\n)+", "\n\n", mend(text)).strip()


def cut(rows: Iterable[Document], longest: float) -> pd.DataFrame:
    """Cut documents of more than `longest` characters into pieces of about that size, or of PIECE if that is less.

    So one book is not all in one split. Others stay whole: they read best so.
    """
    pieces: list[Document] = []
    for row in rows:
        texts = _pieces(row.text, min(PIECE, longest)) if len(row.text) > longest else [row.text]
        for number, text in enumerate(texts, 1):
            suffix = f"#{number}" if len(texts) > 1 else ""
            pieces.append(Document(id=row.id + suffix, source=row.source, text=text))
    return pd.DataFrame(pieces, columns=COLUMNS)


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


def write_rows(
    path: Path, rows: Iterable[Document], params: Params, findings: Findings, *, longest: float = LONGEST
) -> pd.DataFrame:
    """Write clean documents to an Arrow file; the result has id, source and length of each, by position."""
    schema = pa.schema([("text", pa.large_string())])
    facts = [pd.DataFrame({"id": [], "source": [], "length": []})]
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for cleaned in map_in_order(partial(clean, params=params, longest=longest), batches_of(rows)):
            table = cleaned.table
            writer.write_table(pa.table({"text": pa.array(table["text"], pa.large_string())}))
            facts.append(table[["id", "source"]].assign(length=table["text"].str.len()))
            findings.dropped += cleaned.findings.dropped
    table = pd.concat(facts, ignore_index=True)
    return table.astype({"source": "category", "length": int})


def read_clean(
    raw: Path, inbox: Path, params: Params, findings: Findings, *, work: Path
) -> tuple[pd.DataFrame, StoredTexts]:
    """The clean documents of the raw files, and after them those of the inbox, which are only learned from."""
    path = work / "rows.arrow"

    def everything() -> Iterator[Document]:
        yield from documents(raw, params=params, findings=findings)
        if any(file.is_file() and not file.name.startswith(".") for file in inbox.rglob("*")):
            for row in documents(inbox, params=params, findings=findings):
                text = row.text if params.mask_personal_data == "none" else mask(row.text)
                yield Document(id=IN_INBOX + row.id, source=IN_INBOX + row.source, text=text)

    table = write_rows(path, everything(), params=params, findings=findings)
    findings.raise_problems()
    if table.empty:
        raise UserError(f"{raw}: there is not one row in its files; `threestage data check` says what is in a file")
    if len(table) < FEW:  # each split needs some
        findings.dropped.clear()
        shorter = float(np.clip(table["length"].sum() / FEW, SMALL, LONGEST))
        table = write_rows(path, everything(), params=params, findings=findings, longest=shorter)
    check_train_only(table, params)
    return table, StoredTexts(path)


def drop_duplicates(table: pd.DataFrame, texts: Sequence[str], params: Params, findings: Findings) -> pd.DataFrame:
    """Drop all near duplicates but the first; the index keeps the positions."""
    first = first_of_groups(texts, params.near_duplicate)
    for position in np.flatnonzero(first != np.arange(len(first))).tolist():
        reason = f"as {table.at[first[position], 'id']}"
        row_id = str(table.at[position, "id"])
        source = str(table.at[position, "source"])
        findings.drop("near_duplicates", row_id, reason, source=source, text=texts[position])
    return table[first == np.arange(len(first))]


def split(table: pd.DataFrame, texts: Sequence[str], params: Params) -> pd.DataFrame:
    """Give every document its `unit`, a hash of its text, and by it its `split`; the inbox is for train."""
    units = text_hashes(texts[position] for position in table.index)
    train_only = is_train_only(table, params) | table["source"].astype(str).str.startswith(IN_INBOX).to_numpy()
    return table.assign(unit=units.view(np.int64), split=draw_splits(units, params, train_only))


def sample(table: pd.DataFrame, texts: Sequence[str], seed: int) -> pd.DataFrame:
    """Up to CHECKED documents, for checks that need them in memory."""
    drawn = table.sample(min(CHECKED, len(table)), random_state=seed).sort_index()
    return drawn.assign(text=[texts[position] for position in drawn.index])[COLUMNS]


def choose_encoding(params: Params, texts: Iterable[str]) -> tiktoken.Encoding:
    """The tokenizer that `params` names; a `bpe` one is trained on the texts."""
    if params.tokenizer == "bpe":
        return train_bpe(texts, params.vocabulary_size)
    # Half of this module's import time and memory; processes that clean documents don't need it.
    from tasks.data.published import encoding_by_name, is_published, published_tokenizer

    if is_published(params.tokenizer):
        return published_tokenizer(params.tokenizer)
    return encoding_by_name(params.tokenizer)
