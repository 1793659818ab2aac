"""The sources of a dataset: fetched, checked against a hash, and read without trusting them."""

import codecs
import io
import logging
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import unquote, urlsplit

from pydantic import StringConstraints, field_validator, model_validator

from llm.config import Config
from llm.errors import UserError
from tasks.data.archives import CHUNK, MAX_BYTES, TAR, ZIP, is_archive, unpack
from tasks.data.compression import open_plain, without_compression
from tasks.data.local import Found, digest, find_files
from tasks.data.remote import (
    NPM,
    PYPI,
    STORES,
    WILD,
    UnreachableError,
    before_wildcards,
    download,
    download_from_hub,
    download_from_store,
    npm_pack,
    pip_download,
    revision_of,
    wrong_hash,
)
from tasks.data.sniff import HEAD, PROSE, sniff, suffix_of

if TYPE_CHECKING:  # params.yaml is checked by these classes, and needs no Prefect
    from prefect.client.schemas.objects import State, TaskRun
    from prefect.tasks import Task

KNOWN = re.compile(
    rf"({NPM}|{PYPI}|hf:[\w./~-]+(:[\w.-]+)?(@[\w.-]+)?|https://.+|({'|'.join(STORES)})://.+|file:.+"
    r"|(?![A-Za-z][A-Za-z0-9+.-]*:).+)"
)
FORMS = "npm:NAME@VERSION, pypi:NAME==VERSION, hf:DATASET, https://…, s3://…, gs://… and paths of files, folders, globs"

logger = logging.getLogger(__name__)


