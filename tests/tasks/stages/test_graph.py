"""The graph of stages: its order, and which stages are stale and why."""

import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc_graphs import DVC_YAML, run_in_dvc
from projects import ROOT, change_params, commit_all, git

from llm.errors import UserError
from tasks.data.inbox import INBOX, open_inbox
from tasks.stages.dvc_process import reproduce
from tasks.stages.graph import (
    RAN,
    RESTORED,
    UP_TO_DATE,
    expected,
    is_stale,
    plan,
    results,
    stages,
    track,
)
from tasks.stages.hashes import stale
from tasks.stages.names import application_names, dataset_names, evaluation_stage, model_names

pytestmark = pytest.mark.slow


def test_plan_names_stages_in_order_and_why_they_are_stale(finished_graph):
    Path("model").unlink()
    today = plan()
    assert today.stages == ["clean", "train", "broken"]
    assert today.why == {"train": ["model is missing"], "broken": ["it never ran"]}
    assert today.behind == {"train": {"clean"}, "broken": {"clean", "train"}}


def test_plan_names_changed_parameters_deps_and_commands(finished_graph):
    Path("params.yaml").write_text("rate: 2\n")
    Path("raw").write_text("other")
    Path("dvc.yaml").write_text(DVC_YAML.replace("cat raw", "cat  raw"))
    today = plan()
    assert sorted(today.why["clean"]) == ["changed command", "rate modified", "raw modified"]
    assert list(today.behind) == ["clean", "train", "broken"]


def test_plan_without_dvc_lock_runs_all_stages(finished_graph):
    Path("dvc.lock").unlink()
    assert plan().why == {stage: ["it never ran"] for stage in ("clean", "train", "broken")}


def test_stages_of_another_folder_end_with_the_last_one(once_run, monkeypatch):
    monkeypatch.chdir("/")
    assert stages(once_run, ["train"]) == ["clean", "train"]


def test_our_graph_has_a_stage_for_each_block_in_order(monkeypatch):
    monkeypatch.chdir(ROOT)
    order = stages()
    names = ["pretrain", "load_published", "replay@assistant"]
    names += [f"{stage}@{dataset}" for stage in ("fetch", "preprocess") for dataset in dataset_names()]
    names += [f"finetune@{name}" for name in application_names()]
    names += [evaluation_stage(model) for model in model_names()]
    assert sorted(order) == sorted(names)
    pairs = [(f"fetch@{dataset}", f"preprocess@{dataset}") for dataset in dataset_names()]
    pairs += [
        ("preprocess@corpus", "pretrain"),
        ("preprocess@emails", "finetune@classifier"),
        ("preprocess@instructions", "finetune@assistant"),
        ("load_published", "finetune@classifier"),
        ("load_published", "replay@assistant"),
        ("replay@assistant", "finetune@assistant"),
        ("load_published", "evaluate@assistant"),
        ("pretrain", "evaluate_foundation"),
        ("finetune@classifier", "evaluate@classifier"),
        ("finetune@assistant", "evaluate@assistant"),
    ]
    for before, after in pairs:
        assert order.index(before) < order.index(after)


def test_replay_that_no_application_rehearses_is_no_stage(project_copy, monkeypatch):
    monkeypatch.chdir(project_copy)
    assert "replay@assistant" in stages()
    change_params(project_copy, {"applications": {"assistant": {"rehearses": "data/replay/nothing.jsonl"}}})
    assert "replay@assistant" not in stages()


def test_stage_is_stale_when_a_dep_or_parameter_changes_or_an_out_is_missing(finished_graph):
    assert expected("broken") == RAN
    for path, content in (("params.yaml", "rate: 2\n"), ("raw", "other")):
        before = Path(path).read_text()
        Path(path).write_text(content)
        assert expected("clean") == RAN
        assert expected("train") == UP_TO_DATE  # names its own deps alone
        Path(path).write_text(before)
    assert expected("clean") == UP_TO_DATE
    Path("model").unlink()
    assert expected("train") == RESTORED  # as dvc.lock says


def test_outs_of_an_earlier_run_with_equal_inputs_are_restored_without_a_run(finished_graph):
    model = Path("model").read_text()
    output = Path("said").read_text()
    for text, outcome in {"other": RAN, "text": RESTORED}.items():
        Path("raw").write_text(text)
        for stage in ("clean", "train"):
            assert expected(stage) == outcome
            reproduce(stage, {"SAID": text})
    assert Path("model").read_text() == model
    assert Path("said").read_text() == output, "it said nothing new"
    Path("dvc.lock").unlink()
    assert expected("clean") == RESTORED
    Path("raw").unlink()
    assert expected("clean") == RAN


