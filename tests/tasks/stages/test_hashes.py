import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from form_files import put

from tasks.stages.hashes import fingerprint, inputs, locked, md5_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]

DVC_YAML = """
stages:
  clean:
    matrix: {dataset: [emails]}
    cmd: python clean.py ${item.dataset}
    deps: [clean.py, "raw/${item.dataset}/"]
    params: ["clean.${item.dataset}"]
    outs: ["processed/${item.dataset}/"]
  train:
    cmd: python train.py
    deps: [train.py, processed/emails/]
    params: [train]
    outs: [model/]
    metrics: [{report.json: {cache: false}}]
"""
PARAMS = "clean: {emails: {seed: 1}}\ntrain: {rate: 1.0e-05}\n"
CLEAN = """
import pathlib, sys
(folder := pathlib.Path("processed", sys.argv[1])).mkdir(parents=True)
(folder / "train.txt").write_text(pathlib.Path("raw", sys.argv[1], "a.txt").read_text().upper())
"""
TRAIN = """
import os, pathlib
from tasks.stages.hashes import fingerprint, inputs
pathlib.Path("seen").write_text(fingerprint(inputs(os.environ["DVC_STAGE"])))
pathlib.Path("model").mkdir()
pathlib.Path("model/weights").write_text(pathlib.Path("processed/emails/train.txt").read_text() * 2)
pathlib.Path("report.json").write_text('{"f1": 0.5}')
"""


def dvc(command: str, *arguments: str, folder: Path = Path()) -> None:
    paths = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    line = ["dvc", command, "-q", *arguments]
    subprocess.run(line, check=True, capture_output=True, cwd=folder, env=os.environ | paths)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A project after `dvc repro`."""
    folder = tmp_path_factory.mktemp("ran")
    files = {"dvc.yaml": DVC_YAML, "params.yaml": PARAMS, "clean.py": CLEAN, "train.py": TRAIN, "raw/emails/a.txt": "a"}
    put(folder, files)
    dvc("init", "--no-scm", folder=folder)
    dvc("repro", folder=folder)
    return folder


@pytest.fixture(autouse=True)
def reproduced(ran, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(ran, tmp_path, dirs_exist_ok=True))


def test_inputs_of_a_stage_are_known_while_dvc_runs_it():
    assert Path("seen").read_text() == fingerprint(inputs("train"))


def test_inputs_equal_dvc_lock_after_a_run():
    assert inputs("train") == replace(locked("train"), outs={})
    assert set(locked("train").outs) == {"model", "report.json"}
    assert locked("train").params == {"train": {"rate": 1e-05}}
    assert locked("clean@emails").outs["processed/emails"] == locked("train").deps["processed/emails"]


def test_md5_of_bytes_equals_the_hash_in_dvc_lock():
    Path("nested/deeper").mkdir(parents=True)
    Path("nested/b.txt").write_text("b")
    Path("nested/deeper/a.txt").write_text("a")
    dvc("add", "nested")
    assert md5_of(Path("model")) == locked("train").outs["model"]
    assert md5_of(Path("report.json")) == locked("train").outs["report.json"]
    assert f"md5: {md5_of(Path('nested'))}\n" in Path("nested.dvc").read_text()


@pytest.mark.parametrize(
    ("path", "content", "is_same"),
    [
        ("params.yaml", PARAMS.replace("1.0e-05", "2.0e-05"), False),
        ("train.py", "pass", False),
        ("processed/emails/train.txt", "BYE", False),
        ("model/weights", "x", True),
        ("params.yaml", PARAMS + "other: 1\n", True),
    ],
)
def test_fingerprint_follows_parameters_code_and_data_but_not_outs(path, content, is_same):
    before = fingerprint(inputs("train"))
    Path(path).write_text(content)
    assert (fingerprint(inputs("train")) == before) is is_same


def test_missing_dep_and_a_stage_that_never_ran_are_named_with_the_way_out():
    shutil.rmtree("processed")
    Path("dvc.lock").unlink()
    with pytest.raises(OSError, match=r"^processed/emails: missing, stage train needs it; run `dvc repro`"):
        fingerprint(inputs("train"))
    with pytest.raises(ValueError, match=r"^dvc.lock: stage train never ran; run `dvc repro`"):
        locked("train")
