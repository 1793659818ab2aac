import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.states import Completed, Running

from llm.errors import UserError
from tasks.stages.hashes import md5_of
from tasks.stages.lock import workspace
from tasks.stages.retention import cache_files, hashes, old_flow_runs, remove_cache_files, remove_flow_runs

pytestmark = pytest.mark.slow

DVC_YAML = """
stages:
  train: {cmd: "mkdir model; cp raw model/weights; cp raw metrics", deps: [raw], outs: [model, metrics]}
"""


def git(*arguments):
    someone = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *someone, *arguments], check=True, capture_output=True)


def train(content):
    """Run the stage on other data; the MD5s of the folder and of the file that it made."""
    Path("raw").write_text(content)
    with Repo() as repo:
        repo.reproduce()
    return md5_of(Path("model")), md5_of(Path("metrics"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    Repo.init().close()
    Path("dvc.yaml").write_text(DVC_YAML)


def names(files):
    return {each.path.parent.name + each.path.name for each in files}


def test_what_the_workspace_a_commit_of_a_branch_or_a_version_has_stays(project):
    committed = train("committed")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Results")
    registered, gone, here = train("registered"), train("old and long"), train("here")
    assert names(cache_files([])) == {*registered, *gone}
    found = cache_files([registered[0]])  # the folder, and so its files; the other out is the same bytes
    assert names(found) == {*gone}
    assert [each.path.suffix for each in found] == [".dir", ""], "a listing goes before its files"
    assert sorted(each.bytes for each in found)[0] == len("old and long")

    remove_cache_files(found)
    assert cache_files([registered[0]]) == []
    git("checkout", "--quiet", "--force", "HEAD", "--", "dvc.lock")
    with Repo() as repo:
        repo.checkout(force=True)
    assert Path("model/weights").read_text() == "committed"
    assert (md5_of(Path("model")), md5_of(Path("metrics"))) == committed != here


def test_results_of_another_machine_of_which_nothing_is_here_stop_nothing(project):
    train("theirs")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Results")
    git("branch", "theirs")
    shutil.rmtree(".dvc/cache")
    old, here = train("old"), train("here")
    assert names(cache_files([])) == {*old} - {*here}
    Path(".dvc/cache/files/md5", here[0][:2], here[0][2:]).unlink()  # nor does a listing that is missing here
    assert names(cache_files([])) == {*old} - {*here}


def test_a_cache_that_others_may_share_is_left_alone(project, tmp_path_factory):
    with Repo() as repo, repo.config.edit() as settings:
        settings["cache"]["dir"] = str(tmp_path_factory.mktemp("shared"))
    train("mine")
    train("mine again")
    with pytest.raises(UserError, match="others may share it; `dvc gc --projects`"):
        cache_files([])


def test_every_hash_of_a_lock_is_found():
    lock = {"train": {"cmd": "x", "deps": [{"path": "raw", "md5": "a"}], "outs": [{"path": "m", "md5": "b.dir"}]}}
    assert sorted(hashes(lock)) == ["a", "b.dir"]


def test_runs_that_ended_long_enough_ago_go_with_all_below_them(prefect_api):
    from prefect import flow, tags, task

    @task
    def step():
        return below(return_state=True)

    @flow
    def below():
        pass

    @flow
    def above():
        step()

    with get_client(sync_client=True) as client:
        others = {run.id for run in client.read_flow_runs()}
        here, elsewhere = [workspace()], ["another:/folder"]
        running = client.create_flow_run(above, state=Running(), tags=here)
        ended = client.create_flow_run(above, state=Completed(), tags=here)
        theirs = client.create_flow_run(above, state=Completed(), tags=elsewhere)
        with tags(*here):
            done = above(return_state=True).state_details.flow_run_id
        children = [run.id for run in client.read_flow_runs() if run.parent_task_run_id and run.id not in others]
        old = old_flow_runs(0)
        assert {done, ended.id} <= {*old}
        assert not {running.id, theirs.id, *children} & {*old}
        assert not {done, ended.id} & {*old_flow_runs(1)}
        remove_flow_runs([done])
        left = FlowRunFilter(id=FlowRunFilterId(any_=[done, ended.id, running.id, *children]))
        assert {run.id for run in client.read_flow_runs(flow_run_filter=left)} == {ended.id, running.id}
