import os
import shutil
import signal
import subprocess
import sys
from contextlib import chdir, contextmanager
from pathlib import Path

import psutil
import pytest
from dvc.repo import Repo
from projects import change_params, git
from real_servers import HANGS, wait_for

from llm.errors import UserError
from tasks.data.inbox import INBOX, open_inbox
from tasks.stages import graph
from tasks.stages.graph import (
    RAN,
    RESTORED,
    UP_TO_DATE,
    changes,
    expected,
    is_stale,
    plan,
    reproduce,
    results,
    stages,
    track,
)
from tasks.stages.hashes import stale
from tasks.stages.lock import FINISHED, STATE
from tasks.stages.names import application_names, dataset_names, evaluation_stage, model_names

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
LOG = STATE / "stages/broken/log"
DVC_YAML = """
stages:
  train: {cmd: "cat clean > model; echo $SAID > said; which python > which", deps: [clean], outs: [model, said, which]}
  clean: {cmd: "cat raw > clean", deps: [raw], params: [rate], outs: [clean]}
  broken: {cmd: "exit 3", deps: [model]}
"""


def make(folder):
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "params.yaml").write_text("rate: 1\n")
    (folder / "raw").write_text("text")
    Repo.init(str(folder), no_scm=True).close()
    for package in ("tasks", "llm"):
        shutil.copytree(ROOT / package, folder / package)  # `python -m tasks.stages.parent_death` starts here
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path))
    return tmp_path


def repro(*stages):
    """`dvc repro --single-item` of these stages in this process."""
    with Repo() as repo:
        for stage in stages:
            repo.reproduce(stage, single_item=True)


@contextmanager
def begun(stage):
    """A stage that has touched `begun`, as a process with a group of its own; Ctrl-C on its terminal ends it."""
    code = f"from tasks.stages.graph import reproduce; reproduce({stage!r}, {{}})"
    with subprocess.Popen([sys.executable, "-c", code], process_group=0) as running:
        try:
            wait_for(lambda: Path("begun").exists() or running.poll() is not None)
            yield running
            os.killpg(running.pid, signal.SIGINT)
            running.wait(timeout=HANGS)
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def once_run(tmp_path_factory):
    with chdir(make(tmp_path_factory.mktemp("run"))):
        for stage in ("clean", "train"):
            reproduce(stage, {})
        return Path.cwd()


@pytest.fixture
def ran(once_run, tmp_path, monkeypatch):
    """A copy in which all stages but the broken one have run."""
    monkeypatch.chdir(shutil.copytree(once_run, tmp_path, dirs_exist_ok=True))


def test_a_plan_names_the_stages_in_order_what_is_stale_and_why_and_what_is_behind_it(ran, once_run, monkeypatch):
    Path("model").unlink()
    found = plan()
    assert found.stages == ["clean", "train", "broken"]
    assert found.why == changes() == {"train": ["model is missing"], "broken": ["it never ran"]}
    assert found.behind == {"train": {"clean"}, "broken": {"clean", "train"}}
    Path("params.yaml").write_text("rate: 2\n")
    Path("raw").write_text("other")
    Path("dvc.yaml").write_text(DVC_YAML.replace("cat raw", "cat  raw"))
    found = plan()
    assert sorted(found.why["clean"]) == ["changed command", "rate modified", "raw modified"]
    assert list(found.behind) == ["clean", "train", "broken"]
    Path("dvc.lock").unlink()
    assert changes() == {stage: ["it never ran"] for stage in ("clean", "train", "broken")}
    monkeypatch.chdir("/")
    assert stages(once_run, ["train"]) == ["clean", "train"]


def test_our_own_graph_is_whole_and_in_order(monkeypatch):
    monkeypatch.chdir(ROOT)
    datasets, models, found = dataset_names(), model_names(), stages()
    assert sorted(found) == sorted(
        [f"{stage}@{dataset}" for stage in ("fetch", "preprocess") for dataset in datasets]
        + ["pretrain", "load_published", "replay@assistant"]
        + [f"finetune@{name}" for name in application_names()]
        + [evaluation_stage(model) for model in models]
    )
    for before, after in [
        *((f"fetch@{dataset}", f"preprocess@{dataset}") for dataset in datasets),
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
    ]:
        assert found.index(before) < found.index(after)


