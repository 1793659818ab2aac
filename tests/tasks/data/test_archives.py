import shutil
import tarfile
import zipfile

import pytest
from archive_files import files_below, link, make_tar, make_zip

from llm.errors import UserError
from tasks.data import archives
from tasks.data.archives import unpack


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "..\\evil.txt"])
@pytest.mark.parametrize(("suffix", "make"), [(".tgz", make_tar), (".zip", make_zip)])
def test_a_member_that_would_leave_its_folder_is_refused(tmp_path, name, suffix, make):
    archive = make(tmp_path / f"bad{suffix}", {"good.txt": b"", name: b"evil"})
    (tmp_path / "out/in").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"^bad{suffix}: member .*evil\.txt' would be written outside its folder$"):
        unpack(archive, "*", tmp_path / "out/in")
    assert not [path for path in files_below(tmp_path) if "evil" in path]


def test_links_and_devices_are_refused(tmp_path):
    device = tarfile.TarInfo("null")
    device.type = tarfile.CHRTYPE
    for member in (link("passwd", "/etc/passwd"), device):
        archive = make_tar(tmp_path / "bad.tar", {}, member)
        with pytest.raises(UserError, match=rf"^bad\.tar: member '{member.name}' is a link or a device"):
            unpack(archive, "*", tmp_path)
    symlink = zipfile.ZipInfo("passwd")
    symlink.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr(symlink, "/etc/passwd")
    with pytest.raises(UserError, match=r"^bad\.zip: member 'passwd' is a link or a device"):
        unpack(tmp_path / "bad.zip", "*", tmp_path)


def test_links_that_no_pattern_asks_for_do_no_harm(tmp_path):
    archive = make_tar(tmp_path / "mixed.tar", {"./data/a.txt": b"one"}, link("latest", "/etc"))
    unpack(archive, "data/*.txt", tmp_path / "out")
    assert files_below(tmp_path / "out") == ["data/a.txt"]


@pytest.mark.parametrize(("suffix", "make"), [(".tgz", make_tar), (".zip", make_zip)])
def test_an_archive_that_declares_too_much_is_refused_before_it_writes_too_much(tmp_path, suffix, make):
    archive = make(tmp_path / f"bomb{suffix}", dict.fromkeys(("a.txt", "b.txt", "c.bin"), b"\x00" * 1000000))
    with pytest.raises(UserError, match=rf"^bomb{suffix}: its files are 3,000,000 bytes or more, over 2,000,000$"):
        unpack(archive, "*", tmp_path / "out", max_bytes=2_000_000)
    assert files_below(tmp_path / "out") == ["a.txt", "b.txt"]
    shutil.rmtree(tmp_path / "out")
    unpack(archive, "*.txt", tmp_path / "out", max_bytes=2_000_000)
    assert files_below(tmp_path / "out") == ["a.txt", "b.txt"]


def test_a_zip_that_holds_more_than_it_declares_writes_no_more_than_that(tmp_path):
    archive = make_zip(tmp_path / "bomb.zip", {"a": b"\0" * 3_000_000})
    content, declared = archive.read_bytes(), (3_000_000).to_bytes(4, "little")
    assert content.count(declared) == 2
    archive.write_bytes(content.replace(declared, (1_000).to_bytes(4, "little")))
    with pytest.raises(UserError, match=r"^bomb\.zip: not readable as an archive: Bad CRC-32"):
        unpack(archive, "*", tmp_path / "out", max_bytes=2_000)
    assert (tmp_path / "out/a").stat().st_size <= 1_000


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_tar_whose_name_is_a_bomb_is_refused(tmp_path, kind):
    header = tarfile.TarInfo("a")
    header.type, header.size = kind, 2**21
    (tmp_path / "bomb.tar").write_bytes(header.tobuf() + bytes(header.size))
    with pytest.raises(UserError, match=r"^bomb\.tar: not readable as an archive: a header of 2,097,152 bytes$"):
        unpack(tmp_path / "bomb.tar", "*", tmp_path / "out")


