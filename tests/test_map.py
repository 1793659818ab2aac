"""docs/map.md says what the docstrings say, and no file is without one."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def page() -> str:
    return runpy.run_path(str(ROOT / "docs" / "map.py"))["page"]()


def test_map_matches_the_code(page) -> None:
    assert (ROOT / "docs" / "map.md").read_text() == page, "run `python docs/map.py`"
