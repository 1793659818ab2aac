"""C sources, built by the machine's own compiler: decode.c for example."""

import ctypes
import os
import re
import subprocess
import sys

import pytest

from llm.kernels import c_library
from llm.kernels.c_library import NotBuiltError, build, load
from llm.kernels.serving.decode_library import SOURCES
from llm.kernels.training import cross_entropy, flash


@pytest.fixture
def small(tmp_path):
    """A source that is built in a moment."""
    source = tmp_path / "small.c"
    source.write_text("#ifndef ANSWER\n#define ANSWER 1\n#endif\nint answer(void) { return ANSWER; }\n")
    return (source,)


def test_compiler_error_is_the_reason_in_the_log(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "broken.c"
    broken.write_text("int broken(void) { return 0 }\n")
    assert load((broken,)) is None
    assert "error: expected ';' before '}' token" in caplog.text


def test_cache_folder_without_permission_is_the_reason_in_the_log(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "threestage").write_text("a file, and no folder")
    assert load(SOURCES) is None
    assert "File exists" in caplog.text


def test_library_is_built_once_and_leaves_no_temporary_files(small, tmp_path):
    path = build(small, tmp_path)
    when = path.stat().st_mtime_ns
    assert build(small, tmp_path) == path
    assert path.stat().st_mtime_ns == when
    assert ctypes.CDLL(str(path)).answer() == 1
    assert {file.name for file in tmp_path.iterdir()} == {small[0].name, path.name}


def test_changed_source_is_another_file(small, tmp_path):
    path = build(small, tmp_path)
    small[0].write_text(small[0].read_text() + "\n")
    assert build(small, tmp_path) != path


BUILD = """
import sys
from pathlib import Path
from llm.kernels.c_library import build
print(build([Path(sys.argv[1])], Path(sys.argv[2])))
"""
OPENMP = """
import torch
from pathlib import Path
from llm.kernels.serving.decode_library import load_library
assert load_library() is not None
maps = Path("/proc/self/maps").read_text().splitlines()
print(len({line.split()[-1] for line in maps if "libgomp" in line or "libomp" in line or "libiomp" in line}))
"""


def test_processes_that_build_at_once_leave_one_file(small, tmp_path):
    folder = tmp_path / "built"
    command = [sys.executable, "-c", BUILD, str(small[0]), str(folder)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [str(path) for path in folder.iterdir()] == paths[:1] == paths[1:]
    assert ctypes.CDLL(paths[0]).answer() == 1


def test_process_with_a_library_has_one_openmp():
    assert subprocess.check_output([sys.executable, "-c", OPENMP], text=True) == "1\n"


@pytest.fixture
def umask_of_a_group():
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_umask_of_a_group_leaves_a_library_to_its_user_alone(small, tmp_path, monkeypatch, umask_of_a_group):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load(small).answer() == 1
    (built,) = (tmp_path / "threestage").iterdir()
    assert built.parent.stat().st_mode & 0o777 == 0o700
    assert built.stat().st_mode & 0o777 == 0o600


def test_library_that_others_may_have_written_is_built_again_and_their_folder_is_refused(small, tmp_path):
    folder = tmp_path / "threestage"
    path = build(small, folder)
    content = path.read_bytes()
    path.write_bytes(content + b"more")
    assert build(small, folder).read_bytes() == content + b"more"  # nobody but this user can have written it
    path.chmod(0o664)
    assert build(small, folder).read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600
    folder.chmod(0o770)
    with pytest.raises(
        NotBuiltError, match=r"threestage is another user's, or others may write there \(chmod go-w .*\)"
    ):
        build(small, folder)


def test_compilers_have_files_of_their_own(small, tmp_path, monkeypatch):
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nexec gcc -DANSWER=3 "$@"\n')
    wrapper.chmod(0o755)
    for command, answer in {"gcc": 1, str(wrapper): 3}.items():
        monkeypatch.setenv("CC", command)
        assert ctypes.CDLL(str(build(small, tmp_path))).answer() == answer


def test_missing_or_endless_compiler_is_the_reason(small, tmp_path, monkeypatch):
    sleeps = tmp_path / "sleeps"
    sleeps.write_text("#!/bin/sh\nsleep 60\n")
    sleeps.chmod(0o755)
    monkeypatch.setenv("CC", "gcc -O1")
    with pytest.raises(NotBuiltError, match=r"there is no C compiler \(gcc -O1\)"):
        build(small, tmp_path)
    monkeypatch.setenv("CC", str(sleeps))
    monkeypatch.setattr(c_library, "PATIENCE", 0.2)
    with pytest.raises(NotBuiltError, match=r"sleeps took longer than 0\.2 s"):
        build(small, tmp_path)


@pytest.mark.parametrize(
    "sources", [SOURCES, flash.SOURCES, cross_entropy.SOURCES], ids=lambda sources: sources[0].name
)
def test_headers_of_a_source_are_part_of_its_fingerprint(sources):
    included = set()
    for source in sources:
        names = re.findall(r'^#include "(.+)"$', source.read_text(), re.MULTILINE)
        included |= {(source.parent / name).resolve() for name in names}
    assert included == {source.resolve() for source in sources[1:]}