class Source(Config):
    """One archive, file or folder that a dataset is made from; a text alone is its `source`."""

    source: str
    """`npm:NAME@VERSION` or `pypi:NAME==VERSION` with an exact version, `hf:DATASET[:CONFIG][@REVISION]`, `https://…`,
    `s3://…`, `gs://…`, or the path of a file, a folder or a glob, as it is or as `file:PATH`."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{64}$", to_lower=True)] | None = None
    """SHA-256 of the archive or the file, or of the list of a folder's files (tasks/data/local.py).

    Without it, nothing is checked. `threestage data check` prints it. A dataset of the hub has a revision.
    """
    files: str = "*"
    """A glob of the files of an archive or a folder to keep, on their whole path in it; `*` also matches `/`."""
    encoding: str | None = None
    """The encoding of its texts if it is not UTF-8, such as windows-1252: they are written as UTF-8."""
    name: str | None = None
    """The folder below data/raw/<dataset>/; by default the package's or the file's own name."""
    licence: str | None = None
    """The licence of its files, for the model card."""
    note: str | None = None
    """A remark for the model card, such as terms that the licence leaves open."""

    @model_validator(mode="before")
    @classmethod
    def _a_text_is_a_source(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("source")
    @classmethod
    def _is_known(cls, source: str) -> str:
        if not KNOWN.fullmatch(source):
            raise ValueError(f"sources are {FORMS}")
        if source.startswith("https:"):
            import httpx

            try:
                httpx.URL(source)
            except httpx.InvalidURL as error:
                raise ValueError(str(error)) from None
        return source

    @field_validator("encoding")
    @classmethod
    def _python_knows_it(cls, encoding: str | None) -> str | None:
        try:
            "".encode(encoding or "utf-8")  # some of Python's codecs turn bytes into bytes
            return encoding and codecs.lookup(encoding).name
        except LookupError:
            raise ValueError("it is to be one that Python knows") from None

    @field_validator("name")
    @classmethod
    def _is_one_folder(cls, name: str | None) -> str | None:
        if name is not None and (name.strip(".") == "" or "/" in name or "\\" in name):
            raise ValueError("a name is that of one folder")
        if name is not None and name.startswith("."):
            raise ValueError("hidden folders are not read; give it a name without the dot")
        return name

    @model_validator(mode="after")
    def _a_hub_has_revisions(self) -> Self:
        if self.sha256 and self.source.startswith("hf:"):
            raise ValueError(f"{self.source} has no sha256; pin it as hf:DATASET@REVISION")
        return self


def _kind_and_place(source: Source) -> tuple[str, str]:
    """The scheme, such as npm, and the rest."""
    kind, mark, rest = source.source.partition(":")
    if kind in ("npm", "pypi", "hf", "file") and mark:
        return kind, rest
    if rest.startswith("//") and kind in ("https", "http", *STORES):
        return kind, source.source
    return "file", source.source


def _may_pass(_task: "Task", _task_run: "TaskRun", state: "State") -> bool:
    return isinstance(state.result(raise_on_failure=False), UnreachableError)


def _path_in(kind: str, place: str) -> str:
    """The path in the place of a file: in its address or bucket, or on this machine."""
    if kind == "file":
        return place
    return unquote(urlsplit(place).path) if kind in ("https", "http") else place.partition("//")[2]


def source_name(source: Source) -> str:
    """The folder of a source below its dataset: its name, else the package without its scope, the file without its
    suffix, or the folder."""
    kind, rest = _kind_and_place(source)
    if source.name:
        return source.name
    match kind:
        case "npm":
            name = rest.rpartition("@")[0].rpartition("/")[2]
        case "pypi":
            name = rest.partition("==")[0].partition("[")[0]
        case "hf":
            name = PurePosixPath(rest.partition("@")[0].partition(":")[0]).name
        case _:
            path = _path_in(kind, rest)
            here = Path(path).expanduser() if kind == "file" else None
            is_glob = any(mark in path for mark in WILD) and not (here and here.exists())
            name = PurePosixPath(before_wildcards(path) if is_glob else path).name
            if not is_glob and not (here and here.is_dir()):
                known = max((s for s in (*ZIP, *TAR) if name.lower().endswith(s)), key=len, default="")
                bare = without_compression(name)
                name = name[: len(name) - len(known)] if known else bare.removesuffix(PurePosixPath(bare).suffix)
    if name.strip(".") == "":
        raise UserError(f"{source.source}: names no package, file or folder; give it a `name`")
    return name.lstrip(".")


def check_names(sources: list[Source]) -> None:
    """Raise UserError if two sources of a dataset would share a folder."""
    name, count = Counter(map(source_name, sources)).most_common(1)[0]
    if count > 1:
        clash = ", ".join(s.source for s in sources if source_name(s) == name)
        raise UserError(f"{clash}: all would be written to the folder {name}; keep one of them, or give them a `name`")


def check_globs(sources: list[Source], globs: Sequence[str]) -> None:
    """Raise UserError for a glob of rows, such as `books/*`, that begins with a folder of no source.

    Generated instructions have a source that is no path: a glob without a folder is not checked here.
    """
    names = [source_name(source) for source in sources]
    for glob in globs:
        folder, is_path, _ = re.split(r"[*?[]", glob, maxsplit=1)[0].partition("/")
        if is_path and folder not in names:
            raise UserError(f"{glob!r} fits no source; they are {', '.join(f'{name}/' for name in names)}")


def pinned(source: Source) -> Source:
    """The source, pinned to the hub's present commit if it is a dataset of the hub without one.

    Raises UnreachableError.
    """
    kind, place = _kind_and_place(source)
    if kind != "hf" or "@" in place or Path(place).exists():
        return source
    return source.model_copy(update={"source": f"{source.source}@{revision_of(place.partition(':')[0])}"})


def obtain(source: Source, scratch: Path) -> Found:
    """The path of a source's files: their own, or one in `scratch`. Raises UserError and UnreachableError."""
    kind, rest = _kind_and_place(source)
    match kind:
        case "npm":
            path = npm_pack(rest, scratch)
        case "pypi":
            path = pip_download(rest, source.sha256, scratch)
        case "hf":
            path = download_from_hub(rest, scratch)
        case "file":
            return find_files(rest, source.source)
        case "https" | "http":
            path = download(rest, scratch)
        case _:
            path = download_from_store(rest, scratch)
    return find_files(str(path), source.source)


