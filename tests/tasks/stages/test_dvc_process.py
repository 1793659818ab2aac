"""Stages run through dvc: one alone, with its checkpoints, and with its earlier outs if it fails or is stopped."""

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dvc_graphs import DVC_YAML, begun, run_in_dvc

from llm.errors import UserError
from tasks.stages import dvc_process
from tasks.stages.dvc_process import reproduce
from tasks.stages.graph import RAN, expected, plan
from tasks.stages.lock import FINISHED, STATE

pytestmark = pytest.mark.slow

LOG = STATE / "stages/broken/log"
LOGGED = f"mkdir -p {LOG.parent}; echo 'error: row 17: no label' > {LOG}; exit 1"


def test_stage_runs_alone_with_this_interpreter_and_as_no_run_of_a_worker(fresh_graph, monkeypatch):
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "another")
    Path("dvc.yaml").write_text(DVC_YAML.replace("$SAID", "$SAID $PREFECT__FLOW_RUN_ID"))
    Path("clean").write_text("as it is")
    reproduce("train", {"SAID": "hello"})
    assert Path("model").read_text() == "as it is"  # `clean` did not run before
    assert Path("said").read_text() == "hello\n"
    assert Path(Path("which").read_text().strip()).parent == Path(sys.executable).parent


def test_checkpoints_of_a_finished_training_go_after_dvc_has_stored_its_outs(fresh_graph):
    finished = STATE / "stages/clean/finished"
    interrupted = STATE / "stages/clean/interrupted"
    of_another_stage = STATE / "stages/train/finished"
    for folder in (finished, interrupted, of_another_stage):
        folder.mkdir(parents=True)
    for folder in (finished, of_another_stage):
        (folder / FINISHED).touch()
    reproduce("clean", {})
    assert not finished.exists()
    assert interrupted.exists()
    assert of_another_stage.exists()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("exit 3", "the reason stands above"),
        ("kill -9 $PPID", "dvc was killed by signal 9"),
        (LOGGED, rf"row 17: no label \({LOG}\)$"),
    ],
)
def test_failing_stage_is_named_with_the_reason(fresh_graph, command, reason):
    Path("dvc.yaml").write_text(DVC_YAML.replace("exit 3", command))
    Path("model").write_text("x")
    with pytest.raises(UserError, match=f"^stage broken failed: {reason}"):
        reproduce("broken", {})


@pytest.fixture
def changed_training(fresh_graph) -> Iterator[None]:
    """`train` has made a model and metrics of `raw`, which has changed since: both are there afterwards, too."""
    outs = "outs: [model], metrics: [{m.json: {cache: false}}]"
    Path("dvc.yaml").write_text(f"stages: {{train: {{cmd: 'exec sh train.sh', deps: [raw], {outs}}}}}")
    Path("train.sh").write_text("mkdir model; cp raw model/weights; echo {} > m.json")
    run_in_dvc("train")
    Path("raw").write_text("other")
    yield
    assert Path("model/weights").read_text() == "text"
    assert Path("m.json").read_text() == "{}\n"
    assert expected("train") == RAN


def test_stage_that_fails_leaves_its_earlier_outs(changed_training):
    Path("train.sh").write_text("exit 1")
    with pytest.raises(UserError, match="stage train failed"):
        reproduce("train", {})


def test_stage_that_is_interrupted_leaves_its_earlier_outs(changed_training):
    Path("train.sh").write_text("touch begun; exec sleep 300")
    with begun("train") as running:
        assert not Path("model").exists()  # DVC removes it first
        assert plan().why["train"] == ["a stage that runs now holds its files"]
    assert running.returncode != 0


def test_timeout_ends_a_stage_that_ignores_sigterm(changed_training, monkeypatch):
    monkeypatch.setattr(dvc_process, "PATIENCE", 0.5)
    Path("train.sh").write_text("trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done")
    reason = r"stage train took longer than 0\.00111 h; the next run goes on from its last"
    with pytest.raises(UserError, match=reason):
        reproduce("train", {}, 4)
    assert not Path("pid").exists() or not psutil.pid_exists(int(Path("pid").read_text()))
