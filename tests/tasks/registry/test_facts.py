import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from prefect.settings import PREFECT_API_URL, temporary_settings

from llm.device import choose_compute
from llm.errors import UserError
from tasks.registry.facts import lineage, prefect_page
from tasks.stages.hashes import current, fingerprint, flatten, inputs, locked, md5_of, stale
from tasks.stages.server import TEMPORARY

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
FLOW_RUN = "0b9f0d3e-2a63-4b5e-9a4e-0d1f1c6f7a11"

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
import json, os, pathlib
from llm.device import choose_compute
from tasks.registry.facts import lineage
from tasks.stages.hashes import fingerprint, inputs
stage = os.environ["DVC_STAGE"]
pathlib.Path("seen.json").write_text(json.dumps([fingerprint(inputs(stage)), lineage(stage)]))
pathlib.Path("model").mkdir()
pathlib.Path("model/weights").write_text(pathlib.Path("processed/emails/train.txt").read_text() * 2)
pathlib.Path("report.json").write_text('{"f1": 0.5}')
"""


def run(*command: str, folder: Path = Path()) -> None:
    paths = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(command, check=True, capture_output=True, cwd=folder, env=os.environ | paths)


def commit() -> None:
    run("git", "add", ".")
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "all")


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    """A project that never ran."""
    folder = tmp_path_factory.mktemp("blank")
    (folder / "raw/emails").mkdir(parents=True)
    (folder / "raw/emails/a.txt").write_text("hello")
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "clean.py").write_text(CLEAN)
    (folder / "train.py").write_text(TRAIN)
    run("git", "init", "-q", folder=folder)
    run("dvc", "init", "-q", folder=folder)
    return folder


@pytest.fixture(scope="module")
def ran(blank, tmp_path_factory):
    """The same after `dvc repro`."""
    folder = shutil.copytree(blank, tmp_path_factory.mktemp("ran"), dirs_exist_ok=True)
    run("dvc", "repro", "-q", folder=folder)
    return folder


@pytest.fixture
def project(blank, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(blank, tmp_path, dirs_exist_ok=True))


@pytest.fixture
def reproduced(ran, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(ran, tmp_path, dirs_exist_ok=True))


def test_a_stage_reads_its_own_lineage_while_dvc_runs_it(reproduced):
    key, tags = json.loads(Path("seen.json").read_text())
    assert key == fingerprint(inputs("train"))
    assert tags["threestage.dvc.stage"] == "train"
    assert tags["threestage.dvc.dep.processed/emails"] == locked("train").deps["processed/emails"]
    assert not any(name.startswith("threestage.dvc.out.") for name in tags)


def test_current_equals_dvc_lock_after_a_run_and_nothing_is_stale(reproduced):
    assert current("train") == locked("train")
    assert set(locked("train").outs) == {"model", "report.json"}
    assert locked("train").params == {"train": {"rate": 1e-05}}
    assert locked("clean@emails").outs["processed/emails"] == locked("train").deps["processed/emails"]
    assert stale("train") == {}


def test_the_hash_of_the_bytes_themselves_is_the_one_of_dvc_lock(reproduced):
    Path("nested/deeper").mkdir(parents=True)
    Path("nested/b.txt").write_text("b")
    Path("nested/deeper/a.txt").write_text("a")
    run("dvc", "add", "-q", "nested")
    assert md5_of(Path("model")) == locked("train").outs["model"]
    assert md5_of(Path("report.json")) == locked("train").outs["report.json"]
    assert f"md5: {md5_of(Path('nested'))}\n" in Path("nested.dvc").read_text()


def test_a_dvc_lock_with_merge_marks_is_said_in_a_line(reproduced):
    Path("dvc.lock").write_text("<<<<<<< ours\n" + Path("dvc.lock").read_text() + "=======\n>>>>>>> theirs\n")
    with pytest.raises(UserError, match=r"^dvc.lock: not what DVC writes") as caught:
        locked("train")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"dvc\.lock") as caught:
        stale("train")
    assert "\n" not in str(caught.value)


def test_stale_names_the_stage_and_what_changed_also_upstream(reproduced):
    Path("model/weights").write_text("edited")
    Path("clean.py").write_text(CLEAN + "\n")
    Path("params.yaml").write_text(PARAMS.replace("seed: 1", "seed: 2"))
    assert stale("train") == {"clean@emails": ["clean.emails.seed", "clean.py"], "train": ["model"]}


def test_a_fingerprint_follows_parameters_code_and_data_but_not_outs(reproduced):
    def rewritten(path: str, content: str) -> str:
        old = Path(path).read_text()
        Path(path).write_text(content)
        key = fingerprint(inputs("train"))
        Path(path).write_text(old)
        return key

    changed = {
        rewritten("params.yaml", PARAMS.replace("1.0e-05", "2.0e-05")),
        rewritten("train.py", "pass"),
        rewritten("processed/emails/train.txt", "BYE"),
    }
    unchanged = {
        rewritten("model/weights", "x"),
        rewritten("params.yaml", PARAMS + "other: 1\n"),
    }
    assert unchanged == {fingerprint(inputs("train"))}
    assert len(changed | unchanged) == 4


def test_a_missing_dep_and_a_stage_that_never_ran_are_named_with_the_way_out(project):
    with pytest.raises(OSError, match=r"^processed/emails: missing, stage train needs it; run `dvc repro`"):
        fingerprint(inputs("train"))
    with pytest.raises(ValueError, match=r"^dvc.lock: stage train never ran; run `dvc repro`"):
        locked("train")


def test_dirty_tags_tell_code_parameters_and_pipeline_apart(project):
    Path("llm/model").mkdir(parents=True)
    Path("llm/model/gpt.py").write_text("")
    kinds = ("code", "params.yaml", "dvc.yaml")
    no_commit = lineage(None)
    commit()
    clean = lineage(None)
    Path("params.yaml").write_text("clean: {}\n")
    edited = lineage(None)
    assert no_commit["threestage.git.commit"] == "none"
    assert [no_commit[f"threestage.git.dirty.{kind}"] for kind in kinds] == ["true"] * 3
    assert len(clean["threestage.git.commit"]) == 40
    assert [clean[f"threestage.git.dirty.{kind}"] for kind in kinds] == ["false"] * 3
    assert [edited[f"threestage.git.dirty.{kind}"] for kind in kinds] == ["false", "true", "false"]
    subprocess.run(["git", "config", "status.showUntrackedFiles", "no"], check=True)
    Path("llm/new.py").write_text("")
    assert lineage(None)["threestage.git.dirty.code"] == "true"


def test_a_stage_that_computes_says_where_and_how(reproduced):
    compute, tags = choose_compute(), lineage("train")
    assert tags["threestage.device"] == compute.device.type
    assert tags["threestage.dtype"] == str(compute.dtype).removeprefix("torch.")
    assert tags["threestage.threads"] == str(torch.get_num_threads())


def test_lineage_works_outside_git(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tags = lineage(None)
    assert tags["threestage.git.commit"] == "none"
    assert tags["threestage.git.dirty.code"] == "unknown"
    assert int(tags["threestage.machine.cores"]) >= 1
    assert tags["threestage.machine.cpu"]


@pytest.mark.parametrize(
    ("api", "temporary", "page"),
    [
        ("https://prefect.example.org/api", "", "https://prefect.example.org"),
        ("http://127.0.0.1:41234/api", "http://127.0.0.1:41234/api", "http://127.0.0.1:4200"),
        (None, "", "http://127.0.0.1:4200"),
    ],
)
def test_the_page_of_a_flow_run_is_on_a_server_that_stays(monkeypatch, api, temporary, page):
    monkeypatch.setenv(TEMPORARY, temporary)
    with temporary_settings({PREFECT_API_URL: api} if api else {}, restore_defaults=() if api else {PREFECT_API_URL}):
        assert prefect_page(FLOW_RUN) == f"{page}/runs/flow-run/{FLOW_RUN}"


def test_flatten_names_nested_values_by_their_path():
    assert flatten({"a": {"b": 1}, "c": [{"d": 2}, 3]}) == {"a.b": 1, "c.0.d": 2, "c.1": 3}