@cache
def fetch_task() -> "Task":
    """`write_source` as a Prefect task, which tries again if a server does not answer."""
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    options = {"retries": 3, "retry_delay_seconds": [1, 4, 10], "retry_condition_fn": _may_pass}
    return task(write_source, task_run_name="{source.source}", cache_policy=NO_CACHE, **options)


def fetch_source(source: Source, folder: Path) -> dict[str, Any]:
    """Run `write_source` as a Prefect task. Raises as `write_source` does."""
    return fetch_task()(source, folder)


def write_source(source: Source, folder: Path) -> dict[str, Any]:
    """Write a source's files to `folder/<source_name>/` and return its name, number of files, bytes and sha256.

    Archives are unpacked, also those in a folder. Raises UserError (a wrong hash, a missing file or client, an archive
    that can't be trusted, a package that would have to be built) and UnreachableError when the source doesn't answer.
    """
    target = folder / source_name(source)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        found = obtain(source, Path(scratch))
        sha256 = digest(found)
        if source.sha256 and sha256 != source.sha256:
            raise wrong_hash(source.source, sha256, source.sha256)
        target.mkdir()
        if found.alone and is_archive(found.files[0]):
            unpack(found.files[0], source.files, target)
        else:
            _write_folder(found, source, target)
    if source.encoding:
        _recode(target, source)
    sizes = [file.stat().st_size for file in target.rglob("*") if file.is_file()]
    logger.info("%s: %d files, %.1f MB, sha256 %s", source.source, len(sizes), sum(sizes) / 1e6, sha256)
    return {"source": source.source, "files": len(sizes), "bytes": sum(sizes), "sha256": sha256}


def _write(file: Path, pattern: str, folder: Path, target: Path) -> None:
    """Unpack an archive into a folder, or copy a file to its target."""
    if is_archive(file):
        unpack(file, pattern, folder)
    else:
        shutil.copyfile(file, target)


def _write_folder(found: Found, source: Source, target: Path) -> None:
    kept = 0
    for file in found.files:
        path = file.relative_to(found.base)
        if fnmatchcase(path.as_posix(), source.files):
            kept += 1
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            _write(file, "*", target / path.with_name(f"{path.name}.unpacked"), target / path)
    if not kept:
        raise UserError(f"{source.source}: none of its {len(found.files)} files matches files: {source.files}")


def _is_written_in(path: Path, encoding: str) -> bool:
    """Whether to recode a file: mails declare their own charset; valid UTF-8 and files with NUL stay as they are."""
    form = sniff(path)
    if form in ("mbox", "parquet", "pdf") or (form == "eml" and suffix_of(path) not in PROSE):
        return False
    with open_plain(path) as file:
        if b"\0" in file.read(HEAD):
            return b"\0" in "a".encode(encoding)
    with open_plain(path) as file, io.TextIOWrapper(file, "utf-8") as text:
        try:
            pieces = [piece.isascii() for piece in iter(lambda: text.read(CHUNK), "")]
            return all(pieces)  # ASCII may be another encoding: ISO 2022 uses ASCII alone
        except UnicodeDecodeError:
            return True


def _recode(folder: Path, source: Source) -> None:
    for path in [path for path in folder.rglob("*") if path.is_file() and _is_written_in(path, source.encoding)]:
        decoder, row = codecs.getincrementaldecoder(source.encoding)(), 1
        fresh = path.with_name(f"{path.name}.utf-8")
        said = f"{source.source}: {path.relative_to(folder)}"
        try:
            with open_plain(path) as file, fresh.open("xb") as out:
                while piece := file.read(2**20):
                    out.write(decoder.decode(piece).encode())
                    row += piece.count(b"\n")
                    if out.tell() > MAX_BYTES:
                        raise UserError(f"{said} has more than {MAX_BYTES:,} bytes")
                out.write(decoder.decode(b"", final=True).encode())
        except UnicodeDecodeError as error:
            row += error.object.count(b"\n", 0, error.start)
            byte = f"byte {error.object[error.start]:#04x}"
            raise UserError(f"{said}, row {row}: {byte} is not {source.encoding}") from None
        fresh.replace(path)
