"""Unpack archives without trusting them."""

import lzma
import re
import shutil
import sys
import zipfile
import zlib
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Self

from llm.errors import UserError

if sys.version_info >= (3, 14):
    import tarfile
else:  # Python's own reads no .tar.zst
    from backports.zstd import tarfile

ARCHIVE = re.compile(r"\.(zip|whl|tgz|tbz2|txz|tzst|tar(\.(gz|bz2|xz|zst))?)$", re.IGNORECASE)
OFFICE = (".docx", ".epub", ".odp", ".ods", ".odt", ".pptx", ".xlsx")  # zip files, but no archives of data
BROKEN = (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
LOCKED = RuntimeError  # a zip with a password, or of a compression that Python lacks
# pyrefly: ignore[missing-attribute]: typeshed's tarfile has no subclasses of HeaderError
DAMAGED = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError)


class _Header(tarfile.TarInfo):
    """A member's header, which is an error if it is damaged: tarfile takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except DAMAGED as error:
            raise UserError(f"a damaged header: {error}") from None


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar, compressed or not, by its name. Raises UserError for an office document."""
    if path.name.lower().endswith(OFFICE):
        raise UserError(f"{path}: a document of an office program; save it as .csv, .txt or .html")
    return ARCHIVE.search(path.name) is not None


def unpack(archive: Path, pattern: str, folder: Path) -> None:
    """Write the files of a tar or zip whose whole path matches the glob `pattern` to the same paths below `folder`.

    Raises UserError, naming archive and member, for a member that would land outside `folder`, is a link or a device,
    or exceeds the free space of the disk; if nothing matches; and if the archive can't be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if archive.name.lower().endswith((".zip", ".whl")):
            _unpack_zip(archive, pattern, folder)
        else:
            _unpack_tar(archive, pattern, folder)
    except (*BROKEN, LOCKED, UserError) as error:
        raise UserError(f"{archive.name}: can't be unpacked: {error}") from None
    if not any(folder.iterdir()):
        raise UserError(f"{archive.name}: none of its members matches files: {pattern}")


def _unpack_zip(archive: Path, pattern: str, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if not member.is_dir() and _is_wanted(member.filename, pattern, size=member.file_size, folder=folder):
                file.extract(member, folder)


def _unpack_tar(archive: Path, pattern: str, folder: Path) -> None:
    with tarfile.open(archive, "r|*", tarinfo=_Header) as file:
        for member in file:
            if not member.isdir() and _is_wanted(member.name, pattern, size=member.size, folder=folder):
                if not member.isreg():
                    raise UserError(f"member {member.name!r} is a link or a device, not a file")
                file.extract(member, folder, filter="data")


def _is_wanted(name: str, pattern: str, *, size: int, folder: Path) -> bool:
    """Whether a member matches the pattern. Raises UserError for one that would leave the folder or fill the disk."""
    path = PurePosixPath(name)
    if not fnmatchcase(str(path), pattern):
        return False
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"member {name!r} would be written outside its folder")
    if size > shutil.disk_usage(folder).free:
        raise UserError(f"member {name!r} has {size:,} bytes, more than the disk has free")
    return True
