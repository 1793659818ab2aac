"""DVC: which stages are stale, `dvc repro` as a process that ends with its own, and what git keeps of a run."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import chdir
from functools import partial
from pathlib import Path

import psutil
import pytest
from dvc import lock as dvc_lock
from dvc.repo import Repo
from projects import ROOT, change_params, commit_all, environment, git
from real_servers import HANGS, has_ended, wait_for

from llm.errors import UserError
from tasks.data.inbox import INBOX, open_inbox
from tasks.stages.dvc import push, remote, reproduce, results, stages, stale, track
from tasks.stages.lock import FINISHED, STATE
from tasks.stages.process import read_end, state_folder

pytestmark = pytest.mark.slow

CLEAN = "clean: {cmd: cat raw > clean, deps: [raw], params: [rate], outs: [clean]}"
TRAIN = "train: {cmd: cat clean > model, deps: [clean], outs: [model]}"
PUBLISHED = "load_published: {cmd: cp raw published, deps: [raw], outs: [published]}"
TUNE = "tune: {cmd: cp published tuned, deps: [published], outs: [tuned]}"

GRAPH = (TRAIN, CLEAN, PUBLISHED)


def pipeline(*lines):
    return "\n  ".join(["stages:", *lines]) + "\n"


def make_graph(folder):
    """Make a project of DVC in which nothing ran."""
    (folder / "dvc.yaml").write_text(pipeline(*GRAPH))
    (folder / "params.yaml").write_text("rate: 1\n")
    (folder / "raw").write_text("text")
    Repo.init(str(folder), no_scm=True).close()


@pytest.fixture
def graph(tmp_path, monkeypatch):
    """The working folder: a project in which nothing ran."""
    make_graph(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project in which the stages that are needed ran, for copies."""
    folder = tmp_path_factory.mktemp("finished")
    make_graph(folder)
    with chdir(folder):
        assert reproduce([], {}) == {}
    return folder


def test_stages_are_in_the_order_of_a_run_each_with_all_that_it_needs(graph):
    assert list(stages().items()) == [("clean", set()), ("train", {"clean"})]
    assert list(stages(["clean"])) == ["clean"]
    assert list(stages(["load_published"])) == ["load_published"]
    Path("dvc.yaml").write_text(pipeline(TUNE, PUBLISHED))
    assert list(stages().items()) == [("load_published", set()), ("tune", {"load_published"})]
    for function in (stages, stale):
        with pytest.raises(UserError, match="trian"):
            function(["trian"])


def test_replay_that_no_application_rehearses_is_no_stage(project_copy, monkeypatch):
    monkeypatch.chdir(project_copy)
    assert "replay@assistant" in stages()
    change_params(project_copy, {"applications": {"assistant": {"rehearses": "data/replay/nothing.jsonl"}}})
    assert "replay@assistant" not in stages()


@pytest.mark.parametrize(
    ("path", "content", "subjects"),
    [
        ("raw", "other", {"clean": "raw"}),
        ("params.yaml", "rate: 2\n", {"clean": "rate"}),
        ("clean", "other", {"clean": "clean", "train": "clean"}),
        ("model", None, {"train": "model"}),
        ("dvc.yaml", pipeline(TRAIN, CLEAN.replace("cat", "head"), PUBLISHED), {"clean": "command"}),
        ("dvc.yaml", pipeline(*GRAPH, TUNE), {"load_published": "never", "tune": "never"}),
        ("dvc.lock", None, {"clean": "never", "train": "never"}),
    ],
)
def test_stale_names_the_stages_and_what_differs(finished, tmp_path, monkeypatch, path, content, subjects):
    monkeypatch.chdir(shutil.copytree(finished, tmp_path, dirs_exist_ok=True))
    Path(path).unlink()
    if content is not None:
        Path(path).write_text(content)
    reasons = stale()
    assert list(reasons) == list(subjects)
    for stage, subject in subjects.items():
        (reason,) = reasons[stage]
        assert subject in reason.split()
    assert stale(["clean"]).keys() == {"clean"} & subjects.keys()


