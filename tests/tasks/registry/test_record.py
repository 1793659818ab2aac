from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from projects import git

from llm.device import choose_compute
from tasks.registry.record import Record, current_facts, read_record, readable, uncommitted_parts, write_record
from tasks.registry.store import configure_tracking
from tasks.registry.tracking import add_facts, made_by, stage_run
from tasks.stages.hashes import Hashes, current

pytestmark = pytest.mark.slow


@pytest.fixture
def stage(tmp_path, monkeypatch, mlflow_store):
    """A project in which this process runs the stage `train`."""
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow_store}")
    monkeypatch.setenv("DVC_STAGE", "train")
    Path("data").write_text("rows")
    Path("params.yaml").write_text("rate: 1.0e-05\n")
    Path("dvc.yaml").write_text("stages: {train: {cmd: 'true', deps: [data], params: [rate], outs: [model]}}")
    Repo.init(no_scm=True)


def test_record_is_read_as_it_was_written(stage):
    configure_tracking()
    record = Record("train", Hashes({"train": {"rate": 1e-05}}, {"data": "d1"}, {"model": "m1.dir"}), {"seed": "7"})
    with mlflow.start_run() as run:
        write_record(run.info.run_id, record)
    assert read_record(run.info.run_id) == record


def test_read_record_is_none_without_a_record_or_a_run(stage):
    configure_tracking()
    with mlflow.start_run() as run:
        pass
    assert [read_record(run_id) for run_id in (run.info.run_id, "0" * 32, "none", "", None)] == [None] * 5


def test_stage_run_records_all_hashes_and_few_tags(stage):
    with stage_run() as run:
        Path("model").write_text("weights")
        add_facts(blocks="eager")
    record = read_record(run.info.run_id)
    assert (record.stage, record.hashes) == ("train", current("train"))
    assert record.hashes.params == {"rate": 1e-05}
    assert record.facts == current_facts() | {"blocks": "eager"}
    assert made_by("train", record.hashes.outs).info.run_id == run.info.run_id
    tags = {name for name in MlflowClient().get_run(run.info.run_id).data.tags if name.startswith("threestage.")}
    assert tags <= {f"threestage.{name}" for name in (*readable(record), "outs", "workspace")}
    assert len(tags) <= 8


def test_failed_stage_run_records_what_it_read(stage):
    with pytest.raises(RuntimeError), stage_run() as run:
        raise RuntimeError
    record = read_record(run.info.run_id)
    assert set(record.hashes.deps) == {"data"}
    assert record.hashes.outs == {}


def test_readable_has_machine_and_uncommitted_parts_on_one_line_each():
    facts = {
        "git.commit": "c1",
        "git.dirty.code": "true",
        "git.dirty.params.yaml": "false",
        "git.dirty.dvc.yaml": "unknown",
        "machine.cpu": "EPYC",
        "machine.cores": "2",
        "prefect.flow_run": "none",
        "device": "cpu",
        "dtype": "bfloat16",
        "threads": "2",
    }
    assert readable(Record("train", Hashes({}, {}, {}), facts)) == {
        "stage": "train",
        "commit": "c1",
        "uncommitted": "code, dvc.yaml",
        "machine": "EPYC, 2 cores",
        "device": "cpu, bfloat16, 2 threads",
        "prefect": "none",
    }


def test_uncommitted_parts_tell_code_parameters_and_pipeline_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert uncommitted_parts(current_facts()) == ["code", "params.yaml", "dvc.yaml"]  # unknown outside git
    git(Path(), "init --quiet")
    Path("llm").mkdir()
    for path in ("llm/code.py", "params.yaml", "dvc.yaml"):
        Path(path).touch()
    git(Path(), "add .")
    git(Path(), "commit --quiet --message All")
    assert uncommitted_parts(current_facts()) == []
    Path("params.yaml").write_text("seed: 1")
    assert uncommitted_parts(current_facts()) == ["params.yaml"]
    git(Path(), "config status.showUntrackedFiles no")
    Path("scratch.py").touch()
    Path("llm/README.md").touch()
    assert uncommitted_parts(current_facts()) == ["params.yaml"], "they make no model"
    Path("llm/new.py").touch()
    assert uncommitted_parts(current_facts()) == ["code", "params.yaml"]


def test_current_facts_have_device_and_threads():
    compute, facts = choose_compute(), current_facts()
    assert facts["device"] == compute.device.type
    assert facts["dtype"] == str(compute.dtype).removeprefix("torch.")
    assert facts["threads"] == str(torch.get_num_threads())
