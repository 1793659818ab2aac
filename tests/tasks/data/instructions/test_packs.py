"""Packs that people write: a new kind in a few lines of YAML, and what is wrong in one."""

import re
from collections import Counter
from pathlib import Path

import pytest

from llm.errors import UserError
from tasks.data.instructions.choose import Sources
from tasks.data.instructions.packs import read_packs
from tasks.data.instructions.rows import made_rows, tasks_of
from tasks.data.splits import SPLITS

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs/your-data.md").read_text()
PACK = re.search(r"```yaml\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    """A folder with the pack of docs/your-data.md."""
    (tmp_path / PACK[1]).write_text(PACK[2])
    return tmp_path


def rows_of(folder, count=10):
    return list(made_rows(read_packs(folder), [], seed=1, rows_of={}, rows_a_kind=count))


def test_docs_pack_makes_rows_grouped_by_their_fact(folder):
    rows = {row["id"]: row for row in rows_of(folder)}
    young = {"cow": "calf", "sheep": "lamb", "cat": "kitten"}
    assert rows.keys() == {f"young_animal: {animal}" for animal in young}
    for animal, answer in young.items():
        row = rows[f"young_animal: {animal}"]
        assert (row["kind"], row["group"], row["source"]) == ("young_animal", f"young: {animal}", "written here")
        assert (row["output"], row["answers"]) == (answer, [answer, f"a {answer}"])


def test_splits_share_no_wording(folder):
    wordings = read_packs(folder).kinds["young_animal"].wordings
    rows = rows_of(folder)
    assert {row["wording"] for row in rows} <= set(wordings.train)
    for split in SPLITS[1:]:
        assert {row[f"{split}_wording"] for row in rows} <= set(getattr(wordings, split))
    row = rows[0]
    for prefix in ("", "validation_", "test_"):
        instruction, _, task_input = row[f"{prefix}wording"].partition("\n")
        animal = row["group"].removeprefix("young: ")
        assert row[f"{prefix}instruction"] == instruction.replace("{animal}", animal)
        assert row[f"{prefix}input"] == task_input.replace("{animal}", animal)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    asked:", "    asks:", r": .*kinds\.young_animal\.asks: unknown key"),
        ("      test:", "      train:", r", row \d+: train stands here and in row"),
        ("What is the young of", "What do you call a young {animal}?\n        - What is", "animal}\\?' is there twice"),
        (
            "        - Which animal",
            "        # Which",
            r"kinds\.young_animal\.wordings\.validation: .* at least 2 items",
        ),
        ("cow | calf", "cow", r": 'cow' has not one cell for each column of 'animal | young'"),
        ("    rows:\n", "    table: cows\n    rows:\n", r"kinds\.young_animal: .*table 'cows'"),
        ("Name the young of", "Name the {beast} of", r"kinds\.young_animal: .* no column 'beast'; columns are .*young"),
        (
            "    asked:",
            "    draw: [n: {number: [1, x]}]\n    asked:",
            r"kinds\.young_animal: there is no such column, .*: 'x'",
        ),
        (
            "    asked:",
            "    draw: [n: {number: [1]}]\n    asked:",
            r"kinds\.young_animal: there is no such .*not enough",
        ),
        ("{young}", "{child}", r"kinds\.young_animal: there is no such column, .*: 'child'"),
    ],
)
def test_corrupt_pack_is_named_with_file_kind_and_reason(folder, old, new, message):
    assert old in PACK[2]
    (folder / PACK[1]).write_text(PACK[2].replace(old, new, 1))
    with pytest.raises(UserError, match=rf"{PACK[1]}.*{message}") as error:
        rows_of(folder)
    assert "\n" not in str(error.value)


def test_kinds_of_one_name_in_two_packs_are_refused(folder):
    (folder / "zoo.yaml").write_text(PACK[2])
    with pytest.raises(UserError, match=rf"zoo\.yaml: kinds\.young_animal: .*{PACK[1]} has one of this name"):
        read_packs(folder)


STEPS = """
lists:
  greetings: {{train: [a, b], validation: [c], test: [d, e]}}
kinds:
  drawn:
    about: Everything that a step can draw.
    draw: {steps}
    asked: "{{asked}}"
    answers: ["{{answer}}"]
    wordings: {{train: [a, b, c], validation: [d, e], test: [f, g, h]}}
"""


@pytest.mark.parametrize(
    ("steps", "asked", "answer", "tasks"),
    [
        ("[a: {number: [1, 2]}, b: {sum: [a, 10]}]", "{a}", "{b}", {"1": "11", "2": "12"}),
        ("['a, b': [x, y]]", "{a}{b}", "{A}", {"xy": "X", "yx": "Y"}),
        ("[a: [x, y], b: [x, y], unlike: [a, b]]", "{a}{b}", "z", {"xy": "z", "yx": "z"}),
        ("[a: {chance: 0.5, then: {b: x, c: '{b}{b}'}, else: {b: y, c: z}}]", "{b}", "{c}", {"x": "xx", "y": "z"}),
        ("[a: [{b: x, draw: [c: [u, v]]}, {b: y, c: w}]]", "{b}{c}", "{c}", {"xu": "u", "xv": "v", "yw": "w"}),
        ("[n: [21, 1200]]", "{n}", "{n:spellings}", {"21": "21", "1200": "1200"}),
        ("[a: greetings]", "{a}", "{a}", {"a": "a", "b": "b"}),
    ],
)
def test_steps_draw_in_turn_and_a_kind_without_more_tasks_ends(tmp_path, steps, asked, answer, tasks):
    text = STEPS.format(steps=steps).replace("{asked}", asked).replace("{answer}", answer)
    (tmp_path / "a.yaml").write_text(text)
    packs = read_packs(tmp_path)
    drawn = tasks_of(packs, "drawn", Sources({}, packs.lists), seed=1, count=50)
    assert {task.asked: task.answers[0] for task in drawn} == tasks


def test_rows_of_equal_seeds_are_equal_and_kinds_are_independent(packs, sources):
    paths = list(sources.paths.values())
    rows = list(made_rows(packs, paths, seed=1, rows_of={}, rows_a_kind=4))
    without_continents = list(made_rows(packs, paths, seed=1, rows_of={"continent": 0}, rows_a_kind=4))
    assert without_continents == [row for row in rows if row["kind"] != "continent"]
    assert list(made_rows(packs, paths, seed=2, rows_of={}, rows_a_kind=4)) != rows


def test_kind_whose_source_is_missing_is_left_out(packs, sources):
    paths = [path for name, path in sources.paths.items() if name != "lemminflect"]
    left = {row["kind"] for row in made_rows(packs, paths, seed=1, rows_of={}, rows_a_kind=1)}
    assert packs.kinds.keys() - left == {name for name, kind in packs.kinds.items() if "lemminflect" in kind.needs}


def test_wordings_of_test_have_equal_shares_of_rows(packs, sources):
    rows = list(made_rows(packs, list(sources.paths.values()), seed=1, rows_of={"multiplication": 30}, rows_a_kind=0))
    counts = Counter(row["test_wording"] for row in rows)
    assert counts.keys() == set(packs.kinds["multiplication"].wordings.test)
    assert max(counts.values()) - min(counts.values()) <= 1
