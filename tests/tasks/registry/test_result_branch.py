import os
import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo

from tasks.registry.result_branch import commit_results, put_back, share

DAY = "2026-11-26"
BRANCH = f"retrain/{DAY}"
MESSAGE = "retrain 2026-11-26\n\nmake: raw modified\n"
HANGS = 600  # seconds that only something that hangs takes
FILES = {"params.yaml": "rate: 1\n", "dvc.lock": "old\n", "code.py": "one\n", "notes": "mine\n"}
PATHS = ["dvc.lock", "params.yaml", "reports"]


def git(command, *arguments):
    done = subprocess.run(["git", *command.split(), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write(path, content):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """One commit, then results, a staged change and two that are not."""
    monkeypatch.chdir(tmp_path)
    for name in [*os.environ]:
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    git("init -q -b main")
    git("config user.name Ada")
    git("config user.email ada@localhost")
    for path, content in FILES.items():
        write(path, content)
    git("add .")
    git("commit -qm all")
    for path, content in {"dvc.lock": "new\n", "code.py": "two\n", "reports/a/metrics.json": "{}\n"}.items():
        write(path, content)
    write("notes", "staged\n")
    git("add notes")
    write("notes", "not staged\n")
    return tmp_path


def state():
    return [git(command) for command in ("status --porcelain", "rev-parse HEAD", "symbolic-ref HEAD")]


def files(commit):
    names = git("ls-tree -r --name-only", commit).splitlines()
    return {name: git("show", f"{commit}:{name}") for name in names}


def test_commit_results_commits_the_results_and_moves_nothing_else(repository):
    before = state()
    assert commit_results(DAY, PATHS, MESSAGE) == BRANCH
    assert git("rev-parse", f"{BRANCH}^@") == git("rev-parse", "HEAD")
    changed = {"dvc.lock": "new", "reports/a/metrics.json": "{}"}
    assert files(BRANCH) == {name: content.strip() for name, content in FILES.items()} | changed
    assert git("log -1 --format=%an|%cn|%B", BRANCH).strip() == f"Threestage|Threestage|{MESSAGE}".strip()
    assert state() == before
    assert Path("notes").read_text() == "not staged\n"

    put_back(PATHS)
    assert (Path("dvc.lock").read_text(), Path("reports/a/metrics.json").exists()) == ("old\n", False)
    assert git("status --porcelain").splitlines() == ["M code.py", "MM notes"]


def test_commit_results_makes_one_branch_a_state_and_moves_none(repository):
    assert commit_results(DAY, PATHS, MESSAGE) == commit_results("2026-11-27", PATHS, MESSAGE) == BRANCH
    first = git("rev-parse", BRANCH)
    write("params.yaml", "rate: 2\n")
    assert commit_results(DAY, PATHS, MESSAGE) == f"{BRANCH}-2"
    git("commit -qm code code.py")
    assert commit_results(DAY, PATHS, MESSAGE) == f"{BRANCH}-3", "merged code needs a branch on top of it"
    assert files(f"{BRANCH}-3")["code.py"] == "two"
    assert git("rev-parse", BRANCH) == first
    git("add .")
    git("commit -qm results")
    assert commit_results(DAY, PATHS, MESSAGE) == "", "HEAD has them all"


def test_commit_results_of_a_project_in_a_folder_of_its_repository(repository, monkeypatch):
    write("project/dvc.lock", "one\n")
    git("add project")
    git("commit -qm project")
    monkeypatch.chdir("project")
    write("dvc.lock", "two\n")
    commit_results(DAY, ["dvc.lock"], MESSAGE)
    assert git("show", f"{BRANCH}:project/dvc.lock") == "two"
    put_back(["dvc.lock"])
    assert Path("dvc.lock").read_text() == "one\n"


@pytest.fixture
def ran(repository):
    """In the repository a DVC graph that ran; its model is cached, its metrics are git's; two remotes beside it."""
    stage = "{cmd: 'cp raw model; echo {} > metrics.json', deps: [raw], params: [rate], outs: [model]"
    write("dvc.yaml", f"stages: {{make: {stage}, metrics: [{{metrics.json: {{cache: false}}}}]}}}}\n")
    write("raw", "rows\n")
    Path("dvc.lock").unlink()
    with Repo.init() as repo, repo.config.edit() as config:
        repo.reproduce()
        config["core"]["remote"], config["remote"]["store"] = "store", {"url": str(repository / "store")}
    git("init -q --bare bare")
    git("remote add origin bare")
    return repository


def test_share_names_each_failure_and_goes_on(ran):
    Path("file").touch()
    with Repo() as repo, repo.config.edit() as config:
        config["remote"]["store"] = {"url": str(ran / "file/store")}
    shared = share(DAY, MESSAGE, push_to="upstream", seconds=HANGS)
    data, branch = shared.failed
    assert shared.done == [f"committed to the branch {BRANCH}"]
    assert "Not a directory" in data
    assert branch.startswith(f"{BRANCH} not pushed: git push: fatal: 'upstream'")
    (ran / ".git").rename(ran / "git")
    Repo.init(no_scm=True, force=True).close()
    assert share(DAY, MESSAGE, push_to="upstream", seconds=HANGS).failed[0].startswith("not committed: git rev-parse: ")
