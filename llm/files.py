"""Files that are there whole or not at all: a reader sees the old one or the new one, never half of one."""

import errno
import glob
import os
import secrets
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from llm.errors import UserFileError

FULL = (errno.ENOSPC, errno.EDQUOT)
ABANDONED = 3600
"""Seconds after its last change from which a temporary file is a killed writer's."""


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises UserFileError for one that is missing, can't be read or holds no text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _failed(path, "read", error) from None
    except UnicodeDecodeError as error:
        raise UserFileError(f"{path}: byte {error.object[error.start]:#04x} is not UTF-8") from None


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` as `atomic_file` does; text in UTF-8."""
    encoded = content.encode() if isinstance(content, str) else content
    with atomic_file(path) as file:
        file.write(encoded)


@contextmanager
def atomic_file(path: Path) -> Generator[BinaryIO]:
    """Yield a new file that replaces `path`, flushed to disk, when the block ends without an error.

    Each writer has a temporary name of its own in the folder of `path`; of several writers at once the last one wins.
    If the block raises, its file is removed and `path` stays as it was. A killed process leaves its file behind, and
    whoever writes `path` an hour later or more removes it. Raises UserFileError, naming `path` and the reason, where it
    can't be written: a full disk, a read-only folder.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        raise _failed(path, "written", error) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def append(path: Path, content: bytes, *, length: int) -> None:
    """Cut a file to `length` bytes and append `content`, flushed to disk. Raises UserFileError like `atomic_file`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.truncate(length)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _failed(path, "written", error) from None


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left."""
    latest = time.time() - ABANDONED
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):  # another writer may be removing it
            if partial.stat().st_mtime < latest:
                partial.unlink()


@contextmanager
def atomic_folder(path: Path) -> Generator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends well.

    When the block raises, the new folder is removed and `path` stays as it was. A process that is killed leaves the old
    folder or the new one, whole: where it died between them the next call puts back the old one, and it removes what is
    left over. Raises UserFileError, naming `path`, for a full disk, where no folder can be made here, and where another
    writer of `path` is at work.
    """
    partial = path.with_name(f".{path.name}.partial")
    aside = path.with_name(f".{path.name}.old")
    with _only_writer(path):
        try:
            _settle(path, partial, aside)
            partial.mkdir()
        except OSError as error:
            raise _failed(path, "written", error) from None
        try:
            yield partial
            _swap(path, partial, aside)
        except OSError as error:
            if error.errno in FULL and not isinstance(error, UserFileError):
                full = error.filename2 or error.filename or path  # the first is the target of a copy
                raise _failed(Path(full), "written", error) from None
            raise
        finally:
            _settle(path, partial, aside)


@contextmanager
def _only_writer(path: Path) -> Generator[None]:
    """Lock a folder, which need not exist. A killed process loses its lock; the next writer removes the lock's file."""
    file = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file).acquire(timeout=0)
    except Timeout:
        raise UserFileError(f"{path} can't be written: another process is writing it") from None
    except OSError as error:
        raise _failed(path, "written", error) from None
    with lock:
        try:
            yield
        finally:
            file.unlink(missing_ok=True)  # before the release; FileLock refuses a removed file


def _swap(path: Path, partial: Path, aside: Path) -> None:
    os.sync()  # one for all: fsync of each of 6,000 small files took 15 s
    try:
        if path.is_dir() and not path.is_symlink():
            path.replace(aside)
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        raise _failed(path, "written", error) from None


def _settle(path: Path, partial: Path, aside: Path) -> None:
    """Put back an old folder whose place is empty, and remove all else that a replacement left over."""
    if aside.exists() and not path.exists():
        aside.replace(path)
    shutil.rmtree(partial, ignore_errors=True)
    if aside.exists():
        aside.replace(partial)  # half removed it must not be put back
        shutil.rmtree(partial, ignore_errors=True)


def _failed(path: Path, what: str, error: OSError) -> UserFileError:
    failed = UserFileError(f"{path} can't be {what}: {os.strerror(error.errno) if error.errno else error}")
    failed.errno = error.errno
    return failed


def sync(path: Path) -> None:
    """Have the system write a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
