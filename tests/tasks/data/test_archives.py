import shutil
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from archive_files import files_below, link, make_tar, make_zip

from llm.errors import UserError
from tasks.data.archives import unpack


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder to unpack to, not the outermost."""
    folder = tmp_path / "inside/out"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/evil.txt"])
@pytest.mark.parametrize(("suffix", "make"), [(".tgz", make_tar), (".zip", make_zip)])
def test_member_that_would_leave_its_folder_is_refused(tmp_path, out, name, suffix, make):
    archive = make(tmp_path / f"bad{suffix}", {"good.txt": b"", name: b"evil"})
    with pytest.raises(UserError, match=rf"^bad{suffix}: member .*evil\.txt' would be written outside its folder$"):
        unpack(archive, "*", out)
    assert files_below(tmp_path) == [f"bad{suffix}", "inside/out/good.txt"]


def test_links_and_devices_are_refused(tmp_path, out):
    device = tarfile.TarInfo("null")
    device.type = tarfile.CHRTYPE
    for member in (link("passwd", "/etc/passwd"), device):
        archive = make_tar(tmp_path / "bad.tar", {}, member)
        with pytest.raises(UserError, match=rf"^bad\.tar: member '{member.name}' is a link or a device"):
            unpack(archive, "*", out)
    assert list(out.iterdir()) == []


def test_symbolic_link_of_a_zip_becomes_no_link(tmp_path, out):
    symlink = zipfile.ZipInfo("passwd")
    symlink.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr(symlink, "/etc/passwd")
    unpack(tmp_path / "bad.zip", "*", out)
    assert not (out / "passwd").is_symlink()


def test_links_that_no_pattern_matches_are_ignored(tmp_path, out):
    archive = make_tar(tmp_path / "mixed.tar", {"./data/a.txt": b"one"}, link("latest", "/etc"))
    unpack(archive, "data/*.txt", out)
    assert files_below(out) == ["data/a.txt"]


@pytest.mark.parametrize(("suffix", "make"), [(".tgz", make_tar), (".zip", make_zip)])
def test_member_over_the_free_space_of_the_disk_is_refused(tmp_path, out, suffix, make, monkeypatch):
    archive = make(tmp_path / f"bomb{suffix}", {"a.txt": b"\0" * 1_000_000})
    usage = SimpleNamespace(free=999_999)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=rf"^bomb{suffix}: member 'a.txt' has 1,000,000 bytes, more than the disk has"):
        unpack(archive, "*", out)
    assert files_below(out) == []


def test_zip_that_holds_more_than_it_declares_writes_no_more_than_that(tmp_path, out):
    archive = make_zip(tmp_path / "bomb.zip", {"a": b"\0" * 3_000_000})
    declared = (3_000_000).to_bytes(4, "little")
    content = archive.read_bytes()
    assert content.count(declared) == 2
    archive.write_bytes(content.replace(declared, (1_000).to_bytes(4, "little")))
    with pytest.raises(UserError, match=r"^bomb\.zip: not readable as an archive: Bad CRC-32"):
        unpack(archive, "*", out)
    assert (out / "a").stat().st_size <= 1_000


def test_archive_without_matching_members_is_an_error(tmp_path, out):
    archive = make_tar(tmp_path / "a.tgz", {"a.txt": b"one", "b.txt": b"two"})
    with pytest.raises(UserError, match=r"^a\.tgz: none of its members matches files: \*\.csv$"):
        unpack(archive, "*.csv", out)


@pytest.mark.parametrize(("suffix", "make"), [(".tgz", make_tar), (".tar", make_tar), (".zip", make_zip)])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
def test_truncated_archive_is_an_error(tmp_path, out, suffix, make, share):
    archive = make(tmp_path / f"cut{suffix}", {f"{number}.txt": b"text" * 200 for number in range(10)})
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=rf"cut{suffix}: not readable as "):
        unpack(archive, "*", out)


def test_corrupt_header_of_a_tar_is_an_error(tmp_path, out):
    archive = make_tar(tmp_path / "a.tar", {f"{number}.txt": b"text" for number in range(10)})
    content = bytearray(archive.read_bytes())
    content[4 * 1024 + 3] ^= 1  # in the header of the fifth member
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"^a\.tar: not readable as an archive: a damaged header: bad checksum$"):
        unpack(archive, "*", out)


def test_tar_may_end_without_its_zeros(tmp_path, out):
    archive = make_tar(tmp_path / "a.tar", {f"{number}.txt": b"text" for number in range(10)})
    archive.write_bytes(archive.read_bytes()[: 10 * 1024])
    unpack(archive, "*", out)
    assert len(files_below(out)) == 10
