import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from archive_files import files_below
from pydantic import ValidationError

from llm.errors import UserError, UserFileError
from tasks.data.files import raw_files
from tasks.data.local import find_files
from tasks.data.sources import Source, source_name, write_source


def test_source_may_be_a_path_alone(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one")
    fetched = write_source(Source.model_validate(str(tmp_path / "a.txt")), tmp_path)
    digest = hashlib.sha256(b"one").hexdigest()
    assert fetched["sha256"] == Source(source="a.txt", sha256=digest.upper()).sha256 == digest
    assert (tmp_path / "a/a.txt").read_bytes() == b"one"


def test_hash_of_a_folder_is_that_of_the_list_that_sha256sum_prints(tmp_path):
    mine = tmp_path / "mine"
    for name in ("a.md", "b/c.md", ".hidden", ".git/HEAD"):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text(name)
    listed = subprocess.run("sha256sum a.md b/c.md", shell=True, cwd=mine, capture_output=True, check=True)
    source = Source(source=str(mine), sha256=hashlib.sha256(listed.stdout).hexdigest(), name="notes")
    assert write_source(source, tmp_path)["files"] == 2
    assert files_below(tmp_path / "notes") == ["a.md", "b/c.md"]
    (mine / "a.md").write_text("changed")
    with pytest.raises(UserError, match=r"mine: its sha256 is .*, params.yaml expects "):
        write_source(source, tmp_path)


def test_folder_without_matching_files_is_an_error(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserFileError, match=r"mine: no file is there$"):
        write_source(Source(source=str(tmp_path / "mine"), name="a"), tmp_path)
    (tmp_path / "mine/a.md").touch()
    with pytest.raises(UserError, match=r"mine: none of its 1 files matches files: \*\.txt$"):
        write_source(Source(source=str(tmp_path / "mine"), files="*.txt", name="b"), tmp_path)


def test_glob_with_a_wildcard_below_the_root_is_read(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/x.csv").write_text("a")
    first = Path(*tmp_path.parts[:2]).as_posix()[:-1] + "*"
    glob = "/".join([first, *tmp_path.parts[2:], "data*/x.csv"])
    files = find_files(glob, glob)
    assert [file.resolve() for file in files.paths] == [(tmp_path / "data/x.csv").resolve()]


def test_corrupt_glob_is_named_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    glob = "data/**.csv"
    reason = "data/\\*\\*\\.csv: " + ("Invalid pattern" if sys.version_info < (3, 13) else "no file")
    with pytest.raises(UserError, match=reason):
        find_files(glob, glob)


def test_file_name_that_is_no_utf_8_is_an_error(tmp_path):
    (tmp_path / b"caf\xe9.txt".decode(errors="surrogateescape")).write_text("a")
    with pytest.raises(UserError, match=r"the name 'caf.*\.txt' is no UTF-8; rename it$"):
        raw_files(tmp_path)


def test_link_to_a_file_is_followed_and_to_a_folder_is_not(tmp_path):
    for name in ("mine/2022/a.txt", "elsewhere/b.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "mine/latest").symlink_to("2022")
    (tmp_path / "mine/gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "mine/b.txt").symlink_to(tmp_path / "elsewhere/b.txt")
    write_source(Source(source=str(tmp_path / "mine"), name="out"), tmp_path)
    assert files_below(tmp_path / "out") == ["2022/a.txt", "b.txt"]


def test_hidden_files_and_pointers_of_dvc_are_no_data(tmp_path):
    visible = ["a.md", "spam/cur/1", "tmp/b.md"]
    hidden = [".git/HEAD", "b/.ipynb_checkpoints/a.md", ".c.md", "spam/.Old/cur/3", "a.md.dvc"]
    for name in visible + hidden:
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(name)
    assert [str(path.relative_to(tmp_path / "mine")) for path in raw_files(tmp_path / "mine")] == visible
    write_source(Source(source=str(tmp_path / "mine"), name="out"), tmp_path)
    assert files_below(tmp_path / "out") == visible


def test_hidden_file_is_refused_and_hidden_folder_loses_its_dot(tmp_path):
    (tmp_path / ".notes").mkdir()
    (tmp_path / ".notes/a.txt").write_text("one")
    write_source(Source(source=str(tmp_path / ".notes")), tmp_path)
    assert [path.name for path in raw_files(tmp_path) if path.parent.name == "notes"] == ["a.txt"]
    (tmp_path / ".a.txt").write_text("one")
    with pytest.raises(UserError, match=r"\.a\.txt: hidden files are not read; call it a\.txt$"):
        write_source(Source(source=str(tmp_path / ".a.txt")), tmp_path)
    with pytest.raises(ValidationError, match="a name is that of one folder, which is not hidden"):
        Source(source="a.txt", name=".a")


def test_file_with_a_wildcard_in_its_name_is_read(tmp_path):
    (tmp_path / "mails [old].csv").write_text("label,body\nham,a\n")
    source = Source(source=str(tmp_path / "mails [old].csv"))
    assert source_name(source) == "mails [old]"
    assert write_source(source, tmp_path)["files"] == 1


def test_files_glob_applies_to_a_single_file(tmp_path):
    (tmp_path / "one.txt").write_text("one")
    assert write_source(Source(source=str(tmp_path / "one.txt"), files="*.txt"), tmp_path)["files"] == 1
    with pytest.raises(UserError, match=r"one\.txt: none of its 1 files matches files: \*\.md$"):
        write_source(Source(source=str(tmp_path / "one.txt"), files="*.md", name="again"), tmp_path)
