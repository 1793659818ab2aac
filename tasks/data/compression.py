"""Read compressed files as plain ones; their suffix tells the compression."""

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from llm.errors import UserError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSIONS = {".gz": gzip.open, ".zst": zstd.open, ".xz": lzma.open, ".bz2": bz2.open}
TARS = {".tgz": gzip.open, ".tzst": zstd.open, ".txz": lzma.open, ".tbz2": bz2.open}
BROKEN = (zlib.error, gzip.BadGzipFile, lzma.LZMAError, zstd.ZstdError, EOFError)


def without_compression(name: str) -> str:
    """A file's name without the suffix of its compression."""
    suffix = PurePath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in COMPRESSIONS else name


@contextmanager
def open_plain(path: Path) -> Generator["io.BufferedReader[Any]"]:
    """Open a file's bytes, decompressed. Reading raises UserError if they can't be decompressed."""
    opener = {**COMPRESSIONS, **TARS}.get(path.suffix.lower(), open)
    with io.BufferedReader(opener(path, "rb"), 2**20) as file:
        try:
            yield file
        except (*BROKEN, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UserError(f"{path}: not readable as a compressed file: {error}") from None
