import errno

import pytest

from llm.files import atomic_folder, write_atomic


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    for content in ("old", b"new"):
        write_atomic(path, content)
    assert path.read_bytes() == b"new"
    assert names(path.parent) == {"a.txt"}


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "half\udc80")
    (tmp_path / ".a.txt.partial").mkdir()  # the temporary name is taken by what no file can replace
    with pytest.raises(IsADirectoryError):
        write_atomic(path, "new")
    assert path.read_text() == "old"


def test_a_folder_takes_the_place_of_the_old_one_when_the_block_ends_well(tmp_path):
    path = tmp_path / "out"
    for name in ("old", "new"):
        with atomic_folder(path) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / name).write_text(name)
    assert names(path / "deep") == {"new"}
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [True, False])
def test_a_block_that_raises_leaves_the_old_folder_and_nothing_of_the_new(tmp_path, error, before):
    path = tmp_path / "out"
    if before:
        path.mkdir()
        (path / "old").write_text("old")

    def write_half():
        with atomic_folder(path) as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert names(tmp_path) == ({"out"} if before else set())
    assert not before or names(path) == {"old"}


def test_a_full_disk_is_said_with_the_folder(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="out can't be written: No space left on device"), atomic_folder(tmp_path / "out"):
        raise full


def test_what_a_killed_process_left_is_cleared(tmp_path):
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "half").write_text("half")
    with atomic_folder(tmp_path / "out") as folder:
        assert names(folder) == set()
        (folder / "new").write_text("new")
    assert names(tmp_path) == {"out"}
    assert names(tmp_path / "out") == {"new"}


def test_a_file_in_the_way_of_a_folder_is_replaced_or_named(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError, match="out"), atomic_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "a file"
    assert names(tmp_path) == {"out"}
