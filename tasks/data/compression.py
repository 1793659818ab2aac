"""Read compressed files as plain ones; their suffix tells the compression."""

import bz2
import gzip
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
OPENERS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    **dict.fromkeys((".gz", ".tgz"), gzip.open),
    **dict.fromkeys((".zst", ".tzst"), zstd.open),
    **dict.fromkeys((".xz", ".txz"), lzma.open),
    **dict.fromkeys((".bz2", ".tbz2"), bz2.open),
}
BROKEN = (zlib.error, gzip.BadGzipFile, lzma.LZMAError, zstd.ZstdError, EOFError)


def without_compression(name: str) -> str:
    """A file's name without the suffix of its compression."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


@contextmanager
def open_plain(path: Path) -> Iterator[IO[bytes]]:
    """Open a file's bytes, decompressed. Reading raises UserError if they can't be decompressed."""
    opener = OPENERS.get(path.suffix.lower())
    with path.open("rb") as file:
        try:
            with opener(file) if opener else file as plain:
                yield plain
        except (*BROKEN, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UserError(f"{path}: not readable as a compressed file: {error}") from None
