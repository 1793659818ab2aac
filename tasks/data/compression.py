"""Read compressed files as plain ones; their first bytes tell the compression."""

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from llm.errors import UserError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUFFIXES = (".gz", ".zst", ".xz", ".bz2")
BROKEN = (zlib.error, gzip.BadGzipFile, lzma.LZMAError, zstd.ZstdError, EOFError)


def _open_gzip(file: IO[bytes]) -> IO[bytes]:
    return gzip.GzipFile(fileobj=file)


def _open_zstd(file: IO[bytes]) -> IO[bytes]:
    return io.BufferedReader(zstd.ZstdFile(file), 2**20)


OPENERS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": _open_gzip,
    b"\x28\xb5\x2f\xfd": _open_zstd,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}
OPENERS |= {bytes([first]) + b"\x2a\x4d\x18": _open_zstd for first in range(0x50, 0x60)}  # pzstd's


def without_compression(name: str) -> str:
    """A file's name without the suffix of its compression."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def decompressed(file: IO[bytes]) -> IO[bytes]:
    """Open a file's content. Reading a damaged one raises one of BROKEN, or an OSError without errno."""
    start = file.read(max(map(len, OPENERS)))
    file.seek(0)
    for magic, opener in OPENERS.items():
        if start.startswith(magic):
            return opener(file)
    return file


@contextmanager
def open_plain(path: Path) -> Iterator[IO[bytes]]:
    """Open a file's bytes, decompressed. Reading raises UserError if they can't be decompressed."""
    with path.open("rb") as file:
        try:
            with decompressed(file) as plain:
                yield plain
        except (*BROKEN, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UserError(f"{path}: not readable as a compressed file: {error}") from None
