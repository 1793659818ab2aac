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
    """The public version of each installed library: 2.13.0 for torch 2.13.0+cpu."""
    return {name: Version(importlib.metadata.version(name)).public for name in LIBRARIES}


def write_libraries(folder: Path = Path()) -> None:
    """Update a project's libraries.json."""
    content, file = json.dumps(installed(), indent=2) + "\n", folder / FILE
    if not file.exists() or file.read_text() != content:
        write_atomic(file, content)


def check_libraries() -> None:
    """Raise UserError if libraries.json does not match the installed libraries: DVC would record the wrong versions."""
    try:
        recorded = json.loads(FILE.read_text())
    except (OSError, ValueError):  # missing, or with conflict markers
        recorded = {}
    for name, version in installed().items():
        if recorded.get(name) != version:
            way_out = "run `python -m tasks.stages.libraries`, then the same command"
            raise UserError(f"{FILE}: {name} is {recorded.get(name, 'missing')}, installed is {version}; {way_out}")


if __name__ == "__main__":
    write_libraries()
