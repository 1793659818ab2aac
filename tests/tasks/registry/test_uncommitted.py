import json
import subprocess
from pathlib import Path

import pytest
from projects import git

from tasks.registry import uncommitted as module
from tasks.registry.record import Record, current_facts, not_in_git
from tasks.registry.uncommitted import uncommitted
from tasks.stages.hashes import Hashes

PARAMS = """\
foundation: {train: {steps: 1500}}
applications:
  mail:
    train: {steps: 900, lora: null, prompts: [a, b]}
    evaluate: {batch_size: 8}
"""
FILES = {
    "params.yaml": PARAMS,
    "dvc.yaml": "stages: {pretrain: {cmd: a}, finetune: {cmd: b}}\n",
    "llm/gpt.py": "one\r\ntwo\r\n",
    "tests/test_gpt.py": "pass\n",
    "train.py": "from llm import gpt\n",
}


def write(path: str, content: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content, newline="")


@pytest.fixture
def committed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, content in FILES.items():
        write(path, content)
    git(Path(), "init -q")
    git(Path(), "add .")
    git(Path(), "commit -qm all")


def test_uncommitted_names_changed_files_that_make_models(committed):
    write("tests/test_gpt.py", "changed\n")  # which makes no model
    assert uncommitted() == module.Uncommitted("", b"")
    write("params.yaml", PARAMS.replace("1500", "20"))
    changed = uncommitted()
    assert changed.summary == "not in git: params.yaml"
    assert b"\n+foundation: {train: {steps: 20}}\n" in changed.diff
    for number in range(8):
        write(f"llm/{number}.py", "pass\n")
    assert uncommitted().summary.endswith("llm/4.py, and 3 more")


def test_uncommitted_diff_makes_the_files_from_the_commit(committed, tmp_path):
    write("params.yaml", PARAMS + "# why\n")
    write("dvc.yaml", "stages: [\n")
    write("llm/gpt.py", "import tasks.new\r\n")
    write("tasks/new.py", "from .data import newer\n")
    write("tasks/data/newer.py", "x = 1  # ü\n")
    git(Path(), "config diff.noprefix true")
    git(Path(), "config color.diff always")
    changed = uncommitted()
    assert changed.summary == "not in git: dvc.yaml, llm/gpt.py, params.yaml, tasks/data/newer.py, tasks/new.py"
    git(Path(), "worktree add -q --detach elsewhere HEAD")
    subprocess.run(["git", "apply", "-"], cwd="elsewhere", input=changed.diff, check=True)
    for path in ("params.yaml", "dvc.yaml", "llm/gpt.py", "tasks/new.py", "tasks/data/newer.py"):
        assert Path("elsewhere", path).read_bytes() == Path(path).read_bytes(), path
    Path("llm/gpt.py").unlink()
    assert b"deleted file mode" in uncommitted().diff


def test_uncommitted_has_no_new_file_outside_the_code_but_deps(committed):
    secret = "TOKEN = 'hunter2'\n"
    for path in ("scratch.py", "notes/llm/scratch.py", "data/notes.yaml", "tests/test_new.py", "llm/notes.txt", ".env"):
        write(path, secret)
    assert uncommitted() == module.Uncommitted("", b"")
    assert current_facts()["git.dirty.code"] == "false"
    write("llm/deep/new.py", "pass\n")
    write("data/mails/own.jsonl", "{}\n")
    write("extra.py", "pass\n")
    deps = [{"path": "data/mails", "md5": "1.dir"}, {"path": "extra.py", "md5": "2"}]
    write("dvc.lock", json.dumps({"schema": "2.0", "stages": {"train": {"cmd": "a", "deps": deps}}}))
    changed = uncommitted()
    assert changed.summary == "not in git: data/mails/own.jsonl, extra.py, llm/deep/new.py"
    assert b"hunter2" not in changed.diff
    assert current_facts()["git.dirty.code"] == "true"


def test_uncommitted_diff_lacks_large_and_binary_files(committed, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 500)
    write("llm/a.py", "x\n" * 300)
    write("llm/b.py", "y = 1\n")
    Path("llm/c.py").write_bytes(bytes(99))
    changed = uncommitted()
    assert changed.summary == "not in git: left out of the diff, llm/a.py, llm/c.py; llm/a.py, llm/b.py, llm/c.py"
    assert changed.diff.startswith(b"diff --git a/llm/b.py b/llm/b.py\nnew file mode 100644\n")
    assert len(changed.diff) < 500


@pytest.mark.parametrize("lacks", ["git", "a repository", "a commit"])
def test_uncommitted_is_empty_without_git_or_a_commit(tmp_path, monkeypatch, lacks):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if lacks == "git":
        monkeypatch.setenv("PATH", "")
    elif lacks == "a commit":
        git(Path(), "init -q")
    write("params.yaml", PARAMS)
    assert uncommitted() == module.Uncommitted("", b"")


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"git.dirty.code": "false", "uncommitted": ""}, ""),
        ({"git.dirty.code": "true", "uncommitted": "not in git: a.py"}, "not in git: a.py"),
        ({"git.dirty.code": "unknown", "uncommitted": ""}, "not in git: code"),
        ({"git.commit": "none"}, "no git commit is known"),
    ],
)
def test_not_in_git_says_what_no_commit_holds(facts, words):
    clean = {"git.commit": "c1", "git.dirty.params.yaml": "false", "git.dirty.dvc.yaml": "false"}
    assert not_in_git(Record("register", Hashes({}, {}, {}), clean | facts)) == words
