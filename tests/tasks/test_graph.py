import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from tasks.graph import is_stale, reproduce, stages

ROOT = Path(__file__).parents[2]
DVC_YAML = """
stages:
  train: {cmd: "cat clean > model; echo $SAID > said; which python > which", deps: [clean], outs: [model, said, which]}
  clean: {cmd: "cat raw > clean", deps: [raw], params: [rate], outs: [clean]}
  broken: {cmd: "exit 3", deps: [model]}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(DVC_YAML)
    Path("params.yaml").write_text("rate: 1\n")
    Path("raw").write_text("text")
    Repo.init(no_scm=True).close()
    shutil.copytree(ROOT / "tasks", "tasks")  # `python -m tasks.lifeline` starts here


def test_stages_come_behind_what_they_depend_on(project):
    assert stages() == ["clean", "train", "broken"]


def test_our_own_graph_is_whole_and_in_order(monkeypatch):
    monkeypatch.chdir(ROOT)
    datasets, models = ("corpus", "emails", "instructions"), ("foundation", "classifier", "assistant")
    found = stages()
    assert sorted(found) == sorted(
        [f"{stage}@{dataset}" for stage in ("fetch", "preprocess") for dataset in datasets]
        + ["pretrain", "finetune_classifier", "finetune_assistant"]
        + [f"evaluate@{model}" for model in models]
    )
    for before, after in [
        *((f"fetch@{dataset}", f"preprocess@{dataset}") for dataset in datasets),
        ("preprocess@corpus", "pretrain"),
        ("preprocess@emails", "finetune_classifier"),
        ("preprocess@instructions", "finetune_assistant"),
        ("pretrain", "finetune_classifier"),
        ("pretrain", "finetune_assistant"),
        ("pretrain", "evaluate@foundation"),
        ("finetune_classifier", "evaluate@classifier"),
        ("finetune_assistant", "evaluate@assistant"),
    ]:
        assert found.index(before) < found.index(after)


def test_a_stage_is_stale_until_it_ran_and_again_when_what_it_reads_changes(project):
    assert is_stale()
    reproduce("clean", {})
    assert not is_stale("clean")
    assert is_stale("train")
    reproduce("train", {})
    assert not is_stale("train")
    for path, content in (("params.yaml", "rate: 2\n"), ("raw", "other")):
        before = Path(path).read_text()
        Path(path).write_text(content)
        assert is_stale("clean")
        assert not is_stale("train")  # names its own deps alone
        Path(path).write_text(before)
    assert not is_stale("clean")
    Path("model").unlink()
    assert is_stale("train")


def test_one_stage_runs_with_the_environment_and_this_interpreter(project):
    Path("clean").write_text("as it is")
    reproduce("train", {"SAID": "hello"})
    assert Path("model").read_text() == "as it is"  # clean@ did not run before
    assert Path("said").read_text() == "hello\n"
    assert Path(Path("which").read_text().strip()).parent == Path(sys.executable).parent


def test_a_failing_stage_is_named(project):
    Path("model").write_text("x")
    with pytest.raises(RuntimeError, match="stage broken failed"):
        reproduce("broken", {})


def test_a_dvc_yaml_that_cannot_be_read_is_one_value_error(project):
    Path("dvc.yaml").write_text("stages: {train: {cmd: [}}")
    with pytest.raises(ValueError, match=r"dvc\.yaml"):
        is_stale()


def test_asking_what_is_stale_does_not_load_prefect_or_torch():
    code = (
        "import sys, tasks.graph, tasks.params; print([m for m in ('prefect', 'torch', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
