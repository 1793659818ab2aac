import os
import shutil
import tarfile
from types import SimpleNamespace

import pytest
from archive_files import files_below, link, make_tar, make_zip

from llm.errors import UserError
from tasks.data.archives import unpack
from tasks.data.compression import zstd

TEN = {f"{number}.txt": b"text" * 200 for number in range(10)}
DEVICE = tarfile.TarInfo("null")
DEVICE.type = tarfile.CHRTYPE


@pytest.fixture
def out(tmp_path):
    """A folder to unpack to, not the outermost."""
    folder = tmp_path / "inside/out"
    folder.mkdir(parents=True)
    return folder


def make(path, files):
    return make_zip(path, files) if path.suffix == ".zip" else make_tar(path, files)


def zip_that_declares_less(path):
    """A zip of 3 MB that declares 1 kB."""
    content = make_zip(path, {"a": b"\0" * 3_000_000}).read_bytes()
    declared = (3_000_000).to_bytes(4, "little")
    assert content.count(declared) == 2
    path.write_bytes(content.replace(declared, (1_000).to_bytes(4, "little")))
    return path


def tar_with_corrupt_header(path):
    content = bytearray(make_tar(path, dict.fromkeys(TEN, b"text")).read_bytes())
    content[4 * 1024 + 3] ^= 1  # of the fifth member
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/evil.txt"])
@pytest.mark.parametrize("suffix", [".tgz", ".zip"])
def test_member_that_would_leave_its_folder_is_refused(tmp_path, out, name, suffix):
    archive = make(tmp_path / f"bad{suffix}", {"good.txt": b"", name: b"evil"})
    with pytest.raises(UserError, match=rf"^bad{suffix}: .*evil\.txt"):
        unpack(archive, "*", out)
    assert files_below(tmp_path) == [f"bad{suffix}", "inside/out/good.txt"]


@pytest.mark.parametrize("member", [link("passwd", "/etc/passwd"), DEVICE])
def test_links_and_devices_are_refused_unless_no_pattern_matches_them(tmp_path, out, member):
    archive = make_tar(tmp_path / "bad.tar", {"./data/a.txt": b"one"}, member)
    with pytest.raises(UserError, match=rf"^bad\.tar: .*'{member.name}' is a link or a device"):
        unpack(archive, "*", out)
    unpack(archive, "data/*.txt", out)
    assert files_below(out) == ["data/a.txt"]


@pytest.mark.parametrize("suffix", [".tgz", ".zip"])
def test_member_over_the_free_space_of_the_disk_is_refused(tmp_path, out, suffix, monkeypatch):
    archive = make(tmp_path / f"bomb{suffix}", {"a.txt": b"\0" * 1_000_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=999_999))
    with pytest.raises(UserError, match=rf"^bomb{suffix}: .*'a.txt' has 1,000,000 bytes"):
        unpack(archive, "*", out)
    assert files_below(out) == []


@pytest.mark.parametrize(
    ("name", "make_bad"), [("bomb.zip", zip_that_declares_less), ("a.tar", tar_with_corrupt_header)]
)
def test_corrupt_archive_is_an_error_and_writes_no_more_than_it_declares(tmp_path, out, name, make_bad):
    with pytest.raises(UserError, match=rf"^{name}: can't be unpacked"):
        unpack(make_bad(tmp_path / name), "*", out)
    assert sum(path.stat().st_size for path in out.iterdir()) <= 1_000


@pytest.mark.parametrize("suffix", [".tgz", ".tar", ".zip"])
@pytest.mark.parametrize("share", [0.1, 0.7])
def test_truncated_archive_is_an_error(tmp_path, out, suffix, share):
    archive = make(tmp_path / f"cut{suffix}", TEN)
    os.truncate(archive, int(archive.stat().st_size * share))
    with pytest.raises(UserError, match=rf"^cut{suffix}: can't be unpacked"):
        unpack(archive, "*", out)


def test_archive_without_matching_members_is_an_error(tmp_path, out):
    with pytest.raises(UserError, match=r"^a\.tgz: .*\*\.csv"):
        unpack(make_tar(tmp_path / "a.tgz", TEN), "*.csv", out)


@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_tar_may_be_compressed_and_end_without_its_zeros(tmp_path, out, suffix):
    content = make_tar(tmp_path / "a.tar", dict.fromkeys(TEN, b"text")).read_bytes()[: 10 * 1024]
    archive = tmp_path / f"b.tar{suffix}"
    archive.write_bytes(zstd.compress(content) if suffix else content)
    unpack(archive, "*", out)
    assert files_below(out) == sorted(TEN)
