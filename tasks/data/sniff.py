"""The form of a file, by its suffix; that of a text or of a file without one, by its content."""

import re
from pathlib import Path, PurePath

from tasks.data.compression import open_plain, without_compression

HEAD = 2**16  # bytes that are read
PROSE = (".log", ".markdown", ".md", ".rst", ".tex", ".text", ".txt")
TABLES = (".csv", ".tab", ".tsv")
FORMS = {
    **dict.fromkeys(TABLES, "csv"),
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    **dict.fromkeys((".eml", ".emlx"), "eml"),
    **dict.fromkeys((".htm", ".html", ".xhtml"), "html"),
    **dict.fromkeys((".yml", ".yaml"), "yaml"),
    **{".json": "json", ".mbox": "mbox", ".parquet": "parquet", ".pdf": "pdf"},
}
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


def head_of(path: Path) -> bytes:
    """The first bytes of a file. Raises UserError if it can't be decompressed."""
    with open_plain(path) as file:
        return file.read(HEAD)


def sniff(path: Path) -> str:
    """One of binary, csv, eml, empty, html, json, jsonl, mbox, parquet, pdf, text, yaml.

    Raises UserError for a compressed file that is broken.
    """
    head = head_of(path)
    suffix = suffix_of(path)
    if not head.strip():
        return "empty"
    if suffix in FORMS:
        return FORMS[suffix]
    if b"\0" in head:  # reading a text with NUL names its row
        return "text" if suffix in PROSE else "binary"
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    if POSTMARK.match(text):
        return "mbox"
    return "eml" if is_message(text) else "text"


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
