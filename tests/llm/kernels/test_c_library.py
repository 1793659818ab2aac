"""What is written in C, built by the machine's own compiler: decode.c for example."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256

import pytest

from llm.kernels import c_library
from llm.kernels.c_library import NotBuiltError, build, load
from llm.kernels.serving.decode_library import SOURCES
from llm.kernels.training import cross_entropy, flash


@pytest.fixture
def small(tmp_path):
    """A source that is built in a moment; what it answers is given with -D."""
    source = tmp_path / "small.c"
    source.write_text("#ifndef ANSWER\n#define ANSWER 1\n#endif\nint answer(void) { return ANSWER; }\n")
    return (source,)


def test_what_a_compiler_says_is_the_reason(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "broken.c"
    broken.write_text("int broken(void) { return 0 }\n")
    assert load((broken,)) is None
    assert "error: expected ';' before '}' token" in caplog.text


def test_a_cache_folder_that_cannot_be_written_is_a_reason(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "threestage").write_text("a file, and no folder")
    assert load(SOURCES) is None
    assert "File exists" in caplog.text


def test_it_is_built_once_and_a_damaged_file_is_built_again(small, tmp_path):
    path = build(small, tmp_path)
    first, when = path.read_bytes(), path.stat().st_mtime_ns
    assert build(small, tmp_path) == path
    assert path.stat().st_mtime_ns == when
    path.write_bytes(first[: len(first) // 2])
    assert build(small, tmp_path) == path
    assert ctypes.CDLL(str(path)).answer() == 1
    assert {file.name for file in tmp_path.iterdir()} == {small[0].name, path.name}


def test_another_source_is_another_file(small, tmp_path):
    path = build(small, tmp_path)
    small[0].write_text(small[0].read_text() + "\n")
    assert build(small, tmp_path) != path


PROCESS = """
import torch
from pathlib import Path
from llm.kernels.serving.decode_library import load_library
assert load_library() is not None
maps = Path("/proc/self/maps").read_text().splitlines()
print(len({line.split()[-1] for line in maps if "libgomp" in line or "libomp" in line or "libiomp" in line}))
"""


def test_two_processes_may_build_at_once_and_each_has_one_openmp(tmp_path):
    variables = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", PROCESS]
    started = [subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in started] == ["1\n", "1\n"]
    assert [process.returncode for process in started] == [0, 0]
    (built,) = (tmp_path / "threestage").iterdir()
    assert sha256(built.read_bytes()[:-32]).digest() == built.read_bytes()[-32:]  # no half of it is kept


@pytest.fixture
def umask_of_a_group():
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_where_files_are_made_for_a_group_a_library_is_made_for_its_user_alone(
    small, tmp_path, monkeypatch, umask_of_a_group
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load(small).answer() == 1
    (built,) = (tmp_path / "threestage").iterdir()
    assert built.parent.stat().st_mode & 0o777 == 0o700
    assert built.stat().st_mode & 0o777 == 0o600


def test_a_library_that_others_may_have_written_is_built_again_and_their_folder_is_refused(small, tmp_path):
    folder = tmp_path / "threestage"
    path = build(small, folder)
    others = path.read_bytes()[:-32] + b"more"
    path.write_bytes(others + sha256(others).digest())
    assert build(small, folder).read_bytes()[:-32] == others  # whole, and nobody but this user can have written it
    path.chmod(0o664)
    assert build(small, folder).read_bytes()[:-32] == others[:-4]
    assert path.stat().st_mode & 0o777 == 0o600
    folder.chmod(0o770)
    with pytest.raises(
        NotBuiltError, match=r"threestage is another user's, or others may write there \(chmod go-w .*\)"
    ):
        build(small, folder)


def test_each_command_of_a_compiler_has_files_of_its_own(small, tmp_path, monkeypatch):
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nexec gcc -DANSWER=3 "$@"\n')
    wrapper.chmod(0o755)
    answers = {"gcc": 1, "gcc -DANSWER=2": 2, str(wrapper): 3, shutil.which("gcc"): 1, "gcc -DANSWER=1": 1}
    paths = []
    for command, answer in answers.items():
        monkeypatch.setenv("CC", command)
        paths.append(build(small, tmp_path))
        assert ctypes.CDLL(str(paths[-1])).answer() == answer
    assert paths[0] == paths[3]
    assert len(set(paths)) == 4


def test_a_compiler_that_is_no_command_is_a_reason_and_none_is_waited_for_for_ever(small, tmp_path, monkeypatch):
    sleeps = tmp_path / "sleeps"
    sleeps.write_text("#!/bin/sh\nsleep 60\n")
    sleeps.chmod(0o755)
    monkeypatch.setenv("CC", "gcc 'x")
    with pytest.raises(NotBuiltError, match="CC=gcc 'x: No closing quotation"):
        build(small, tmp_path)
    monkeypatch.setenv("CC", str(sleeps))
    monkeypatch.setattr(c_library, "PATIENCE", 0.2)
    with pytest.raises(NotBuiltError, match=r"sleeps took longer than 0\.2 s"):
        build(small, tmp_path)


@pytest.mark.parametrize(
    "sources", [SOURCES, flash.SOURCES, cross_entropy.SOURCES], ids=lambda sources: sources[0].name
)
def test_what_a_source_includes_is_part_of_what_names_the_built_file(sources):
    included = set()
    for source in sources:
        names = re.findall(r'^#include "(.+)"$', source.read_text(), re.MULTILINE)
        included |= {(source.parent / name).resolve() for name in names}
    assert included == {source.resolve() for source in sources[1:]}
