import tarfile
from pathlib import Path

import pytest

from tasks.data.instructions.choose import Sources
from tasks.data.instructions.packs import read_packs
from tasks.data.instructions.rows import source_of

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="session")
def packs():
    """The packs of this project."""
    return read_packs(ROOT / "data/instructions")


@pytest.fixture(scope="session")
def sources(tmp_path_factory, packs):
    """Slices of the real sources of facts."""
    folder = tmp_path_factory.mktemp("sources")
    with tarfile.open(ROOT / "tests/data/instructions.tgz") as archive:
        archive.extractall(folder, filter="data")
    return Sources({name: path for path in folder.rglob("*") if (name := source_of(path))}, packs.lists)