def test_a_replay_that_no_application_rehearses_is_no_stage(project_copy, monkeypatch):
    monkeypatch.chdir(project_copy)
    assert "replay@assistant" in stages()
    change_params(project_copy, {"applications": {"assistant": {"rehearses": "data/replay/nothing.jsonl"}}})
    assert "replay@assistant" not in stages()


def test_the_checkpoints_of_a_finished_training_go_when_dvc_has_kept_what_it_made(project):
    folders = [STATE / "stages" / name for name in ("clean/finished", "clean/interrupted", "train/finished")]
    for folder in folders:
        folder.mkdir(parents=True)
        if folder.name == FINISHED:
            (folder / FINISHED).touch()
    reproduce("clean", {})
    assert [folder.exists() for folder in folders] == [False, True, True]
    Path("model").touch()
    with pytest.raises(UserError, match="stage broken failed: the reason"):
        reproduce("broken", {})
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_a_stage_is_stale_when_what_it_reads_changes_or_what_it_made_is_gone(ran):
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


def test_what_an_earlier_run_made_of_the_same_is_known_and_comes_back_without_a_run(ran):
    made, said = Path("model").read_text(), Path("said").read_text()
    for text, outcome in {"other": RAN, "text": RESTORED}.items():
        Path("raw").write_text(text)
        for stage in ("clean", "train"):
            assert expected(stage) == outcome
            reproduce(stage, {"SAID": text})
    assert (Path("model").read_text(), Path("said").read_text()) == (made, said), "it said nothing new"
    Path("dvc.lock").unlink()
    assert expected("clean") == RESTORED
    Path("raw").unlink()
    assert expected("clean") == RAN


@pytest.mark.parametrize("base", ["foundation", "published"])
def test_published_weights_are_loaded_only_where_something_starts_from_them(project, base):
    made = {"load_published": "published", "pretrain": "foundation"}
    lines = [f"{name}: {{cmd: 'cp raw models/{out}', outs: [models/{out}]}}" for name, out in made.items()]
    tune = f"tune: {{cmd: 'touch tuned', deps: [models/{base}], outs: [tuned]}}"
    Path("dvc.yaml").write_text("\n  ".join(["stages:", *lines, tune]) + "\n")
    Path("models").mkdir()
    needed = ["load_published", "pretrain", "tune"] if base == "published" else ["pretrain", "tune"]
    assert stages() == needed
    assert is_stale()
    repro(*needed)
    assert not is_stale()
    Path("models/published").unlink(missing_ok=True)
    assert expected("load_published") == (RESTORED if base == "published" else RAN)
    assert is_stale() is (base == "published")
    Path("tuned").unlink()
    assert is_stale()


def test_one_stage_runs_alone_with_this_interpreter_and_as_no_run_of_a_worker(project, monkeypatch):
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "another")
    Path("dvc.yaml").write_text(DVC_YAML.replace("$SAID", "$SAID $PREFECT__FLOW_RUN_ID"))
    Path("clean").write_text("as it is")
    reproduce("train", {"SAID": "hello"})
    assert Path("model").read_text() == "as it is"  # `clean` did not run before
    assert Path("said").read_text() == "hello\n"
    assert Path(Path("which").read_text().strip()).parent == Path(sys.executable).parent


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("kill -9 $PPID", "dvc was killed by signal 9"),
        (f"mkdir -p {LOG.parent}; echo 'error: row 17: no label' > {LOG}; exit 1", rf"row 17: no label \({LOG}\)$"),
    ],
)
def test_a_failing_stage_is_named_with_the_reason(project, command, reason):
    Path("dvc.yaml").write_text(DVC_YAML.replace("exit 3", command))
    Path("model").write_text("x")
    with pytest.raises(UserError, match=f"^stage broken failed: {reason}"):
        reproduce("broken", {})


def test_a_dvc_yaml_that_cannot_be_read_is_said_in_a_line(project):
    Path("dvc.yaml").write_text("stages: {train: {cmd: [}}")
    with pytest.raises(UserError, match=r"dvc\.yaml"):
        is_stale()


@pytest.fixture
def made(project):
    """`train` has made a model and metrics of `raw`, which has changed since."""
    outs = "outs: [model], metrics: [{m.json: {cache: false}}]"
    Path("dvc.yaml").write_text(f"stages: {{train: {{cmd: 'exec sh train.sh', deps: [raw], {outs}}}}}")
    Path("train.sh").write_text("mkdir model; cp raw model/weights; echo {} > m.json")
    repro("train")
    Path("raw").write_text("other")
    yield
    assert Path("model/weights").read_text() == "text"
    assert Path("m.json").read_text() == "{}\n"
    assert expected("train") == RAN


