import logging

import pyarrow as pa
import pytest

from tasks.data.table_parts import column, make_parts


def squares(number: int) -> pa.Table:
    if number == 3:
        raise ValueError("three")
    return pa.table({"square": [number**2] * number})


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Parts are made in this process, where this file can be imported from."""
    monkeypatch.delenv("THREESTAGE_RAY", raising=False)
    monkeypatch.setattr("tasks.data.table_parts.map_in_order", map)


def test_resume_makes_missing_parts_alone_and_an_error_leaves_those_before(tmp_path, caplog):
    with pytest.raises(ValueError, match="three"):
        make_parts(tmp_path, [1, 3, 5], squares)
    assert [path.name for path in tmp_path.iterdir()] == ["000000.arrow"]
    before = (tmp_path / "000000.arrow").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        parts = make_parts(tmp_path, [1, 2, 5], squares)
    assert "2 parts made, 1 were there" in caplog.text
    assert parts[0].stat().st_mtime_ns == before
    assert column(parts, "square").tolist() == [1, 4, 4, *[25] * 5]
