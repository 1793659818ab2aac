import gzip
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.errors import UserError
from tasks.data.formats.tables import READERS
from tasks.data.textfiles import large_list, parse_json, tidy

NUMBERS = st.one_of(st.integers(-(2**31), 2**31), st.floats(-1e9, 1e9))


def lists_and_objects(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=3)


VALUES = st.recursive(st.none() | st.booleans() | NUMBERS | st.text(max_size=5), lists_and_objects)


PUT = st.sampled_from(["", *',]}"1\n'])


def rows_of(elements) -> tuple[list[str], str]:
    rows: list[str] = []
    try:
        for element in elements():
            rows.append(repr(element))
    except UserError as error:
        return rows, str(error)
    return rows, ""


@settings(max_examples=150)
@given(rows=st.lists(VALUES, max_size=6), indent=st.sampled_from([None, 0, 1]), position=st.integers(1, 60), put=PUT)
def test_a_large_list_has_the_rows_and_the_mistakes_of_a_whole_one(tmp_path_factory, rows, indent, position, put):
    text = json.dumps(rows, indent=indent, ensure_ascii=False)
    position = min(position, len(text) - 1)  # within the list: behind it, half a string is no mistake for ijson
    text = text[:position] + put + text[position:]
    path = tmp_path_factory.getbasetemp() / "rows.json"
    path.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.data.textfiles.PIECE", 6)
        large_rows, mistake = rows_of(lambda: large_list(path))
    wanted, why = rows_of(lambda: parse_json(text, path))
    assert bool(mistake) == bool(why) or "stands twice" in why
    assert mistake or why or large_rows == wanted


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_may_be_larger_than_what_is_read_as_a_whole_and_no_element_of_it(tmp_path, monkeypatch, indent):
    monkeypatch.setattr("tasks.data.textfiles.PIECE", 64)
    monkeypatch.setattr("tasks.data.textfiles.LARGEST", 512)
    monkeypatch.setattr("tasks.data.textfiles.LONGEST_LINE", 512)
    rows = [{"text": f'row {number} [of], "many"', "more": [number, {}]} for number in range(100)]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows, indent=indent) + " \n")
    assert list(READERS["json"](file)) == [*enumerate(rows, 1)]
    file.write_text(json.dumps([*rows[:3], {"text": ["x"] * 500}], indent=indent))
    elements = large_list(file)
    with pytest.raises(UserError, match=r"rows\.json: element 4 of its list has over 512 bytes; split it"):
        list(elements)
    file.write_text(json.dumps(rows, indent=indent).replace('"row 90', '"text" "row 90'))
    elements = large_list(file)
    assert [next(elements) for _ in range(90)] == rows[:90]
    with pytest.raises(UserError, match=r"rows\.json: element 91 of its list is not JSON: parse error: after key"):
        next(elements)
    file.write_text(json.dumps({"text": "x" * 2000}))
    with pytest.raises(UserError, match=r"rows\.json, row 1: a line of over 512 bytes"):
        list(READERS["json"](file))


def test_spaces_behind_a_list_take_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.data.textfiles.LARGEST", 2**20)
    file = tmp_path / "rows.json.gz"
    with gzip.open(file, "wb") as packed:
        packed.write(json.dumps([*range(100)]).encode())
        for _ in range(50):
            packed.write((b" " * 1023 + b"\n") * 1024)
    tracemalloc.start()
    assert list(large_list(file)) == [*range(100)]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 5e6


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("\n \n    y = x + 1\n    return y \n\n", "    y = x + 1\n    return y"),
        ("  Paris. \n", "Paris."),
        ("  One.\r\nTwo.", "  One.\nTwo."),
        (" \n ", ""),
    ],
)
def test_no_blank_lines_and_no_space_stand_around_a_text_and_lines_stay_indented(text, tidied):
    assert tidy(text) == tidied