def test_a_stage_that_fails_leaves_what_it_made_before(made):
    Path("train.sh").write_text("exit 1")
    with pytest.raises(UserError, match="stage train failed"):
        reproduce("train", {})


def test_a_running_stage_holds_its_files_and_leaves_what_it_made_before_if_it_is_stopped(made):
    Path("train.sh").write_text("touch begun; exec sleep 300")
    with begun("train") as running:
        assert not Path("model").exists()  # DVC removes it first
        assert changes()["train"] == ["a stage that runs now holds its files"]
    assert running.returncode != 0


def test_a_stage_that_takes_too_long_is_ended_also_if_it_ignores_sigterm(made, monkeypatch):
    monkeypatch.setattr(graph, "PATIENCE", 0.5)
    Path("train.sh").write_text("trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done")
    reason = r"stage train took longer than 0\.00111 h; the next run goes on from its last"
    with pytest.raises(UserError, match=reason):
        reproduce("train", {}, 4)
    assert not Path("pid").exists() or not psutil.pid_exists(int(Path("pid").read_text()))


def test_git_is_to_keep_what_the_lock_names_parameters_and_outs_that_dvc_does_not_cache(project):
    metrics = "metrics: [{m.json: {cache: false}}, {not/made.json: {cache: false}}]"
    Path("dvc.yaml").write_text(f"stages: {{train: {{cmd: train, params: [rate], outs: [model], {metrics}}}}}")
    Path("m.json").touch()
    assert results() == (["dvc.lock", "m.json"], ["params.yaml"])


def test_asking_what_is_stale_and_reading_the_parameters_loads_no_large_library():
    code = (
        "import sys, tasks.stages.graph, tasks.params.load, tasks.stages.libraries; "
        "assert not {'prefect', 'torch', 'mlflow'} & {*sys.modules}; "
        "tasks.params.load.check_outline(); assert not {'torch', 'mlflow', 'pandas'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


INBOX_YAML = """
stages:
  preprocess: {cmd: "cat data/inbox/emails/*.* > made", deps: [data/inbox/emails], outs: [made]}
"""


def test_what_lies_in_an_inbox_travels_with_git_and_dvcs_remote_to_a_clone(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    monkeypatch.chdir(here)
    git(here, "init", "--quiet")
    Repo.init().close()
    Path("dvc.yaml").write_text(INBOX_YAML)
    Path(".gitignore").write_text(".threestage/\nmlflow.db\n")
    Path(".dvc/config").write_text(f"[core]\nremote = r\n['remote \"r\"']\nurl = {tmp_path}/remote\n")
    inbox = open_inbox("emails")
    assert track(INBOX) == []
    commit(here)

    (inbox / "feedback.jsonl").write_text("one\n")
    (inbox / "spam").mkdir()
    (inbox / "spam/1.eml").write_text("Subject: a\n\nb")
    pointers = [f"data/inbox/emails/{name}.dvc" for name in ("feedback.jsonl", "spam")]
    assert track(INBOX) == track(INBOX) == pointers
    with Repo() as repo:
        repo.reproduce()
    assert {*pointers} < {*results()[0]}
    assert stages() == ["preprocess"]
    commit(here)
    assert "feedback.jsonl\n" not in subprocess.check_output(["git", "ls-files"], text=True)
    with Repo() as repo:
        repo.push()

    git(here, "clone", "--quiet", ".", str(there))
    monkeypatch.chdir(there)
    with pytest.raises(UserError, match=r"^data/inbox/emails/feedback\.jsonl\.dvc: its data is not here; `dvc pull`"):
        track(INBOX)
    with Repo() as repo:
        repo.pull()
        assert repo.status() == {}
    assert (plan().why, is_stale(), stale("preprocess")) == ({}, False, {})
    assert Path("made").read_text() == (here / "made").read_text()

    Path("data/inbox/emails/feedback.jsonl").write_text("one\ntwo\n")
    assert plan().why == {"preprocess": ["data/inbox/emails modified"]}
    before = Path(pointers[0]).read_text()
    track(INBOX)
    assert Path(pointers[0]).read_text() != before
    reproduce("preprocess", {})
    assert not is_stale()


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A state of it")
