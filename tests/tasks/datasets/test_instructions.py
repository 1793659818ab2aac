import json
import tarfile
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
from dataset_rows import as_rows, as_table

from llm.errors import UserError
from tasks.data.cleaning.record import recorded
from tasks.data.duplicates import overlap, without_duplicates
from tasks.data.instructions.packs import read_packs
from tasks.data.quality import Check, validate
from tasks.data.splits import SPLITS
from tasks.data.steps import split_rows
from tasks.datasets.instructions import (
    COLUMNS,
    DATASET,
    WRITTEN,
    Params,
    instruction_expectations,
    instruction_forms,
    read_inbox,
    read_instructions,
)

SLICES = Path(__file__).parents[2] / "data/instructions.tgz"


def params(**changes):
    defaults = {"seed": 1, "validation": 0.1, "test": 0.1, "near_duplicate": 0.9, "rows_a_kind": 10, "rows_of": {}}
    return Params(**defaults | changes)


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def own_rows(folder):
    """The rows of the files of a folder, and none that are made."""
    return read_instructions(folder, params(rows_a_kind=0))[[*WRITTEN, "group"]]


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
def rows(table, tmp_path_factory):
    """The same rows, split."""
    every = as_rows(table, tmp_path_factory.mktemp("parts"), DATASET, threshold=0.9)
    return split_rows(without_duplicates(every, 0.9), params())


@pytest.fixture(scope="module")
def splits(rows):
    return as_table(rows)


def test_made_rows_are_of_every_kind_and_those_with_answers_are_checkable(table):
    assert list(table.columns) == COLUMNS
    assert set(table["kind"]) == {*read_packs().kinds}
    assert (table["kind"].value_counts() == 10).all()
    assert table["id"].is_unique
    free = table["answers"].map(len) == 0
    unchecked = [name for name, kind in read_packs().kinds.items() if not kind.checkable]
    assert set(table.loc[free, "kind"]) == {*unchecked}
    checkable = table[~free]
    assert all(output == right[0] for output, right in zip(checkable["output"], checkable["answers"], strict=True))


def test_kind_has_as_many_rows_as_the_parameters_say(raw):
    table = read_instructions(raw, params(rows_a_kind=2, rows_of={"spam": 5, "month_number": 0}))
    counts = table["kind"].value_counts()
    assert (counts["spam"], counts["sort_days"], counts.get("month_number", 0)) == (5, 2, 0)
    with pytest.raises(UserError, match="rows_of: there is no kind 'spamm'; kinds are "):
        read_instructions(raw, params(rows_of={"spamm": 5}))


def test_made_rows_are_hardly_near_duplicates_and_no_group_straddles_splits(table, rows, splits):
    assert len(splits) >= 0.99 * len(table)
    assert overlap(rows, 0.9, seed=1) == 0
    assert splits.groupby("group")["split"].nunique().max() == 1


def test_validation_and_test_get_wordings_that_train_never_sees(rows, splits, tmp_path):
    DATASET.write(rows, tmp_path, params())
    written = {name: pd.read_parquet(tmp_path / f"{name}.parquet") for name in SPLITS}
    assert all(list(table.columns) == [*WRITTEN, "unit"] for table in written.values())
    wordings = {name: set(zip(table["kind"], table["wording"], strict=True)) for name, table in written.items()}
    assert not any(wordings[left] & wordings[right] for left, right in combinations(wordings, 2))
    for table in written.values():
        starts = table["wording"].str.split(r"\{|\n", regex=True).str[0].str.strip()
        pairs = zip(starts, table["instruction"], strict=True)
        assert all(start in instruction for start, instruction in pairs)
    conversation = written["train"][written["train"]["kind"] == "told_before"].iloc[0]
    assert len(conversation["history"]) in (2, 4)
    same = written["train"].merge(splits, on="id")
    assert (same["instruction_x"] == same["instruction_y"]).all()


def test_own_rows_come_from_json_and_json_lines_with_what_else_they_carry(tmp_path):
    plain = {"instruction": "Say", "output": "So"}
    full = {"instruction": "Add", "input": "1, 2", "output": "3", "answers": ["three"]}
    full |= {"system": "Be brief.", "history": ["Hi", "Hello"]}
    write(tmp_path, "mine/a.json", [plain, full])
    write(tmp_path, "mine/b.jsonl", "\n".join(map(json.dumps, [plain, full])) + "\n")
    table = own_rows(tmp_path)
    assert table["id"].tolist() == ["mine/a.json#1", "mine/a.json#2", "mine/b.jsonl#1", "mine/b.jsonl#2"]
    columns = ["kind", "group", "instruction", "input", "output", "answers", "history", "system"]
    assert table.loc[[0, 3], columns].to_numpy().tolist() == [
        ["own", "question: say", "Say", "", "So", [], [], ""],
        ["own", "question: hi", "Add", "1, 2", "3", ["3", "three"], ["Hi", "Hello"], "Be brief."],
    ]


def test_expectations_hold_for_made_rows_and_name_bad_ones(table):
    validate("instructions", [Check("rows", [table], instruction_expectations())]).require_success()
    first = table["id"] == table["id"][0]
    bad = table.assign(
        output=table["output"].mask(first, ""),
        kind=table["kind"].mask(first, "unheard"),
        test_instruction=table["test_instruction"].mask(first, "What is {word}?"),
    )
    with pytest.raises(ValueError, match="instructions: 3 checks failed") as error:
        validate("instructions", [Check("rows", [bad], instruction_expectations())]).require_success()
    assert f"{table['id'][0]}: ''" in str(error.value)


