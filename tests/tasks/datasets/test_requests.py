import json

import pytest

from llm.errors import UserError
from tasks.datasets.requests import COLUMNS, DATASET, Params, read_requests

PARAMS = Params(seed=1, validation=0.15, test=0.2, near_duplicate=0.8)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_requests_of_tables_are_read_and_equal_ones_with_different_labels_are_dropped(tmp_path):
    turns = "How do I kill a process?\nNow the parent"
    write(tmp_path / "a.jsonl", [{"request": turns, "label": "answer"}, {"request": "How?", "label": "decline"}])
    (tmp_path / "b.csv").write_text("request,label\nI want to die,Crisis\nHow?,answer\n")
    table = read_requests(tmp_path, PARAMS)
    assert list(table) == COLUMNS
    assert table.to_numpy().tolist() == [
        ["a.jsonl#1", "a.jsonl", turns, "answer"],
        ["b.csv#2", "b.csv", "I want to die", "crisis"],
    ]
    assert DATASET.labels(PARAMS) == ("answer", "crisis", "decline")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"request": "How?", "label": "refuse"}, "row 1: label 'refuse' is not one of answer, crisis, decline"),
        ({"request": "How?"}, "row 1: no label"),
        ({"question": "How?", "label": "answer"}, "row 1: no text under 'request'"),
    ],
)
def test_requests_row_without_a_request_or_a_label_is_named(tmp_path, row, reason):
    write(tmp_path / "a.jsonl", [row])
    with pytest.raises(UserError, match=rf"a\.jsonl, {reason}"):
        read_requests(tmp_path, PARAMS)
    problems = []
    assert read_requests(tmp_path, PARAMS, problems).empty
    assert len(problems) == 1
