import os
import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo
from mlflow import MlflowClient

from llm.errors import UserError
from tasks.registry.branch import Results, commit_results, push_branch, share

BRANCH = "retrain/2026-11-26"
MESSAGE = "retrain 2026-11-26: 1 of 2 stages\n\nmake: raw modified\n"
HANGS = 600  # seconds that only something that hangs takes
FILES = {"params.yaml": "rate: 1\n", "dvc.lock": "old\n", "code.py": "one\n", "notes": "mine\n"}
PATHS = ["dvc.lock", "params.yaml", "reports"]


def git(*arguments: str, folder: str | Path = ".") -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write(path: str, content: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """One commit, then results, a staged change and two that are not."""
    monkeypatch.chdir(tmp_path)
    for name in [*os.environ]:
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    git("init", "-q", "-b", "main")
    git("config", "user.name", "Ada")
    git("config", "user.email", "ada@localhost")
    for path, content in FILES.items():
        write(path, content)
    git("add", ".")
    git("commit", "-qm", "all")
    for path, content in {"dvc.lock": "new\n", "code.py": "two\n", "reports/a/metrics.json": "{}\n"}.items():
        write(path, content)
    write("notes", "staged\n")
    git("add", "notes")
    write("notes", "not staged\n")
    return tmp_path


def state() -> list[str]:
    return [git(*line) for line in (("status", "--porcelain"), ("rev-parse", "HEAD"), ("symbolic-ref", "HEAD"))]


def files(commit: str) -> dict[str, str]:
    names = git("ls-tree", "-r", "--name-only", commit).splitlines()
    return {name: git("show", f"{commit}:{name}") for name in names}


def test_a_commit_holds_the_results_and_nothing_else_moves(repository):
    before = state()
    made = commit_results(BRANCH, PATHS, MESSAGE)
    assert (made.branch, made.new, made.by_nobody) == (BRANCH, True, False)
    assert git("rev-parse", BRANCH) == made.commit
    assert git("rev-parse", f"{BRANCH}^@") == git("rev-parse", "HEAD")
    changed = {"dvc.lock": "new", "reports/a/metrics.json": "{}"}
    assert files(BRANCH) == {name: content.strip() for name, content in FILES.items()} | changed
    assert git("log", "-1", "--format=%an <%ae>|%cn|%B", BRANCH).strip() == f"Ada <ada@localhost>|Ada|{MESSAGE}".strip()
    assert state() == before
    assert git("diff", "--cached", "--name-only") == "notes"
    assert Path("notes").read_text() == "not staged\n"


def test_the_second_of_a_day_goes_on_top_and_the_same_tree_is_no_commit(repository):
    first = commit_results(BRANCH, PATHS, MESSAGE)
    assert commit_results(BRANCH, PATHS, MESSAGE) == Results(BRANCH, first.commit, False, False)
    write("params.yaml", "rate: 2\n")
    second = commit_results(BRANCH, PATHS, MESSAGE)
    assert git("rev-parse", f"{BRANCH}^@") == first.commit
    assert files(BRANCH)["params.yaml"] == "rate: 2"
    Path("reports/a/metrics.json").unlink()
    assert commit_results(BRANCH, [*PATHS, "reports/a/metrics.json"], MESSAGE).commit != second.commit
    assert "reports/a/metrics.json" not in files(BRANCH)


def test_where_head_moved_meanwhile_the_commit_has_its_code_and_joins_the_two(repository):
    first = commit_results(BRANCH, PATHS, MESSAGE)
    git("commit", "-qm", "code", "code.py")
    commit_results(BRANCH, PATHS, MESSAGE)
    assert git("rev-parse", f"{BRANCH}^@").split() == [first.commit, git("rev-parse", "HEAD")]
    assert files(BRANCH)["code.py"] == "two"


def test_what_head_holds_already_makes_no_branch(repository):
    git("add", ".")
    git("commit", "-qm", "results")
    made = commit_results(BRANCH, PATHS, MESSAGE)
    assert (made.branch, made.commit, made.new) == ("", git("rev-parse", "HEAD"), False)
    assert not git("branch", "--list", "retrain/*")


def test_a_branch_that_somebody_has_checked_out_does_not_move_under_them(repository):
    first = commit_results(BRANCH, PATHS, MESSAGE)
    git("worktree", "add", "-q", "elsewhere", BRANCH)
    write("dvc.lock", "newer\n")
    for _ in range(2):
        assert commit_results(BRANCH, PATHS, MESSAGE).branch == f"{BRANCH}-2"
    assert git("rev-parse", BRANCH) == first.commit
    assert git("rev-parse", f"{BRANCH}-2^@") == git("rev-parse", "HEAD")


def test_what_a_person_committed_to_the_branch_is_not_undone(repository):
    commit_results(BRANCH, PATHS, MESSAGE)
    git("worktree", "add", "-q", "elsewhere", BRANCH)
    Path("elsewhere/notes.md").write_text("looks good\n")
    git("add", "notes.md", folder="elsewhere")
    git("commit", "-q", "-m", "What I saw", folder="elsewhere")
    git("worktree", "remove", "elsewhere")
    theirs = git("rev-parse", BRANCH)
    write("dvc.lock", "newer\n")
    for _ in range(2):
        assert commit_results(BRANCH, PATHS, MESSAGE).branch == f"{BRANCH}-2"
    assert git("rev-parse", BRANCH) == theirs
    assert "notes.md" not in files(f"{BRANCH}-2")


def test_a_project_in_a_folder_of_its_repository_goes_on_with_its_branch(repository, monkeypatch):
    write("project/dvc.lock", "one\n")
    git("add", "project")
    git("commit", "-qm", "a project")
    monkeypatch.chdir("project")
    for content in ("two\n", "three\n"):
        write("dvc.lock", content)
        assert commit_results(BRANCH, ["dvc.lock"], MESSAGE).branch == BRANCH
    assert git("show", f"{BRANCH}:project/dvc.lock") == "three"


def test_where_git_knows_nobody_the_commit_says_so(repository):
    for key in ("user.name", "user.email"):
        git("config", "--unset", key)
    git("config", "user.useConfigOnly", "true")
    assert commit_results(BRANCH, PATHS, MESSAGE).by_nobody
    assert git("log", "-1", "--format=%an|%cn", BRANCH) == "Threestage|Threestage"


def test_outside_git_and_before_the_first_commit_there_is_no_branch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="git rev-parse: fatal: not a git repository"):
        commit_results(BRANCH, PATHS, MESSAGE)
    git("init", "-q")
    with pytest.raises(UserError, match="git has no commit here yet"):
        commit_results(BRANCH, PATHS, MESSAGE)


