"""C sources, built by the machine's own compiler: decode.c for example."""

import ctypes
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from llm.kernels import c_library
from llm.kernels.c_library import build, load
from llm.kernels.serving.decode_library import SOURCES
from llm.kernels.training import cross_entropy, flash


@pytest.fixture
def small(tmp_path):
    """A source that is built in a moment."""
    source = tmp_path / "small.c"
    source.write_text("#ifndef ANSWER\n#define ANSWER 1\n#endif\nint answer(void) { return ANSWER; }\n")
    return (source,)


def answer(path) -> int:
    return ctypes.CDLL(str(path)).answer()


def test_library_is_built_once_for_each_source_and_compiler_and_leaves_no_temporary_files(small, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "gcc")
    folder = tmp_path / "built"
    with ThreadPoolExecutor(2) as pool:  # both build at once
        path, same = pool.map(build, [small] * 2, [folder] * 2)
    assert path == same
    when = path.stat().st_mtime_ns
    assert build(small, folder) == path
    assert path.stat().st_mtime_ns == when
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nexec gcc -DANSWER=3 "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", str(wrapper))
    by_another = build(small, folder)
    small[0].write_text("int answer(void) { return 4; }\n")
    changed = build(small, folder)
    assert [answer(path) for path in (path, by_another, changed)] == [1, 3, 4]
    assert {*folder.iterdir()} == {path, by_another, changed}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("gcc -O1", r"there is no C compiler \(gcc -O1\)"),
        ("#!/bin/sh\nsleep 60\n", r"compiler took longer than 0\.2 s"),
        ("#!/bin/sh\necho 'error: bad' >&2; exit 1\n", "compiler failed: error: bad"),
    ],
)
def test_missing_endless_or_failing_compiler_is_the_reason_in_the_log(
    small, tmp_path, monkeypatch, caplog, command, reason
):
    compiler = tmp_path / "compiler"
    compiler.write_text(command)
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler) if "\n" in command else command)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(c_library, "PATIENCE", 0.2)
    assert load(small) is None
    assert re.search(reason, caplog.text)


def test_library_that_others_may_have_written_is_built_again_and_their_folder_is_refused(
    small, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "threestage"
    before = os.umask(0o002)  # of a group
    try:
        path = build(small, folder)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_bytes()
    path.write_bytes(content + b"more")
    assert build(small, folder).read_bytes() == content + b"more"  # nobody but this user can have written it
    path.chmod(0o664)
    assert build(small, folder).read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600
    folder.chmod(0o770)
    assert load(small) is None
    assert "others may write there" in caplog.text
    folder.rename(tmp_path / "another")
    folder.write_text("a file, and no folder")
    assert load(small) is None
    assert "File exists" in caplog.text


OPENMP = """
import torch
from pathlib import Path
from llm.kernels.serving.decode_library import load_library
assert load_library() is not None
maps = Path("/proc/self/maps").read_text().splitlines()
print(len({line.split()[-1] for line in maps if "libgomp" in line or "libomp" in line or "libiomp" in line}))
"""


def test_process_with_a_library_has_one_openmp():
    assert subprocess.check_output([sys.executable, "-c", OPENMP], text=True) == "1\n"


@pytest.mark.parametrize(
    "sources", [SOURCES, flash.SOURCES, cross_entropy.SOURCES], ids=lambda sources: sources[0].name
)
def test_headers_of_a_source_are_part_of_its_fingerprint(sources):
    included = set()
    for source in sources:
        names = re.findall(r'^#include "(.+)"$', source.read_text(), re.MULTILINE)
        included |= {(source.parent / name).resolve() for name in names}
    assert included == {source.resolve() for source in sources[1:]}