def test_members_that_no_pattern_asks_for_are_counted_too(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "READ", 1_000)
    monkeypatch.setattr(archives, "MEMBERS", 5)
    large = make_tar(tmp_path / "large.tar", {f"{number}.bin": bytes(600) for number in range(2)})
    with pytest.raises(UserError, match=r"^large\.tar: its files are 1,200 bytes or more, over 1,000$"):
        unpack(large, "*.txt", tmp_path / "out")
    many = make_tar(tmp_path / "many.tar", {f"{number}.bin": b"" for number in range(6)})
    with pytest.raises(UserError, match=r"^many\.tar: it has more than 5 members$"):
        unpack(many, "*.txt", tmp_path / "out")


@pytest.mark.parametrize("names", [("a.txt", "a.txt"), ("a", "a/b"), ("a/b", "a")])
@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(tmp_path, names, suffix):
    path = tmp_path / f"twice.{suffix}"
    with zipfile.ZipFile(path, "w") if suffix == "zip" else tarfile.open(path, "w") as archive:
        for name in names:
            archive.writestr(name, "text") if suffix == "zip" else archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError, match=rf"^twice\.{suffix}: member '{names[1]}' is there twice, as a file"):
        unpack(path, "*", tmp_path / "out")


def test_no_matching_member_and_a_broken_archive_are_errors(tmp_path):
    archive = make_tar(tmp_path / "a.tgz", {"a.txt": b"one", "b.txt": b"two"})
    with pytest.raises(UserError, match=r"^a\.tgz: none of its 2 members matches files: \*\.csv$"):
        unpack(archive, "*.csv", tmp_path)
    for name in ("cut.tgz", "cut.zip"):
        (tmp_path / name).write_bytes(archive.read_bytes()[:40])
        with pytest.raises(UserError, match=rf"^{name}: not readable as an archive"):
            unpack(tmp_path / name, "*", tmp_path)


def test_a_tar_that_is_cut_or_damaged_is_no_whole_one(tmp_path):
    archive = make_tar(tmp_path / "a.tar", {f"{number}.txt": b"text" for number in range(10)})
    content = archive.read_bytes()
    unpack(archive, "*", tmp_path / "whole")
    assert len(files_below(tmp_path / "whole")) == 10
    header = 4 * 1024  # of the fifth member
    flipped = content[: header + 3] + bytes([content[header + 3] ^ 1]) + content[header + 4 :]
    archive.write_bytes(flipped)
    with pytest.raises(UserError, match=r"^a\.tar: not readable as an archive: a damaged header: bad checksum$"):
        unpack(archive, "*", tmp_path / "damaged")
    for end in (6 * 1024 + 100, 6 * 1024 + 512):  # in a header, in a text
        archive.write_bytes(content[:end])
        with pytest.raises(UserError, match=r"^a\.tar: not readable as an archive: (it is cut|unexpected end)"):
            unpack(archive, "*", tmp_path / f"cut at {end}")
    with tarfile.open(tmp_path / "long.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("a" * 200))
    unpack(tmp_path / "long.tar", "*", tmp_path / "long")
    (tmp_path / "long.tar").write_bytes((tmp_path / "long.tar").read_bytes()[:1024])
    with pytest.raises(UserError, match=r"^long\.tar: not readable as an archive: "):
        unpack(tmp_path / "long.tar", "*", tmp_path / "cut")


def test_a_tar_may_end_without_the_zeros_that_some_programs_leave_out(tmp_path):
    archive = make_tar(tmp_path / "a.tar", {f"{number}.txt": b"text" for number in range(10)})
    archive.write_bytes(archive.read_bytes()[: 10 * 1024])
    unpack(archive, "*", tmp_path / "whole")
    assert len(files_below(tmp_path / "whole")) == 10
