import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm.errors import UserFileError
from llm.files import ABANDONED, atomic_file, atomic_folder, read_text, write_atomic

ROOT = Path(__file__).parents[2]


def run_python(code: str, *arguments: str, folder: Path) -> int:
    """The exit code of a process of its own."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_atomic_file_is_replaced_whole_and_has_the_permissions_of_the_umask(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    before = os.umask(0o027)
    try:
        for content in ("old", b"new"):
            write_atomic(path, content)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert names(path.parent) == {"a.txt"}


def test_atomic_file_that_cannot_be_written_stays_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with atomic_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserFileError, match=r"folder can't be written: Is a directory$"):
        write_atomic(tmp_path / "folder", "new")
    assert names(tmp_path) == {"a.txt", "folder"}


def test_atomic_writers_of_one_file_at_once_never_mix(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_file(path) as file:
        file.write(b"first, ")
        file.flush()
        write_atomic(path, "second")
        assert path.read_text() == "second"
        file.write(b"whole")
    assert path.read_text() == "first, whole"
    assert names(tmp_path) == {"a.txt"}


def test_temporary_files_of_killed_writers_are_removed_by_a_writer_of_the_same_file_an_hour_later(tmp_path):
    code = "import os; from pathlib import Path; from llm.files import atomic_file\n"
    run_python(code + "with atomic_file(Path('a[1].txt')) as file: os._exit(9)", folder=tmp_path)
    (abandoned,) = tmp_path.iterdir()
    write_atomic(tmp_path / "a[1].txt", "new")
    assert names(tmp_path) == {abandoned.name, "a[1].txt"}
    os.utime(abandoned, times=(0, time.time() - ABANDONED - 1))
    write_atomic(tmp_path / "another.txt", "new")
    assert abandoned.exists()
    write_atomic(tmp_path / "a[1].txt", "new")
    assert names(tmp_path) == {"another.txt", "a[1].txt"}


def test_second_writer_of_an_atomic_folder_is_refused_until_the_first_ends(tmp_path):
    path = tmp_path / "out"
    message = rf"^{path} can't be written: another process is writing it$"
    with atomic_folder(path) as folder:
        (folder / "first").touch()
        with pytest.raises(UserFileError, match=message), atomic_folder(path):
            pass
        assert run_python("from llm.files import *\nwith atomic_folder(Path('out')): pass", folder=tmp_path) == 1
    assert names(path) == {"first"}
    with atomic_folder(path) as folder:
        (folder / "second").touch()
    assert names(path) == {"second"}
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "^$"),
        (InterruptedError("stopped"), "^stopped$"),
        (OSError(errno.ENOSPC, ""), r"out can't be written: No space left on device$"),
        (OSError(errno.ENOSPC, "", "out/a", None, "out/b"), r"^out/b can't be written: No space left on device$"),
        (OSError(errno.EDQUOT, ""), r"out can't be written: "),
        (UserFileError("a.txt can't be written: No space left on device"), r"^a\.txt can't"),
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_atomic_folder_of_an_interrupted_block_stays_as_it_was_and_a_full_disk_is_named(
    tmp_path, exists, error, message
):
    path = tmp_path / "out"
    if exists:
        path.mkdir()
        (path / "old").write_text("old")

    def write_half():
        with atomic_folder(path) as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises(UserFileError if "can't" in message else type(error), match=message):
        write_half()
    assert {file.name for file in tmp_path.rglob("*")} == ({"out", "old"} if exists else set())


def test_read_text_names_a_file_that_is_missing_or_not_unicode(tmp_path):
    with pytest.raises(UserFileError, match=rf"^{tmp_path}/a can't be read: No such file or directory$") as caught:
        read_text(tmp_path / "a")
    assert caught.value.errno == errno.ENOENT
    (tmp_path / "a").write_bytes(b"ab\xff")
    with pytest.raises(UserFileError, match=r"/a: byte 0xff is not UTF-8$"):
        read_text(tmp_path / "a")


KILLED = """
import os, shutil, sys
from pathlib import Path
from llm.files import atomic_folder

calls = 0

def dying(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == int(sys.argv[1]):
            os._exit(9)
        return function(*arguments, **options)
    return call

Path.replace, shutil.rmtree, os.unlink = dying(Path.replace), dying(shutil.rmtree), dying(os.unlink)
with atomic_folder(Path("out")) as folder:
    for name in ("a", "b"):
        (folder / name).write_text("new")
"""


def killed(folder: Path, moment: int) -> bool:
    """Replace `out`, whose two files say old, by one in which they say new; end before the call of that number."""
    (folder / "out").mkdir(parents=True)
    for name in ("a", "b"):
        (folder / "out" / name).write_text("old")
    code = run_python(KILLED, str(moment), folder=folder)
    assert code in (0, 9)
    return code == 9


def whole(path: Path) -> str:
    """The text of both files of a folder, which is the same."""
    assert names(path) == {"a", "b"}
    (text,) = {file.read_text() for file in path.iterdir()}
    return text


def test_kill_at_any_moment_leaves_the_old_folder_or_the_new_one(tmp_path):
    moment = 1
    texts = []
    while killed(folder := tmp_path / str(moment), moment):
        out = folder / "out"
        spoilt = shutil.copytree(folder, tmp_path / f"{moment}-spoilt")
        shutil.rmtree(spoilt / "out", ignore_errors=True)  # as where DVC removes the outs of a stage before it runs
        for copy in (spoilt, folder):
            with pytest.raises(ValueError, match="fails"), atomic_folder(copy / "out"):
                raise ValueError("fails")
            assert names(copy) <= {"out"}
        if names(spoilt):
            whole(spoilt / "out")
        texts.append(whole(out))
        with atomic_folder(out) as fresh:
            assert names(fresh) == set()
        assert names(folder) == {"out"}
        moment += 1
    assert whole(folder / "out") == "new"
    assert names(folder) == {"out"}
    assert texts == sorted(texts, key=["old", "new"].index)
    assert len(texts) >= 7


def test_file_in_the_way_of_an_atomic_folder_is_named_and_stays(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserFileError, match=r"out can't be written: Not a directory$"), atomic_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "a file"
    assert names(tmp_path) == {"out"}
