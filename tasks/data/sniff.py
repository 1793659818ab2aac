"""The form of a file, by its content; its suffix decides between several possible ones."""

import json
import re
from pathlib import Path, PurePath

from tasks.data.compression import open_plain, without_compression

HEAD = 2**16  # bytes that are read
PROSE = (".log", ".markdown", ".md", ".rst", ".tex", ".text", ".txt")
TABLES = (".csv", ".tab", ".tsv")
LINES = (".jsonl", ".ndjson")
MESSAGES = (".eml", ".emlx")
HEADERS = (
    *("bcc", "cc", "content-transfer-encoding", "content-type", "date", "delivered-to", "from", "in-reply-to"),
    *("list-id", "message-id", "mime-version", "received", "references", "reply-to", "return-path", "sender"),
    *("subject", "to"),
)
HEADER = re.compile(r"([A-Za-z][A-Za-z0-9-]*):")
MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
POSTMARK = re.compile(rf"From \S.{{0,320}}?\b(?:{MONTHS})\b.{{1,9}}\b\d\d?:\d\d\b.{{0,40}}\b\d{{4}}\b")


def suffix_of(path: PurePath) -> str:
    """A file's suffix in lower case; for a compressed file, that of its content."""
    return PurePath(without_compression(path.name)).suffix.lower()


def head_of(path: Path) -> str | None:
    """The beginning of a text; None if the file is no text. Raises UserError if it can't be decompressed."""
    with open_plain(path) as file:
        head = file.read(HEAD)
    return None if b"\0" in head else head.decode("utf-8-sig", errors="replace")


def sniff(path: Path) -> str:
    """One of binary, csv, eml, empty, html, json, jsonl, mbox, parquet, pdf, text, yaml.

    Raises UserError for a compressed file that is broken.
    """
    with path.open("rb") as file:
        begin = file.read(5)
    if begin[:4] == b"PAR1" or begin == b"%PDF-":
        return "pdf" if begin == b"%PDF-" else "parquet"
    head = head_of(path)
    suffix = suffix_of(path)
    if head is None:  # reading a text with NUL names its row
        if suffix in MESSAGES:
            return "eml"
        if suffix in (".csv", ".json", ".jsonl"):
            return suffix[1:]
        return "text" if suffix in PROSE else "binary"
    if not head.strip():
        return "empty"
    return _by_suffix(suffix, head) or _by_content(suffix, head)


def _by_suffix(suffix: str, head: str) -> str | None:
    """The form of a file that declares it, even if the file is broken; JSON may also be JSON lines, and the other way
    round."""
    if suffix in (".yml", ".yaml"):
        return "yaml"
    if suffix in TABLES:
        return "csv"
    if suffix in MESSAGES:
        return "eml"
    if suffix in LINES:
        return "json" if head.lstrip()[0] == "[" and not is_json(_first_line(head)) else "jsonl"
    return "json" if suffix == ".json" and not _are_json_lines(head) else None


def _by_content(suffix: str, head: str) -> str:
    first = _first_line(head)
    if _are_json_lines(head):
        return "jsonl"
    if first[0] in "{[" and suffix not in PROSE:
        return "json"
    if POSTMARK.match(first):
        return "mbox"
    if is_message(head):
        return "eml"
    if re.match(r"\s*(<!doctype\s+html|<html)\b", head, re.IGNORECASE) or suffix in (".htm", ".html", ".xhtml"):
        return "html"
    return "csv" if _is_table(head, 2 if suffix in PROSE else 1) else "text"


def _first_line(head: str) -> str:
    return head.lstrip().partition("\n")[0]


def is_json(line: str) -> bool:
    """Whether a line is JSON by itself."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _are_json_lines(head: str) -> bool:
    """Whether each of the first lines is a JSON object."""
    lines = [line for line in head.strip().split("\n")[:2] if line.strip()]
    return len(lines) == 2 and lines[0].startswith("{") and is_json(lines[0]) and lines[1].lstrip().startswith("{")


def is_message(text: str) -> bool:
    """Whether a text begins with at least two mail headers."""
    names: list[str] = []
    for line in text.split("\n", 20)[:20]:
        if not line.strip():
            break
        if line[0] not in " \t":
            header = HEADER.match(line)
            if header is None:
                return False
            names.append(header[1].lower())
    return len(names) > 1 and sum(name in HEADERS for name in names) > 1


def separator_of(head: str, suffix: str) -> str:
    """The delimiter of a table's cells."""
    rows = [line for line in head.split("\n")[:20] if line.strip()] or [""]
    if suffix in (".tsv", ".tab") or all("\t" in row for row in rows):
        return "\t"
    return max(",\t;|", key=rows[0].count)  # of equally frequent ones the first


def _is_table(head: str, least: int) -> bool:
    """Whether there are at least `least` lines, each with the same number of tabs, above zero."""
    counts = [line.count("\t") for line in (head.split("\n")[:-1] or [head])[:50] if line.strip()]
    return len(counts) >= least and len({*counts}) == 1 and counts[0] > 0
