"""The sources of a dataset: fetched, checked against a hash, and read without trusting them."""

import logging
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import StringConstraints, field_validator, model_validator

from llm.config import Config
from llm.errors import UserError
from tasks.data.archives import TAR, ZIP, is_archive, unpack
from tasks.data.compression import without_compression
from tasks.data.local import SourceFiles, digest, find_files
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
)

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
        urlsplit(source)  # raises ValueError for an address such as https://[::1/x
        return source

    @field_validator("name")
    @classmethod
    def _is_one_folder(cls, name: str | None) -> str | None:
        if name is not None and (not name or name.startswith(".") or "/" in name):
            raise ValueError("a name is that of one folder, which is not hidden")
        return name


def _scheme_and_location(source: Source) -> tuple[str, str]:
    """The scheme, such as npm, and where the source is in it."""
    scheme, colon, location = source.source.partition(":")
    if scheme in ("npm", "pypi", "hf", "file") and colon:
        return scheme, location
    if location.startswith("//") and scheme in ("https", "http", *STORES):
        return scheme, source.source
    return "file", source.source


def _may_pass(_task: "Task[..., Any]", _task_run: "TaskRun", state: "State[Any]") -> bool:
    return isinstance(state.result(raise_on_failure=False), UnreachableError)


def _path_in(scheme: str, location: str) -> str:
    """The path of a file: in its address or bucket, or on this machine."""
    match scheme:
        case "file":
            return location
        case "https" | "http":
            return unquote(urlsplit(location).path)
    return location.partition("//")[2]


def source_name(source: Source) -> str:
    """The folder of a source below its dataset: its name, else the package without its scope, the file without its
    suffix, or the folder."""
    scheme, location = _scheme_and_location(source)
    if source.name:
        return source.name
    match scheme:
        case "npm":
            name = location.rpartition("@")[0].rpartition("/")[2]
        case "pypi":
            name = location.partition("==")[0].partition("[")[0]
        case "hf":
            name = PurePosixPath(location.partition("@")[0].partition(":")[0]).name
        case _:
            name = _name_of_path(_path_in(scheme, location), is_here=scheme == "file")
    if name.strip(".") == "":
        raise UserError(f"{source.source}: names no package, file or folder; give it a `name`")
    return name.lstrip(".")


def _name_of_path(path: str, *, is_here: bool) -> str:
    """The name of a folder, of the folder before a glob's wildcards, or of a file without its suffix."""
    here = Path(path).expanduser()
    if any(wildcard in path for wildcard in WILD) and not (is_here and here.exists()):
        return PurePosixPath(before_wildcards(path)).name
    name = PurePosixPath(path).name
    if is_here and here.is_dir():
        return name
    suffixes = [suffix for suffix in (*ZIP, *TAR) if name.lower().endswith(suffix)]
    if suffixes:
        return name[: -max(map(len, suffixes))]
    return PurePosixPath(without_compression(name)).stem


def check_names(sources: list[Source]) -> None:
    """Raise UserError if two sources of a dataset would share a folder."""
    name, count = Counter(map(source_name, sources)).most_common(1)[0]
    if count > 1:
        clash = ", ".join(source.source for source in sources if source_name(source) == name)
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
    scheme, location = _scheme_and_location(source)
    if scheme != "hf" or "@" in location or Path(location).exists():
        return source
    return source.model_copy(update={"source": f"{source.source}@{revision_of(location.partition(':')[0])}"})


def obtain(source: Source, scratch: Path) -> SourceFiles:
    """The path of a source's files: their own, or one in `scratch`. Raises UserError and UnreachableError."""
    scheme, location = _scheme_and_location(source)
    match scheme:
        case "npm":
            path = npm_pack(location, scratch)
        case "pypi":
            path = pip_download(location, source.sha256, scratch)
        case "hf":
            path = download_from_hub(location, scratch)
        case "file":
            return find_files(location, source.source)
        case "https" | "http":
            path = download(location, scratch)
        case _:
            path = download_from_store(location, scratch)
    return find_files(str(path), source.source)


@cache
def fetch_task() -> "Task[[Source, Path], dict[str, Any]]":
    """`write_source` as a Prefect task, which tries again if a server does not answer."""
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    as_task = task(
        task_run_name="{source.source}",
        cache_policy=NO_CACHE,
        retries=3,
        retry_delay_seconds=[1, 4, 10],
        retry_condition_fn=_may_pass,
    )
    return as_task(write_source)


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
        files = obtain(source, Path(scratch))
        sha256 = digest(files)
        if source.sha256 and sha256 != source.sha256:
            raise UserError(f"{source.source}: its sha256 is {sha256}, params.yaml expects {source.sha256}")
        target.mkdir()
        if files.is_single and is_archive(files.paths[0]):
            unpack(files.paths[0], source.files, target)
        else:
            _write_folder(files, source, target)
    sizes = [file.stat().st_size for file in target.rglob("*") if file.is_file()]
    size = f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"
    logger.info("%s: %s", source.source, f"{size}, sha256 {sha256}")
    return {"source": source.source, "files": len(sizes), "bytes": sum(sizes), "sha256": sha256}


def _write_folder(files: SourceFiles, source: Source, target: Path) -> None:
    """Copy files, and unpack archives among them, each into a folder of its own."""
    kept = 0
    for file in files.paths:
        path = file.relative_to(files.base)
        if not fnmatchcase(path.as_posix(), source.files):
            continue
        kept += 1
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        if is_archive(file):
            unpack(file, "*", target / path.with_name(f"{path.name}.unpacked"))
        else:
            shutil.copyfile(file, target / path)
    if not kept:
        raise UserError(f"{source.source}: none of its {len(files.paths)} files matches files: {source.files}")
