"""The versions of the libraries that compute: another version may give other bytes, so DVC must see it.

`python -m tasks.stages.libraries` writes them to libraries.json, which the stages name among their parameters; set-up
runs it, and so does the main command.
"""

import importlib.metadata
import json
from pathlib import Path

from packaging.version import Version

from llm.errors import UserError
from llm.files import write_atomic

LIBRARIES = (
    "ftfy",
    "great-expectations",
    "lxml",
    "matplotlib",
    "numpy",
    "pandas",
    "py3langid",
    "pyarrow",
    "pyppmd",
    "pyyaml",
    "rouge-score",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tiktoken",
    "tokenizers",
    "torch",
)
FILE = Path("libraries.json")


def installed() -> dict[str, str]:
    """The public version of each library here: 2.13.0 for torch 2.13.0+cpu."""
    return {name: Version(importlib.metadata.version(name)).public for name in LIBRARIES}


def write_libraries(folder: Path = Path()) -> None:
    """Write a project's libraries.json where it says something else."""
    content, file = json.dumps(installed(), indent=2) + "\n", folder / FILE
    if not file.exists() or file.read_text() != content:
        write_atomic(file, content)


def check_libraries() -> None:
    """Raise UserError where libraries.json is not of this environment: DVC would take one version for another."""
    try:
        recorded = json.loads(FILE.read_text())
    except (OSError, ValueError):  # missing, or with marks of a merge
        recorded = {}
    for name, version in installed().items():
        if recorded.get(name) != version:
            way_out = "run `python -m tasks.stages.libraries`, then the same command"
            raise UserError(f"{FILE}: {name} is {recorded.get(name, 'missing')}, installed is {version}; {way_out}")


if __name__ == "__main__":
    write_libraries()
