"""The code and parameters that make models, as git knows them, and the new files among them that it does not know.

Other new files, such as notes and tokens, make no model and go nowhere.
"""

from pathlib import PurePath

from tasks.registry.git import git_output
from tasks.stages.hashes import as_hashes, locked_stages

DATA = ("params.yaml", "dvc.yaml")
CODE = (
    "*.py",
    "*.[ch]",
    "pyproject.toml",
    "data/behavioural",
    "data/*.jsonl",
    "data/*.yaml",
    ":(exclude)tests",
    ":(exclude)benchmarks",
)
FOLDERS = {"app", "cli", "flows", "llm", "tasks"}
"""Every new file of code below them counts, whether or not other code imports it."""


def file_names(listed: bytes | None) -> list[str]:
    """The names in git's output with `-z`, sorted."""
    return sorted(name.decode(errors="surrogateescape") for name in (listed or b"").split(b"\0") if name)


def new_code() -> list[str]:
    """The untracked files that make models: code in FOLDERS, and what dvc.lock has as a dep of a stage."""
    untracked = file_names(git_output("ls-files --others --exclude-standard -z --", *DATA, *CODE))
    if not untracked:
        return []
    counted = {*DATA, *FOLDERS}
    for stage in locked_stages().values():
        counted |= as_hashes(stage).deps.keys()
    return [path for path in untracked if counted & {path, *map(str, PurePath(path).parents)}]
