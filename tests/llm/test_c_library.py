"""What is written in C, built by the machine's own compiler: decode.c for example."""

import os
import re
import subprocess
import sys

import pytest

from llm import c_library
from llm.c_library import NotBuiltError, build, load
from llm.generation.native import SOURCES
from llm.model import flash
from llm.training import loss


def test_what_a_compiler_says_is_the_reason(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "broken.c"
    broken.write_text("int features(void) { return 0 }\n")
    assert load((broken,)) is None
    assert "error: expected ';' before '}' token" in caplog.text


def test_a_cache_folder_that_cannot_be_written_is_a_reason(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "threestage").write_text("a file, and no folder")
    assert load(SOURCES) is None
    assert "File exists" in caplog.text


def test_it_is_built_once_and_a_damaged_file_is_built_again(tmp_path):
    path = build(SOURCES, tmp_path)
    first, when = path.read_bytes(), path.stat().st_mtime_ns
    assert build(SOURCES, tmp_path) == path
    assert path.stat().st_mtime_ns == when
    path.write_bytes(first[: len(first) // 2])
    assert build(SOURCES, tmp_path) == path
    assert c_library._is_whole(path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_another_source_or_processor_is_another_file(tmp_path, monkeypatch):
    path = build(SOURCES, tmp_path)
    monkeypatch.setattr(c_library, "_processor", lambda: "another")
    assert build(SOURCES, tmp_path) != path


PROCESS = """
import torch
from pathlib import Path
from llm.generation.native import load_library
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
    assert c_library._is_whole(built)


def test_a_library_that_others_may_write_is_not_loaded(tmp_path):
    folder = tmp_path / "threestage"
    path = build(SOURCES, folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    path.chmod(0o666)
    with pytest.raises(NotBuiltError, match=r"decode-.*\.so is another user's, or others may write there"):
        build(SOURCES, folder)
    folder.chmod(0o777)
    with pytest.raises(NotBuiltError, match="threestage is another user's, or others may write there"):
        build(SOURCES, folder)


def test_cc_may_have_options_and_a_compiler_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "gcc -pipe")
    assert build(SOURCES, tmp_path).exists()
    sleeps = tmp_path / "sleeps"
    sleeps.write_text("#!/bin/sh\nsleep 60\n")
    sleeps.chmod(0o755)
    monkeypatch.setenv("CC", "gcc 'x")
    with pytest.raises(NotBuiltError, match="CC=gcc 'x: No closing quotation"):
        build(SOURCES, tmp_path)
    monkeypatch.setenv("CC", str(sleeps))
    monkeypatch.setattr(c_library, "PATIENCE", 0.2)
    with pytest.raises(NotBuiltError, match=r"sleeps took longer than 0\.2 s"):
        build(SOURCES, tmp_path)


@pytest.mark.parametrize("sources", [SOURCES, flash.SOURCES, loss.SOURCES], ids=lambda sources: sources[0].name)
def test_what_a_source_includes_is_part_of_what_names_the_built_file(sources):
    included = set()
    for source in sources:
        names = re.findall(r'^#include "(.+)"$', source.read_text(), re.MULTILINE)
        included |= {(source.parent / name).resolve() for name in names}
    assert included == {source.resolve() for source in sources[1:]}