@pytest.mark.parametrize(("path", "content"), [("dvc.yaml", "stages: {train: {cmd: [}}"), ("dvc.lock", "<<<<<<< ours")])
def test_error_of_dvc_is_on_one_line(graph, path, content):
    Path(path).write_text(content)
    with pytest.raises(UserError) as caught:
        stale()
    assert len(str(caught.value).splitlines()) == 1


def test_failed_stage_stops_only_what_needs_it(graph, monkeypatch):
    lines = ("broken: {cmd: exit 3, deps: [raw], outs: [a]}", "after: {cmd: cp a b, deps: [a], outs: [b]}")
    noting = CLEAN.replace("cat raw", "env > variables; cat raw")
    Path("dvc.yaml").write_text(pipeline(*lines, TRAIN, noting))
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "of a worker's run")
    for stage in ("clean", "broken"):
        for folder in ("ended", "interrupted"):
            (state_folder(stage) / folder).mkdir(parents=True)
        (state_folder(stage) / "ended" / FINISHED).touch()
    assert reproduce([], {"NIGHT": "tonight"}).keys() == {"broken", "after"} == stale().keys()
    assert Path("model").read_text() == "text"
    assert not Path("published").exists()
    kept = sorted(str(path.relative_to(STATE / "stages")) for path in STATE.glob("stages/*/*"))
    assert kept == ["broken/ended", "broken/interrupted", "clean/interrupted"]  # ended: its outs are stored
    variables = dict(line.split("=", 1) for line in Path("variables").read_text().splitlines() if "=" in line)
    assert (variables["NIGHT"], variables["DVC_STAGE"]) == ("tonight", "clean")
    assert "PREFECT__FLOW_RUN_ID" not in variables
    assert variables["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_reproduce_that_takes_too_long_or_is_killed_is_an_error(graph):
    before = psutil.Process().children()
    with pytest.raises(UserError):
        reproduce([], {}, seconds=0.01)
    assert psutil.Process().children() == before
    Path("dvc.yaml").write_text(pipeline("a: {cmd: kill -9 $PPID, deps: [raw]}"))
    with pytest.raises(UserError, match="9"):
        reproduce([], {})


RUN = """
import sys
from tasks.stages import dvc
from tasks.stages.process import run_command, state_folder
dvc.PATIENCE = float(sys.argv[1])
def work():
    dvc.reproduce([], {})
sys.exit(run_command(work, state_folder("night") / "log"))
"""
SAVES = "trap 'echo step 7 > checkpoint; exit 75' TERM"
IGNORES = "trap '' TERM"


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize(
    ("number", "trap", "patience"),
    [
        (signal.SIGINT, SAVES, HANGS),
        (signal.SIGKILL, SAVES, HANGS),
        (signal.SIGINT, IGNORES, 0.5),
    ],
)
def test_dvc_and_its_stage_end_with_the_process_that_started_them(graph, number, trap, patience):
    slow = "slow: {cmd: exec python -m tasks.stages.parent_death sh slow.sh, deps: [raw]}"
    Path("dvc.yaml").write_text(pipeline(slow, "next: {cmd: touch next, deps: [raw], outs: [next]}"))
    Path("slow.sh").write_text(f"{trap}\ntouch begun\nwhile :; do sleep 0.05; done\n")
    variables = environment(PYTHONPATH=str(ROOT))

    def has_begun():
        return Path("begun").exists() or run.poll() is not None

    with subprocess.Popen([sys.executable, "-c", RUN, str(patience)], env=variables, process_group=0) as run:
        wait_for(has_begun)
        assert run.poll() is None
        dvc_and_stage = psutil.Process(run.pid).children(recursive=True)
        os.killpg(run.pid, number)
    for process in dvc_and_stage:
        wait_for(partial(has_ended, process))
    assert Path("checkpoint").exists() is (trap == SAVES)
    assert not Path("next").exists()
    assert stale().keys() == {"slow", "next"}  # nothing is locked
    end = read_end("night")
    assert (end and end.code) == {signal.SIGINT: 130, signal.SIGKILL: None}[number]


def test_dvc_waits_while_another_dvc_has_the_lock(graph, monkeypatch):
    monkeypatch.setattr(dvc_lock, "DEFAULT_TIMEOUT", 0.1)  # in this process; in the dvc that it starts 3 seconds
    with Repo() as another:
        another.lock.lock()
        with pytest.raises(UserError):
            stale()
        threading.Timer(0.5, another.lock.unlock).start()
        assert stale(wait=True).keys() == {"clean", "train"}
        another.lock.lock()
        threading.Timer(8, another.lock.unlock).start()
        assert reproduce([], {}) == {}


def test_stale_waits_while_another_dvc_runs_a_stage(graph):
    slow = (
        "slow: {cmd: 'touch begun; while ! [ -e go ]; do sleep 0.05; done; echo x > slow', deps: [raw], outs: [slow]}"
    )
    Path("dvc.yaml").write_text(pipeline(slow))
    with subprocess.Popen([sys.executable, "-m", "dvc", "repro", "--quiet"], env=environment()) as another:
        wait_for(Path("begun").exists)
        with pytest.raises(UserError, match=str(another.pid)):
            stale()
        threading.Timer(0.5, Path("go").touch).start()
        assert stale(wait=True) == {}


def test_push_that_fails_or_takes_too_long_is_an_error(graph):
    assert remote() is None
    before = psutil.Process().children()
    for seconds in (HANGS, 0.01):
        with pytest.raises(UserError, match=r"^dvc push.*$"):
            push(seconds)
    assert psutil.Process().children() == before


def test_results_are_dvc_lock_parameters_and_outs_that_dvc_does_not_cache(graph):
    metrics = "metrics: [{m.json: {cache: false}}, {not/made.json: {cache: false}}]"
    Path("dvc.yaml").write_text(pipeline(f"train: {{cmd: train, params: [rate], outs: [model], {metrics}}}"))
    Path("m.json").touch()
    assert results() == (["dvc.lock", "m.json", "not/made.json"], ["params.yaml"])


def test_inbox_travels_with_git_and_dvcs_remote_to_a_clone(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    monkeypatch.chdir(here)
    git(here, "init --quiet")
    Repo.init().close()
    Path(".dvc/config").write_text(f"[core]\nremote = r\n['remote \"r\"']\nurl = {tmp_path}/remote\n")
    inbox = open_inbox("emails")
    Path("dvc.yaml").write_text(pipeline(f"join: {{cmd: cat {inbox}/*.jsonl > made, deps: [{inbox}], outs: [made]}}"))
    Path(".gitignore").write_text(".threestage/\nmlflow.db\n/made\n")
    assert track(INBOX) == []
    (inbox / "feedback.jsonl").write_text("one\n")
    (inbox / "spam").mkdir()
    (inbox / "spam/1.eml").write_text("Subject: a\n\nb")
    pointers = [f"{inbox}/{name}.dvc" for name in ("feedback.jsonl", "spam")]
    assert track(INBOX) == track(INBOX) == pointers
    assert list(stages()) == ["join"]
    assert reproduce([], {}) == {}
    assert results() == (["dvc.lock", *pointers], [])
    commit_all(here, "A state of it")
    assert remote() == "r"
    push(HANGS)

    subprocess.run(["git", "clone", "--quiet", here, there], check=True)
    monkeypatch.chdir(there)
    with pytest.raises(UserError, match=r"^data/inbox/emails/feedback\.jsonl\.dvc: "):
        track(INBOX)
    with Repo() as repo:
        repo.pull()
    assert stale() == {}
    assert Path("made").read_text() == "one\n"