def test_a_branch_is_pushed_and_what_the_remote_refuses_is_said(repository, tmp_path):
    commit_results(BRANCH, PATHS, MESSAGE)
    git("init", "-q", "--bare", "bare")
    with pytest.raises(UserError, match="git has no remote 'origin': `git remote add origin URL`"):
        push_branch(BRANCH, "origin", HANGS)
    git("remote", "add", "origin", "bare")
    push_branch(BRANCH, "origin", HANGS)
    assert git("rev-parse", BRANCH, folder="bare") == git("rev-parse", BRANCH)
    git("update-ref", f"refs/heads/{BRANCH}", "HEAD")
    write("dvc.lock", "of another machine\n")
    commit_results(BRANCH, PATHS, MESSAGE)
    with pytest.raises(UserError, match=r"^git push: ! \[rejected\] .*\(non-fast-forward\)$"):
        push_branch(BRANCH, "origin", HANGS)
    git("remote", "set-url", "origin", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"^git push: fatal: '.*nowhere' does not appear to be a git repository$"):
        push_branch(BRANCH, "origin", HANGS)


@pytest.fixture
def ran(repository) -> Path:
    """In the repository a DVC graph that ran; its model is cached, its metrics are git's, and there is no remote."""
    stage = "{cmd: 'cp raw model; echo {} > metrics.json', deps: [raw], params: [rate], outs: [model]"
    write("dvc.yaml", f"stages: {{make: {stage}, metrics: [{{metrics.json: {{cache: false}}}}]}}}}\n")
    write("raw", "rows\n")
    Path("dvc.lock").unlink()
    with Repo.init() as repo:
        repo.reproduce()
    return repository


def test_what_a_run_made_is_committed_named_on_its_versions_and_pushed(ran, mlflow_store):
    client = MlflowClient(f"sqlite:///{mlflow_store}")
    client.create_registered_model("threestage-classifier")
    client.create_model_version("threestage-classifier", str(ran))
    versions = {"threestage-classifier": "1"}
    said, well = share(BRANCH, MESSAGE, versions, "", HANGS)
    assert well
    commit = git("rev-parse", BRANCH)
    assert said == [
        f"committed to the branch {BRANCH}, {commit[:10]}",
        "data not pushed: DVC has no default remote",
        f"{BRANCH} not pushed: `push_to` names no git remote",
    ]
    assert files(BRANCH).keys() == FILES.keys() | {"metrics.json"}
    assert "model" in files(BRANCH)["dvc.lock"]
    tags = client.get_model_version("threestage-classifier", "1").tags
    assert (tags["threestage.git.branch"], tags["threestage.git.results"]) == (BRANCH, commit)

    git("init", "-q", "--bare", "bare")
    git("remote", "add", "origin", "bare")
    with Repo() as repo, repo.config.edit() as config:
        config["core"]["remote"], config["remote"]["store"] = "store", {"url": str(ran / "store")}
    write("params.yaml", "rate: 2\n")
    said, well = share(BRANCH, MESSAGE, versions, "origin", HANGS)
    assert well
    assert said == [
        f"committed to the branch {BRANCH}, {git('rev-parse', BRANCH)[:10]}",
        "data pushed to DVC's remote store",
        f"{BRANCH} pushed to origin",
    ]
    assert git("rev-parse", BRANCH, folder="bare") == git("rev-parse", BRANCH) != commit
    assert [path.read_text() for path in Path("store").rglob("*") if path.is_file()] == ["rows\n"]
    assert client.get_model_version("threestage-classifier", "1").tags == tags


def test_what_can_not_be_shared_is_said_and_raises_nothing(ran):
    Path("file").touch()
    with Repo() as repo, repo.config.edit() as config:
        config["core"]["remote"], config["remote"]["store"] = "store", {"url": str(ran / "file/store")}
    (committed, data, branch), well = share(BRANCH, MESSAGE, {}, "upstream", HANGS)
    assert not well
    assert committed.startswith(f"committed to the branch {BRANCH}, ")
    assert "Not a directory" in data
    assert data.startswith("data not pushed: dvc push: ")
    assert branch == f"{BRANCH} not pushed: git has no remote 'upstream': `git remote add upstream URL`"
    with Repo() as repo, repo.config.edit() as config:
        config["core"]["no_scm"] = True
    (ran / ".git").rename(ran / "git")
    (committed, *_), well = share(BRANCH, MESSAGE, {}, "upstream", HANGS)
    assert (committed.startswith("not committed: git rev-parse: "), well) == (True, False)
