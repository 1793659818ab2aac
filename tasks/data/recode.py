"""Write texts in other encodings as UTF-8."""

import codecs
import io
from functools import partial
from pathlib import Path

from llm.errors import UserError
from tasks.data.archives import CHUNK
from tasks.data.compression import open_plain
from tasks.data.sniff import HEAD, PROSE, sniff, suffix_of

PIECE = 2**20  # bytes that are decoded at a time
MAX_BYTES = 16 * 2**30  # of a text


def recode(folder: Path, encoding: str, source: str) -> None:
    """Write the texts below a folder as UTF-8. Raises UserError, naming source, file and row, for other bytes."""
    for path in list(folder.rglob("*")):
        if path.is_file() and _is_written_in(path, encoding):
            _recode(path, encoding, f"{source}: {path.relative_to(folder)}")


def _is_written_in(path: Path, encoding: str) -> bool:
    """Whether to recode a file: mails declare their own charset; valid UTF-8 and files with NUL stay as they are."""
    form = sniff(path)
    if form in ("mbox", "parquet", "pdf") or (form == "eml" and suffix_of(path) not in PROSE):
        return False
    with open_plain(path) as file:
        if b"\0" in file.read(HEAD):
            return b"\0" in "a".encode(encoding)
    is_ascii = True  # it may be another encoding: ISO 2022 uses ASCII alone
    with open_plain(path) as file, io.TextIOWrapper(file, "utf-8") as text:
        try:
            for piece in iter(partial(text.read, CHUNK), ""):
                is_ascii = is_ascii and piece.isascii()
        except UnicodeDecodeError:
            return True
    return is_ascii


def _recode(path: Path, encoding: str, where: str) -> None:
    decoder = codecs.getincrementaldecoder(encoding)()
    row = 1
    fresh = path.with_name(f"{path.name}.utf-8")
    try:
        with open_plain(path) as file, fresh.open("xb") as out:
            while piece := file.read(PIECE):
                out.write(decoder.decode(piece).encode())
                row += piece.count(b"\n")
                if out.tell() > MAX_BYTES:
                    raise UserError(f"{where} has more than {MAX_BYTES:,} bytes")
            out.write(decoder.decode(b"", final=True).encode())
    except UnicodeDecodeError as error:
        row += error.object.count(b"\n", 0, error.start)
        byte = f"byte {error.object[error.start]:#04x}"
        raise UserError(f"{where}, row {row}: {byte} is not {encoding}") from None
    fresh.replace(path)
