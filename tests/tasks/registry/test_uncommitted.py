import subprocess
from pathlib import Path

import pytest

from tasks.registry import uncommitted as module
from tasks.registry.uncommitted import uncommitted

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
}


def git(*arguments: str) -> str:
    someone = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    return subprocess.run(["git", *someone, *arguments], check=True, capture_output=True, text=True).stdout


def write(path: str, content: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content, newline="")


@pytest.fixture
def committed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, content in FILES.items():
        write(path, content)
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")


def test_a_commit_that_holds_all_leaves_nothing(committed):
    write("tests/test_gpt.py", "changed\n")
    assert uncommitted("mail") == module.Uncommitted("", b"")


def test_values_are_named_as_they_were_and_are_the_models_own_first(committed):
    write(
        "params.yaml", PARAMS.replace("1500", "20").replace("900, lora: null", "20, lora: {rank: 4}").replace("8", "9")
    )
    own = "steps 900 -> 20, lora null -> nothing, evaluate.batch_size 8 -> 9, lora.rank nothing -> 4"
    assert uncommitted("mail").said == f"not in git: params.yaml, {own}, foundation.train.steps 1500 -> 20"
    other = "applications.mail.train.steps 900 -> 20"
    assert uncommitted("foundation").said.startswith(f"not in git: params.yaml, steps 1500 -> 20, {other}, ")


def test_stages_and_files_are_named_and_the_diff_makes_them_from_the_commit(committed, tmp_path):
    write("dvc.yaml", FILES["dvc.yaml"].replace("cmd: b", "cmd: c"))
    write("llm/gpt.py", "one\r\nthree\r\n")
    write("tasks/new.py", "")
    write("tasks/data/newer.py", "x = 1  # ü\n")
    git("config", "diff.noprefix", "true")
    git("config", "color.diff", "always")
    changed = uncommitted("mail")
    assert changed.said == "not in git: dvc.yaml, stage finetune; code, llm/gpt.py, tasks/data/newer.py, tasks/new.py"
    git("worktree", "add", "-q", "--detach", "elsewhere", "HEAD")
    subprocess.run(["git", "apply", "-"], cwd="elsewhere", input=changed.diff, check=True)
    for path in ("dvc.yaml", "llm/gpt.py", "tasks/new.py", "tasks/data/newer.py"):
        assert Path("elsewhere", path).read_bytes() == Path(path).read_bytes(), path


def test_a_comment_a_deleted_file_and_one_that_is_no_yaml_are_said(committed):
    write("params.yaml", PARAMS + "# why\n")
    write("dvc.yaml", "stages: [\n")
    Path("llm/gpt.py").unlink()
    changed = uncommitted("mail")
    stages = "dvc.yaml, stage pretrain, stage finetune"
    assert changed.said == f"not in git: params.yaml, no value of it; {stages}; code, llm/gpt.py"
    assert b"deleted file mode" in changed.diff


def test_many_and_long_values_are_cut(committed):
    write("params.yaml", PARAMS + "".join(f"k{n}: {'v' * 50}\n" for n in range(20)))
    said = uncommitted("mail").said
    assert f"k0 nothing -> {'v' * 40}…, k1" in said
    assert said.endswith(", and 15 more")


def test_what_is_too_much_or_binary_is_left_out_of_the_diff_and_named(committed, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 500)
    write("a.py", "x\n" * 300)
    write("b.py", "y = 1\n")
    Path("c.py").write_bytes(bytes(99))
    changed = uncommitted("mail")
    assert changed.said == "not in git: left out of the diff, a.py, c.py; code, a.py, b.py, c.py"
    assert changed.diff.startswith(b"diff --git a/b.py b/b.py\nnew file mode 100644\n")
    assert len(changed.diff) < 500


@pytest.mark.parametrize("with_git", [True, False])
def test_without_a_commit_there_is_nothing_to_compare_with(tmp_path, monkeypatch, with_git):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if with_git:
        git("init", "-q")
    write("params.yaml", PARAMS)
    assert uncommitted("mail") == module.Uncommitted("", b"")


def test_without_the_command_git_there_is_nothing_to_compare_with(committed, monkeypatch):
    write("params.yaml", "")
    monkeypatch.setenv("PATH", "")
    assert uncommitted("mail") == module.Uncommitted("", b"")