@pytest.mark.parametrize("base", ["foundation", "published"])
def test_published_weights_are_loaded_only_where_something_starts_from_them(fresh_graph, base):
    makers = {"load_published": "published", "pretrain": "foundation"}
    lines = [f"{name}: {{cmd: 'cp raw models/{out}', outs: [models/{out}]}}" for name, out in makers.items()]
    tune = f"tune: {{cmd: 'touch tuned', deps: [models/{base}], outs: [tuned]}}"
    Path("dvc.yaml").write_text("\n  ".join(["stages:", *lines, tune]) + "\n")
    Path("models").mkdir()
    needed = ["load_published", "pretrain", "tune"] if base == "published" else ["pretrain", "tune"]
    assert stages() == needed
    assert is_stale()
    run_in_dvc(*needed)
    assert not is_stale()
    Path("models/published").unlink(missing_ok=True)
    assert expected("load_published") == (RESTORED if base == "published" else RAN)
    assert is_stale() is (base == "published")
    Path("tuned").unlink()
    assert is_stale()


def test_corrupt_dvc_yaml_is_named_on_one_line(fresh_graph):
    Path("dvc.yaml").write_text("stages: {train: {cmd: [}}")
    with pytest.raises(UserError, match=r"dvc\.yaml"):
        is_stale()


def test_results_are_dvc_lock_parameters_and_outs_that_dvc_does_not_cache(fresh_graph):
    metrics = "metrics: [{m.json: {cache: false}}, {not/made.json: {cache: false}}]"
    Path("dvc.yaml").write_text(f"stages: {{train: {{cmd: train, params: [rate], outs: [model], {metrics}}}}}")
    Path("m.json").touch()
    assert results() == (["dvc.lock", "m.json"], ["params.yaml"])


def test_plans_and_parameters_load_no_large_library():
    code = (
        "import sys, tasks.stages.graph, tasks.params, tasks.stages.libraries; "
        "assert not {'prefect', 'torch', 'mlflow'} & {*sys.modules}; "
        "tasks.params.check_params(); assert not {'torch', 'mlflow', 'pandas'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


INBOX_YAML = """
stages:
  preprocess: {cmd: "cat data/inbox/emails/*.* > made", deps: [data/inbox/emails], outs: [made]}
"""


def test_inbox_travels_with_git_and_dvcs_remote_to_a_clone(tmp_path, monkeypatch):
    here = tmp_path / "here"
    there = tmp_path / "there"
    here.mkdir()
    monkeypatch.chdir(here)
    git(here, "init", "--quiet")
    Repo.init().close()
    Path("dvc.yaml").write_text(INBOX_YAML)
    Path(".gitignore").write_text(".threestage/\nmlflow.db\n")
    Path(".dvc/config").write_text(f"[core]\nremote = r\n['remote \"r\"']\nurl = {tmp_path}/remote\n")
    inbox = open_inbox("emails")
    assert track(INBOX) == []
    commit_all(here, "A state of it")

    (inbox / "feedback.jsonl").write_text("one\n")
    (inbox / "spam").mkdir()
    (inbox / "spam/1.eml").write_text("Subject: a\n\nb")
    pointers = [f"data/inbox/emails/{name}.dvc" for name in ("feedback.jsonl", "spam")]
    assert track(INBOX) == track(INBOX) == pointers
    with Repo() as repo:
        repo.reproduce()
    assert {*pointers} < {*results()[0]}
    assert stages() == ["preprocess"]
    commit_all(here, "A state of it")
    assert "feedback.jsonl\n" not in subprocess.check_output(["git", "ls-files"], text=True)
    with Repo() as repo:
        repo.push()

    subprocess.run(["git", "clone", "--quiet", here, there], check=True)
    monkeypatch.chdir(there)
    with pytest.raises(UserError, match=r"^data/inbox/emails/feedback\.jsonl\.dvc: its data is not here; `dvc pull`"):
        track(INBOX)
    with Repo() as repo:
        repo.pull()
        assert repo.status() == {}
    assert plan().why == {}
    assert not is_stale()
    assert stale("preprocess") == {}
    assert Path("made").read_text() == (here / "made").read_text()

    Path("data/inbox/emails/feedback.jsonl").write_text("one\ntwo\n")
    assert plan().why == {"preprocess": ["data/inbox/emails modified"]}
    before = Path(pointers[0]).read_text()
    track(INBOX)
    assert Path(pointers[0]).read_text() != before
    reproduce("preprocess", {})
    assert not is_stale()
