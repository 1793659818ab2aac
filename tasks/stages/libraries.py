"""The versions of the libraries that compute: another version may give other bytes, so DVC must know it.

`python -m tasks.stages.libraries` writes them to libraries.json, which stages name among their parameters. Set-up and
the main command do so, too.
"""

import importlib.metadata
import json
from pathlib import Path

from packaging.version import Version

from llm.errors import UserError
from llm.files import write_atomic

LIBRARIES = (
    "charset-normalizer",
    "ftfy",
    "great-expectations",
    "lxml",
    "matplotlib",
    "numpy",
    "pandas",
    "pyarrow",
    "rensa",
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
    """The public version of each installed library: 2.13.0 for torch 2.13.0+cpu."""
    return {name: Version(importlib.metadata.version(name)).public for name in LIBRARIES}


def write_libraries(folder: Path = Path()) -> None:
    """Update a project's libraries.json."""
    if recorded(folder) != installed():
        write_atomic(folder / FILE, json.dumps(installed(), indent=2) + "\n")


def recorded(folder: Path = Path()) -> dict[str, str]:
    """The versions in a project's libraries.json; empty if it is missing or damaged, as by conflict markers."""
    try:
        versions: dict[str, str] = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return versions


def check_libraries() -> None:
    """Raise UserError if libraries.json does not match the installed libraries: DVC would record the wrong versions."""
    versions = recorded()
    for name, version in installed().items():
        if versions.get(name) != version:
            way_out = "run `python -m tasks.stages.libraries`, then the same command"
            raise UserError(f"{FILE}: {name} is {versions.get(name, 'missing')}, installed is {version}; {way_out}")


if __name__ == "__main__":
    write_libraries()
