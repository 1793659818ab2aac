"""Unpack archives without trusting them."""

import lzma
import shutil
import tarfile
import zipfile
import zlib
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from tarfile import ReadError
from typing import Any, Self

from llm.errors import UserError
from tasks.data.compression import COMPRESSIONS, TARS, open_plain
from tasks.stages.progress_bar import ProgressBar

ZIP = (".zip", ".whl")
TAR = (".tar", *TARS, *(f".tar{suffix}" for suffix in COMPRESSIONS))
OFFICE = (".docx", ".epub", ".odp", ".ods", ".odt", ".pptx", ".xlsx")  # zip files, but no archives of data
CHUNK = 2**20
UNREADABLE = (OSError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
# pyrefly: ignore[missing-attribute]: typeshed's tarfile has no subclasses of HeaderError
DAMAGED = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError)
UNSUPPORTED = (NotImplementedError, RuntimeError)  # a zip's compression that Python lacks, or a password


class _Header(tarfile.TarInfo):
    """A member's header, which is an error if it is damaged: tarfile takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except DAMAGED as error:
            raise ReadError(f"a damaged header: {error}") from None


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar, compressed or not, by its name."""
    name = path.name.lower()
    if name.endswith(OFFICE):
        raise UserError(f"{path}: a document of an office program; save it as .csv, .txt or .html")
    return name.endswith((*ZIP, *TAR))


def bar(name: str, **options: Any) -> ProgressBar:
    """Progress that leaves no bar behind."""
    return ProgressBar(desc=name, leave=False, **options)


def unpack(archive: Path, pattern: str, folder: Path) -> None:
    """Write the files of a tar or zip whose whole path matches the glob `pattern` to the same paths below `folder`.

    Raises UserError, naming archive and member, for a member that would land outside `folder`, is a link or a device,
    or exceeds the free space of the disk; if nothing matches; and if the archive can't be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        is_zip = archive.name.lower().endswith(ZIP)
        count = _unpack_zip(archive, pattern, folder) if is_zip else _unpack_tar(archive, pattern, folder)
    except UserError:
        raise
    except (*UNREADABLE, *UNSUPPORTED) as error:
        raise UserError(f"{archive.name}: not readable as an archive: {error}") from None
    if not count:
        raise UserError(f"{archive.name}: none of its members matches files: {pattern}")


def _unpack_zip(archive: Path, pattern: str, folder: Path) -> int:
    """Returns the number of files that match."""
    count = 0
    with zipfile.ZipFile(archive) as file:
        for member in bar(archive.name, iterable=file.infolist(), unit="file"):
            if not member.is_dir() and _matches(member.filename, pattern):
                _check_member(archive, member.filename, size=member.file_size, folder=folder)
                file.extract(member, folder)
                count += 1
    return count


def _unpack_tar(archive: Path, pattern: str, folder: Path) -> int:
    """Returns the number of files that match."""
    count = 0
    with open_plain(archive) as plain, tarfile.open(fileobj=plain, mode="r|", tarinfo=_Header) as file:
        for member in bar(archive.name, iterable=file, unit="file"):
            if not member.isdir() and _matches(member.name, pattern):
                _check_member(archive, member.name, size=member.size, folder=folder)
                if not member.isreg():
                    raise UserError(f"{archive.name}: member {member.name!r} is a link or a device, not a file")
                file.extract(member, folder, filter="data")
                count += 1
    return count


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(str(PurePosixPath(name)), pattern)


def _check_member(archive: Path, name: str, *, size: int, folder: Path) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{archive.name}: member {name!r} would be written outside its folder")
    if size > shutil.disk_usage(folder).free:
        raise UserError(f"{archive.name}: member {name!r} has {size:,} bytes, more than the disk has free")
