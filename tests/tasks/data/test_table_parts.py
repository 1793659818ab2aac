import logging

import pyarrow as pa
import pytest

from tasks.data.cleaning.record import changed, left_out, recorded
from tasks.data.table_parts import column, make_parts, read_part, read_record, with_record


def squares(number: int) -> pa.Table:
    with recorded() as record:
        changed("characters", str(number), str(number**2))
        left_out("blank", [{"id": number, "reason": "none"}])
    if number == 3:
        raise ValueError("three")
    return with_record(pa.table({"square": [number**2] * number}), record)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Parts are made in this process, where this file can be imported from."""
    monkeypatch.delenv("THREESTAGE_RAY", raising=False)
    monkeypatch.setattr("tasks.data.table_parts.map_in_order", map)


def test_parts_come_in_the_order_of_jobs_with_what_cleaning_did_to_each(tmp_path):
    parts = make_parts(tmp_path / "squares", [1, 2, 4], squares)
    assert [part.name for part in parts] == ["000000.arrow", "000001.arrow", "000002.arrow"]
    assert column(parts, "square").tolist() == [1, 4, 4, 16, 16, 16, 16]
    record = read_record(parts[1])
    assert record.counts() == {"characters": 1, "blank": 1}
    assert record.quarantine()[["id", "rule"]].to_numpy().tolist() == [["2", "blank"]]
    assert read_part(parts[0], ["square"]).to_pydict() == {"square": [1]}


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