def test_own_rows_may_hold_braces(table, tmp_path):
    rows = [{"instruction": "What is {} in Python, and {name}?", "input": "f'{name}'", "output": "A dict."}]
    write(tmp_path, "mine/a.json", rows)
    own = read_instructions(tmp_path, params(rows_a_kind=0))
    assert len(own) == 1
    with_made_rows = pd.concat([table, own], ignore_index=True)
    for rows in (own, with_made_rows):
        validate("instructions", [Check("rows", [rows], instruction_expectations())]).require_success()


def feedback(*rows: tuple[str, str, str, str]) -> str:
    """Rows as the app writes them: question, answer, verdict, client."""
    table = pd.DataFrame(rows, columns=["instruction", "output", "verdict", "client"])
    seconds = pd.Series(range(len(table)), dtype=str).str.zfill(2)
    table = table.assign(system="", version="m/1", time="2026-01-01T00:00:" + seconds)
    return table.to_json(orient="records", lines=True)


def test_inbox_has_own_rows_and_no_made_ones(tmp_path):
    write(tmp_path, "mine.json", [{"instruction": "Say", "output": "So"}])
    table = read_inbox(tmp_path, params(rows_of={"spam": 3}))
    assert table[["id", "kind", "output"]].to_numpy().tolist() == [["mine.json#1", "own", "So"]]
    assert len(read_instructions(tmp_path, params())) > 100
    write(tmp_path, "mine.json", [])
    assert read_inbox(tmp_path, params()).empty


def test_feedback_answers_that_are_bad_are_dropped(tmp_path):
    rows = [("One?", "1", "good", "x"), ("Two?", "3", "bad", "x"), ("Three?", "3", "good", "x")]
    rows += [("Three?", "3", "bad", "x"), ("Four?", "5", "bad", "x"), ("Four?", "4", "good", "x")]
    write(tmp_path, "feedback.jsonl", feedback(*rows))
    with recorded() as record:
        table = read_inbox(tmp_path, params())
    assert table[["id", "kind", "instruction", "output"]].to_numpy().tolist() == [
        ["feedback.jsonl#1", "own", "One?", "1"],
        ["feedback.jsonl#6", "own", "Four?", "4"],
    ]
    dropped = record.quarantine()
    assert dropped[["id", "source", "rule"]].drop_duplicates().to_numpy().tolist() == [
        [f"feedback.jsonl#{number}", "feedback.jsonl", "feedback"] for number in (2, 3, 4, 5)
    ]
    assert dropped["reason"].tolist() == [
        "a bad answer is not learned from",
        "the same network said something else later",
        "a bad answer is not learned from",
        "the same network said something else later",
    ]


def test_feedback_keeps_the_answer_of_most_networks_and_a_tie_drops_the_question(tmp_path):
    rows = [("Both good?", "a", "good", "x"), ("both good", "A.", "good", "y")]
    rows += [("Two wishes?", "a", "good", "x"), ("Two wishes?", "b", "good", "y")]
    rows += [("Good and bad?", "a", "good", "x"), ("Good and bad?", "a", "bad", "y")]
    rows += [("Another is bad?", "a", "good", "x"), ("Another is bad?", "b", "bad", "y")]
    rows += [("Most say a?", "b", "good", "w"), *[("Most say a?", "a", "good", client) for client in "xyz"]]
    rows += [("Most call it good?", "a", "good", "x"), ("Most call it good?", "a", "good", "y")]
    rows += [("Most call it good?", "a", "bad", "z")]
    write(tmp_path, "feedback.jsonl", feedback(*rows))
    table = read_inbox(tmp_path, params())
    assert table[["instruction", "output", "votes"]].to_numpy().tolist() == [
        ["Both good?", "a", 2],
        ["Another is bad?", "a", 1],
        ["Most say a?", "a", 3],
        ["Most call it good?", "a", 2],
    ]


def test_feedback_verdict_that_is_unknown_is_named(tmp_path):
    write(tmp_path, "feedback.jsonl", feedback(("One?", "1", "good", "x"), ("Two?", "2", "fine", "x")))
    with pytest.raises(UserError, match=r"feedback\.jsonl, row 2: verdict 'fine' is neither good nor bad$"):
        read_inbox(tmp_path, params())


def test_forms_have_the_question_in_the_wording_of_every_split(splits):
    continent = splits[splits["kind"] == "continent"].head(1)
    forms = instruction_forms(continent)
    assert set(forms.index) == set(continent.index)
    row = continent.iloc[0]
    texts = [
        (row["instruction"], row["input"], row["output"]),
        (row["instruction"], row["input"]),
        (row["validation_instruction"], row["validation_input"]),
        (row["test_instruction"], row["test_input"]),
    ]
    assert forms.tolist() == ["\n".join(filter(None, form)) for form in texts]


def test_feedback_name_means_nothing_for_a_file_of_a_source(tmp_path):
    write(tmp_path, "mine/feedback.jsonl", feedback(("One?", "1", "bad", "x"), ("One?", "2", "good", "y")))
    assert own_rows(tmp_path)["output"].tolist() == ["1", "2"]


def test_group_is_one_for_the_rows_of_a_conversation_turn_by_turn(tmp_path):
    turns = ["Add\n1, 2", "3", "And 3?", "6", "And 4?", "10"]
    rows = [{"instruction": "Add", "input": "1, 2", "output": "3"}]
    rows += [{"instruction": turns[n], "output": turns[n + 1], "history": turns[:n]} for n in (2, 4)]
    write(tmp_path, "mine/a.json", rows)
    assert own_rows(tmp_path)["group"].tolist() == ["question: add 1 2"] * 3
