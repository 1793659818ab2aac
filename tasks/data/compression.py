"""Read compressed files as plain ones; their suffix tells the compression."""

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Generator
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


def without_compression(name: str) -> str:
    """A file's name without the suffix of its compression."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def _open(path: Path) -> IO[bytes]:
    match path.suffix.lower():
        case ".gz" | ".tgz":
            return io.BufferedReader(gzip.open(path))
        case ".zst" | ".tzst":
            return io.BufferedReader(zstd.open(path), 2**20)
        case ".xz" | ".txz":
            return lzma.open(path)
        case ".bz2" | ".tbz2":
            return bz2.open(path)
    return path.open("rb")


@contextmanager
def open_plain(path: Path) -> Generator[IO[bytes]]:
    """Open a file's bytes, decompressed. Reading raises UserError if they can't be decompressed."""
    with _open(path) as file:
        try:
            yield file
        except (*BROKEN, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UserError(f"{path}: not readable as a compressed file: {error}") from None
