import tarfile
from pathlib import Path

import pytest

from tasks.data.checkable import source_of
from tasks.data.checkable.kind import Sources

SLICES = Path(__file__).parents[3] / "data/instructions.tgz"


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Slices of the real sources of facts."""
    folder = tmp_path_factory.mktemp("sources")
    with tarfile.open(SLICES) as archive:
        archive.extractall(folder, filter="data")
    return Sources({name: path for path in folder.rglob("*") if (name := source_of(path))})
