"""Unpack archives without trusting them."""

import errno
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from llm.errors import UserError
from tasks.data.compression import BROKEN, SUFFIXES, decompressed, open_plain

ZIP = (".zip", ".whl")
TAR = (".tar", ".tgz", ".tbz2", ".txz", ".tzst", *(f".tar{suffix}" for suffix in SUFFIXES))
OFFICE = (".docx", ".epub", ".odp", ".ods", ".odt", ".pptx", ".xlsx")  # zip files, but no archives of data
MAX_BYTES = 16 * 2**30  # an archive that unpacks to more counts as a bomb
READ = 16 * MAX_BYTES  # bytes of all members of a tar, which has to be read from its beginning
MEMBERS = 2_000_000  # members of an archive
HEADER = 2**20  # bytes of a tar's long name
CHUNK = 2**20
UNREADABLE = (
    *BROKEN,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    struct.error,
    ValueError,
)


class Member(NamedTuple):
    """A member of a tar or a zip."""

    name: str
    size: int
    """In bytes, as the archive declares it."""
    is_folder: bool
    is_file: bool
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar, compressed or not, by its name or its first bytes."""
    name = path.name.lower()
    if name.endswith((*ZIP, *TAR)):
        return True
    if name.endswith(OFFICE):
        raise UserError(f"{path}: a document of an office program; save it as .csv, .txt or .html")
    if _is_zip(path):
        return True
    try:
        with open_plain(path) as file:
            return file.read(262)[257:] == b"ustar"
    except UserError:  # reading it raises the error
        return False


LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)  # headers with a name


class _Header(tarfile.TarInfo):
    """A member's header with a bound on its length: tarfile reads a long name into memory.

    An unreadable header is an error here; tarfile would treat it as the end of the archive.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """The next member.

        Raises EOFHeaderError at the zeros that end a tar, EmptyHeaderError at the end of one without them, and
        ReadError for an invalid header.
        """
        try:
            return super().fromtarfile(archive)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):
            raise
        except tarfile.TruncatedHeaderError:
            raise tarfile.ReadError("it is cut in the middle of a header; pack it again") from None
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"a damaged header: {error}") from None

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in LONG and self.size > HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)


def _is_zip(path: Path) -> bool:
    name = path.name.lower()
    with path.open("rb") as file:
        return name.endswith(ZIP) or (not name.endswith(TAR) and file.read(4) in (b"PK\x03\x04", b"PK\x05\x06"))


def bar(name: str, **options: Any) -> tqdm:
    """Progress, on a terminal."""
    return tqdm(desc=name, disable=None, leave=False, **options)


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[Member]]:
    """The members in the archive's order. Open a member of a tar before you ask for the next one."""
    if _is_zip(archive):
        with zipfile.ZipFile(archive) as file:
            yield (_of_zip(file, info) for info in file.infolist())
    else:
        with (
            archive.open("rb") as whole,
            decompressed(whole) as plain,
            tarfile.open(fileobj=plain, mode="r|", tarinfo=_Header) as file,
        ):
            yield (_of_tar(file, info) for info in _one_by_one(file))


def _of_zip(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    return Member(
        name=info.filename,
        size=info.file_size,
        is_folder=info.is_dir(),
        is_file=stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG),
        open=partial(file.open, info),
    )


def _of_tar(file: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    return Member(
        name=info.name,
        size=info.size,
        is_folder=info.isdir(),
        is_file=info.isreg(),
        open=partial(file.extractfile, info),
    )


def _one_by_one(file: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, one at a time; tarfile itself would keep all of them in memory."""
    for member in file:
        file.members.clear()
        yield member


def _target(archive: Path, member: Member, folder: Path) -> Path:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name or not path.parts:
        raise UserError(f"{archive.name}: member {member.name!r} would be written outside its folder")
    if not member.is_file:
        raise UserError(f"{archive.name}: member {member.name!r} is a link or a device, not a file")
    return folder / path


def _matches(member: Member, pattern: str) -> bool:
    return not member.is_folder and fnmatchcase(str(PurePosixPath(member.name)), pattern)


def unpack(archive: Path, pattern: str, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Write the members of a tar or zip whose whole path matches the glob `pattern` to the same paths below `folder`.

    No member has more bytes than it declares. Raises UserError, naming archive and member, for a member that would land
    outside `folder`, is a link or a device, or is there twice; for a member that would exceed `max_bytes` in all or the
    free space of the disk; if nothing matches; and if the archive can't be read.
    """
    most = min(max_bytes, shutil.disk_usage(folder if folder.exists() else folder.parent).free)
    is_zip = _is_zip(archive)
    count = 0
    matching = 0
    matching_bytes = 0
    read_bytes = 0
    try:
        with _members(archive) as members:
            for count, member in enumerate(bar(archive.name, iterable=members, unit="file"), 1):
                read_bytes += 0 if is_zip else member.size
                matches = _matches(member, pattern)
                if matches:
                    matching += 1
                    matching_bytes += member.size
                _check_size(archive, matching_bytes, most)
                _check_size(archive, read_bytes, READ)
                if count > MEMBERS:
                    raise UserError(f"{archive.name}: it has more than {MEMBERS:,} members")
                if matches:
                    _write(archive, member, _target(archive, member, folder))
    except UserError:
        raise
    except (*UNREADABLE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{archive.name}: not readable as an archive: {error}") from None
    if not matching:
        raise UserError(f"{archive.name}: none of its {count} members matches files: {pattern}")


def _check_size(archive: Path, size: int, most: int) -> None:
    if size > most:
        raise UserError(f"{archive.name}: its files are {size:,} bytes or more, over {most:,}")


def _write(archive: Path, member: Member, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, target.open("xb") as file:
            shutil.copyfileobj(source, file, CHUNK)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise UserError(f"{archive.name}: member {member.name!r} is there twice, as a file or as a folder") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise UserError(f"{archive.name}: member {member.name[:100]!r}… has too long a name") from None
