import numpy as np
import pandas as pd
import pytest
from dataset_rows import as_rows, as_table

from llm.errors import UserError
from tasks.data.cleaning.record import recorded
from tasks.data.duplicates import without_duplicates
from tasks.data.shingles import text_hashes
from tasks.data.splits import Split, check_train_only, draw_splits, is_train_only
from tasks.data.steps import split_rows
from tasks.datasets.emails import DATASET as EMAILS
from tasks.datasets.emails import thread

PARAMS = Split(seed=1, validation=0.15, test=0.2, near_duplicate=0.8)
LITTLE = Split(seed=1, validation=0.02, test=0.02, near_duplicate=0.8)


def numbered_texts(rows: int) -> list[str]:
    return [f"row {n} and {n * n}" for n in range(rows)]


def drawn(table: pd.DataFrame, params: Split = PARAMS) -> np.ndarray:
    """The split of each row of a table of texts, perhaps with labels."""
    return draw_splits(
        units=text_hashes(table["text"]),
        params=params,
        train_only=is_train_only(table, params),
        labels=table.get("label"),
    )


def test_split_shares_hold_on_average_for_every_label_and_depend_on_the_seed():
    table = pd.DataFrame({"text": numbered_texts(4_000), "label": ["ham"] * 3_200 + ["spam"] * 800})
    splits = drawn(table)
    shares = pd.crosstab(table["label"], splits, normalize="index")
    assert shares["validation"].tolist() == pytest.approx([0.15, 0.15], abs=0.025)
    assert shares["test"].tolist() == pytest.approx([0.2, 0.2], abs=0.025)
    assert np.array_equal(drawn(table), splits)
    of_other_seed = drawn(table, PARAMS.model_copy(update={"seed": 2}))
    assert (of_other_seed != splits).mean() == pytest.approx(1 - (0.65**2 + 0.15**2 + 0.2**2), abs=0.03)


class RandomMails:
    """Mails of which some are near duplicates, quote each other, or are of a source that is only trained on."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(5)
        self.lines = [self.words(9) for _ in range(130)]
        self.subjects = [self.words(2) for _ in range(100)]

    def words(self, count: int) -> str:
        return " ".join(f"word{n}" for n in self.generator.integers(5_000, size=count))

    def mail(self, number: int) -> dict[str, str]:
        chosen = self.generator.integers(130, size=self.generator.integers(1, 5))
        prefix = self.generator.choice(["", "Re: ", "[list] Re: "])
        return {
            "id": str(number),
            "source": "real" if number % 9 else "made",
            "subject": prefix + self.subjects[self.generator.integers(100)],
            "body": "\n".join(self.lines[line] for line in chosen),
            "label": ("ham", "spam")[number % 2],
        }


def test_split_moves_no_row_when_others_are_added_changed_or_removed(tmp_path):
    mails = RandomMails()
    params = PARAMS.model_copy(update={"train_only": ("made",)})

    def splits(table: pd.DataFrame) -> pd.Series:
        rows = as_rows(table.assign(group=thread(table)), tmp_path, EMAILS)
        rows = split_rows(without_duplicates(rows, 0.8), params)
        return as_table(rows).set_index("id")["split"]

    table = pd.DataFrame([mails.mail(number) for number in range(190)])
    repeated = table[:10].assign(id=[str(number) for number in range(190, 200)])
    table = pd.concat([table, repeated], ignore_index=True)
    with recorded() as record:
        before = splits(table)
    assert set(record.counts()) == {"near_duplicates", "train_only", "long_lines"}
    for number in range(200, 204):
        position = int(mails.generator.integers(200))
        new = pd.DataFrame([mails.mail(number)])
        added = pd.concat([table[:position], new, table[position:]], ignore_index=True)
        changed = pd.concat([table[:position], new.assign(id=str(position)), table[position + 1 :]], ignore_index=True)
        for edited in (added, changed, table.drop(index=position)):
            after = splits(edited)
            common = before.index.intersection(after.index).difference([str(position)])
            assert len(common) > 0.95 * len(before)
            assert after[common].equals(before[common])


def test_split_keeps_groups_whole():
    generator = np.random.default_rng(0)
    table = pd.DataFrame({"text": [f"group {n}" for n in generator.integers(400, size=2_000)]})
    splits = pd.Series(drawn(table))
    assert splits.groupby(table["text"]).nunique().max() == 1
    assert splits.value_counts(normalize=True)["test"] == pytest.approx(0.2, abs=0.04)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("rows", [3, 5, 40])
def test_split_without_a_row_takes_the_nearest(rows, seed):
    params = LITTLE.model_copy(update={"seed": seed})
    splits = drawn(pd.DataFrame({"text": numbered_texts(rows)}), params)
    assert pd.Series(splits).value_counts()[["validation", "test"]].between(1, 3).all()
    with_one_more = drawn(pd.DataFrame({"text": numbered_texts(rows + 1)}), params)
    assert (with_one_more[:rows] != splits).sum() <= 2


@pytest.mark.parametrize("seed", range(5))
def test_split_gives_each_split_one_of_three_rows_of_a_label(seed):
    table = pd.DataFrame({"text": numbered_texts(300), "label": ["ham"] * 297 + ["spam"] * 3})
    splits = drawn(table, PARAMS.model_copy(update={"seed": seed}))
    assert sorted(splits[297:]) == ["test", "train", "validation"]


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_split_of_too_few_rows_is_an_error(rows):
    with pytest.raises(UserError, match=rf"^{rows} rows or groups .* bring more"):
        drawn(pd.DataFrame({"text": numbered_texts(rows)}))


def test_train_only_rows_go_to_train_and_their_groups_leave_validation_and_test(tmp_path):
    real = pd.DataFrame({"text": numbered_texts(300), "source": "real"})
    written = pd.DataFrame({"text": numbered_texts(150), "source": "written/ham"})
    before = drawn(real)
    params = PARAMS.model_copy(update={"train_only": ("written/*",)})
    with recorded() as record:
        rows = split_rows(as_rows(pd.concat([real, written], ignore_index=True), tmp_path), params)
    after = rows.facts["split"]
    assert set(after[after.index >= 300]) == {"train"}
    left_out = [number for number in range(150) if before[number] != "train"]
    assert sorted(set(range(300)) - set(after.index)) == left_out
    assert after[after.index < 300].tolist() == np.delete(before, left_out).tolist()
    assert record.quarantine()["text"].tolist() == real["text"][left_out].tolist()
    assert set(record.quarantine()["reason"]) == {"its group has rows of a source that is learned from only"}


def test_train_only_glob_that_fits_no_source_is_named_with_the_sources():
    table = pd.DataFrame({"source": ["real/a", "real/b", "real/a"]})
    params = PARAMS.model_copy(update={"train_only": ("real/*", "writen/*")})
    with pytest.raises(UserError, match=r"^train_only: 'writen/\*' fits no source; sources are real/a, real/b$"):
        check_train_only(table, params)
    many_sources = pd.DataFrame({"source": [f"s{n}" for n in range(30)]})
    with pytest.raises(UserError, match=r"sources are s0, .*, s9, …$"):
        check_train_only(many_sources, params)
    check_train_only(table, PARAMS)


def test_train_only_of_rows_without_a_source_is_an_error():
    with pytest.raises(UserError, match=r"^train_only: the rows of this dataset have no column `source`"):
        check_train_only(pd.DataFrame({"text": ["a"]}), PARAMS.model_copy(update={"train_only": ("a",)}))
