import json
import tarfile
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest

from llm.errors import UserError
from tasks.data.cleaning.record import recorded
from tasks.data.instructions.packs import read_packs
from tasks.data.quality import validate
from tasks.data.shingles import text_hashes
from tasks.data.splits import deduplicate, overlap, split
from tasks.datasets.instructions import (
    COLUMNS,
    DATASET,
    WRITTEN,
    Params,
    instruction_expectations,
    instruction_forms,
    instruction_text,
    read_inbox,
    read_instructions,
)

SLICES = Path(__file__).parents[2] / "data/instructions.tgz"


def params(**more):
    return Params(
        **{"seed": 1, "validation": 0.1, "test": 0.1, "near_duplicate": 0.9, "rows_a_kind": 10, "rows_of": {}} | more
    )


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def mine(folder, **more):
    """The rows of the files of a folder, and none that are made."""
    table = read_instructions(folder, params(rows_a_kind=0, **more))
    return table[[*WRITTEN, "group"]]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Slices of the real sources."""
    folder = tmp_path_factory.mktemp("raw")
    with tarfile.open(SLICES) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def table(raw):
    return read_instructions(raw, params())


@pytest.fixture(scope="module")
def splits(table):
    left = deduplicate(table, instruction_text(table), 0.9)
    return split(left, text_hashes(left["group"]), params())


def test_there_are_rows_of_every_kind_and_those_with_answers_are_checkable(table):
    assert list(table.columns) == COLUMNS
    assert set(table["kind"]) == {*read_packs().kinds}
    assert (table["kind"].value_counts() == 10).all()
    assert table["id"].is_unique
    free = table["answers"].map(len) == 0
    unchecked = [name for name, kind in read_packs().kinds.items() if not kind.checkable]
    assert set(table.loc[free, "kind"]) == {*unchecked}
    checkable = table[~free]
    assert all(output == right[0] for output, right in zip(checkable["output"], checkable["answers"], strict=True))


def test_a_kind_has_as_many_rows_as_it_is_given(raw):
    table = read_instructions(raw, params(rows_a_kind=2, rows_of={"spam": 5, "month_number": 0}))
    counts = table["kind"].value_counts()
    assert (counts["spam"], counts["sort_days"], counts.get("month_number", 0)) == (5, 2, 0)
    with pytest.raises(UserError, match="rows_of: there is no kind 'spamm'; kinds are "):
        read_instructions(raw, params(rows_of={"spamm": 5}))


def test_hardly_a_made_row_is_a_near_duplicate_and_no_group_straddles_splits(table, splits):
    assert len(splits) >= 0.99 * len(table)
    assert overlap(splits, instruction_text(splits), 0.9) == 0
    assert splits.groupby("group")["split"].nunique().max() == 1


def test_validation_and_test_get_wordings_that_train_never_sees(splits, tmp_path):
    kept = splits.drop(columns=["split", "group"])
    DATASET.write({name: kept[splits["split"] == name] for name in ("train", "validation", "test")}, tmp_path, params())
    written = {name: pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("train", "validation", "test")}
    assert all(list(table.columns) == WRITTEN for table in written.values())
    wordings = {name: set(zip(table["kind"], table["wording"], strict=True)) for name, table in written.items()}
    assert not any(wordings[one] & wordings[other] for one, other in combinations(wordings, 2))
    for table in written.values():
        starts = table["wording"].str.split(r"\{|\n", regex=True).str[0]
        pairs = zip(starts, table["instruction"], strict=True)
        assert all(start.strip() in instruction for start, instruction in pairs)
    told = written["train"][written["train"]["kind"] == "told_before"].iloc[0]
    assert len(told["history"]) in (2, 4)
    same = written["train"].merge(splits, on="id")
    assert (same["instruction_x"] == same["instruction_y"]).all()


def test_own_rows_come_from_json_and_json_lines_with_what_else_they_carry(tmp_path):
    plain = {"instruction": "Say", "output": "So"}
    full = {"instruction": "Add", "input": "1, 2", "output": "3", "answers": ["three"]}
    full |= {"system": "Be brief.", "history": ["Hi", "Hello"]}
    write(tmp_path, "mine/a.json", [plain, full])
    write(tmp_path, "mine/b.jsonl", "\n".join(map(json.dumps, [plain, full])) + "\n")
    table = mine(tmp_path)
    assert table["id"].tolist() == ["mine/a.json#1", "mine/a.json#2", "mine/b.jsonl#1", "mine/b.jsonl#2"]
    columns = ["kind", "group", "instruction", "input", "output", "answers", "history", "system"]
    assert table.loc[[0, 3], columns].to_numpy().tolist() == [
        ["own", "question: say", "Say", "", "So", [], [], ""],
        ["own", "question: hi", "Add", "1, 2", "3", ["3", "three"], ["Hi", "Hello"], "Be brief."],
    ]


def test_the_expectations_hold_for_real_rows_and_tell_bad_ones(table, tmp_path):
    validate("instructions", {"rows": (table, instruction_expectations())}, tmp_path / "good")
    first = table["id"] == table["id"][0]
    bad = table.assign(
        output=table["output"].mask(first, ""),
        kind=table["kind"].mask(first, "unheard"),
        test_instruction=table["test_instruction"].mask(first, "What is {word}?"),
    )
    with pytest.raises(ValueError, match="instructions: 3 checks failed") as error:
        validate("instructions", {"rows": (bad, instruction_expectations())}, tmp_path / "bad")
    assert f"{table['id'][0]}: ''" in str(error.value)


def test_peoples_own_rows_may_hold_braces(table, tmp_path):
    rows = [{"instruction": "What is {} in Python, and {name}?", "input": "f'{name}'", "output": "A dict."}]
    write(tmp_path, "mine/a.json", rows)
    mine = read_instructions(tmp_path, params(rows_a_kind=0))
    assert len(mine) == 1
    every = pd.concat([table, mine], ignore_index=True)
    for name, rows in {"alone": mine, "among others": every}.items():
        validate("instructions", {"rows": (rows, instruction_expectations())}, tmp_path / name)


def feedback(*said):
    """Rows as the app writes them: question, answer, verdict, client."""
    names = ("instruction", "output", "verdict", "client")
    more = {"system": "", "history": [], "version": "m/1"}
    rows = [dict(zip(names, each, strict=True)) | more for each in said]
    return "".join(json.dumps(row | {"time": f"2026-01-01T00:00:{n:02}"}) + "\n" for n, row in enumerate(rows))


def test_the_inbox_gives_peoples_rows_and_no_made_ones(tmp_path):
    write(tmp_path, "mine.json", [{"instruction": "Say", "output": "So"}])
    table = read_inbox(tmp_path, params(rows_of={"spam": 3}))
    assert table[["id", "kind", "output"]].to_numpy().tolist() == [["mine.json#1", "own", "So"]]
    assert len(read_instructions(tmp_path, params())) > 100
    write(tmp_path, "mine.json", [])
    assert read_inbox(tmp_path, params()).empty


def test_good_answers_of_feedback_are_learned_from_and_bad_ones_are_not(tmp_path):
    said = [("One?", "1", "good", "x"), ("Two?", "3", "bad", "x"), ("Three?", "3", "good", "x")]
    said += [("Three?", "3", "bad", "x"), ("Four?", "5", "bad", "x"), ("Four?", "4", "good", "x")]
    write(tmp_path, "feedback.jsonl", feedback(*said))
    with recorded() as record:
        table = read_inbox(tmp_path, params())
    assert table[["id", "kind", "instruction", "output"]].to_numpy().tolist() == [
        ["feedback.jsonl#1", "own", "One?", "1"],
        ["feedback.jsonl#6", "own", "Four?", "4"],
    ]
    found = record.quarantine()
    assert found[["id", "source", "rule"]].drop_duplicates().to_numpy().tolist() == [
        [f"feedback.jsonl#{number}", "feedback.jsonl", "feedback"] for number in (2, 3, 4, 5)
    ]
    assert found["reason"].tolist() == [
        "a bad answer is not learned from",
        "the same network said something else later",
        "a bad answer is not learned from",
        "the same network said something else later",
    ]


def test_the_answer_that_most_networks_give_counts_and_a_tie_leaves_the_question_out(tmp_path):
    said = [("Both good?", "a", "good", "x"), ("both good", "A.", "good", "y")]
    said += [("Two wishes?", "a", "good", "x"), ("Two wishes?", "b", "good", "y")]
    said += [("Good and bad?", "a", "good", "x"), ("Good and bad?", "a", "bad", "y")]
    said += [("Another is bad?", "a", "good", "x"), ("Another is bad?", "b", "bad", "y")]
    said += [("Most say a?", "b", "good", "w"), *[("Most say a?", "a", "good", client) for client in "xyz"]]
    said += [("Most call it good?", "a", "good", "x"), ("Most call it good?", "a", "good", "y")]
    said += [("Most call it good?", "a", "bad", "z")]
    write(tmp_path, "feedback.jsonl", feedback(*said))
    table = read_inbox(tmp_path, params())
    assert table[["instruction", "output", "votes"]].to_numpy().tolist() == [
        ["Both good?", "a", 2],
        ["Another is bad?", "a", 1],
        ["Most say a?", "a", 3],
        ["Most call it good?", "a", 2],
    ]


def test_a_verdict_that_is_none_is_named(tmp_path):
    write(tmp_path, "feedback.jsonl", feedback(("One?", "1", "good", "x"), ("Two?", "2", "fine", "x")))
    with pytest.raises(UserError, match=r"feedback\.jsonl, row 2: verdict 'fine' is neither good nor bad$"):
        read_inbox(tmp_path, params())


def test_a_row_is_known_again_by_its_question_in_the_wording_of_every_split(splits):
    continent = splits[splits["kind"] == "continent"].head(1)
    forms = instruction_forms(continent)
    assert set(forms.index) == set(continent.index)
    row = continent.iloc[0]
    assert forms.tolist() == [
        "\n".join(filter(None, each))
        for each in (
            (row["instruction"], row["input"], row["output"]),
            (row["instruction"], row["input"]),
            (row["validation_instruction"], row["validation_input"]),
            (row["test_instruction"], row["test_input"]),
        )
    ]


def test_a_file_of_a_source_may_be_called_as_feedback_is(tmp_path):
    write(tmp_path, "mine/feedback.jsonl", feedback(("One?", "1", "bad", "x"), ("One?", "2", "good", "y")))
    assert mine(tmp_path)["output"].tolist() == ["1", "2"]


def test_rows_of_a_conversation_that_is_there_turn_by_turn_are_one_group(tmp_path):
    said = ["Add\n1, 2", "3", "And 3?", "6", "And 4?", "10"]
    rows = [{"instruction": "Add", "input": "1, 2", "output": "3"}]
    rows += [{"instruction": said[n], "output": said[n + 1], "history": said[:n]} for n in (2, 4)]
    write(tmp_path, "mine/a.json", rows)
    assert mine(tmp_path)["group"].tolist() == ["question: add 1 2"] * 3
