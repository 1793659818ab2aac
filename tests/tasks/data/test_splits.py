import numpy as np
import pandas as pd
import pytest

from llm.errors import UserError
from tasks.data.shingles import text_hashes
from tasks.data.splits import Split, check_train_only, draw_splits, given_splits, is_train_only

PARAMS = Split(seed=1, validation=0.15, test=0.2, near_duplicate=0.8)
LITTLE = Split(seed=1, validation=0.02, test=0.02, near_duplicate=0.8)


def numbered_texts(rows):
    return [f"row {n} and {n * n}" for n in range(rows)]


def drawn(table, params=PARAMS):
    """The split of each row of a table of texts, perhaps with labels."""
    units = text_hashes(table["text"])
    return draw_splits(units, params, is_train_only(table, params), labels=table.get("label"))


def test_shares_hold_on_average_for_every_label_and_depend_on_the_seed():
    table = pd.DataFrame({"text": numbered_texts(4_000) * 2, "label": (["ham"] * 3_200 + ["spam"] * 800) * 2})
    splits = drawn(table)
    assert np.array_equal(splits[:4_000], splits[4_000:])  # equal texts stay together
    shares = pd.crosstab(table["label"], splits, normalize="index")
    assert shares["validation"].tolist() == pytest.approx([0.15, 0.15], abs=0.025)
    assert shares["test"].tolist() == pytest.approx([0.2, 0.2], abs=0.025)
    of_other_seed = drawn(table, PARAMS.model_copy(update={"seed": 2}))
    assert (of_other_seed != splits).mean() == pytest.approx(1 - (0.65**2 + 0.15**2 + 0.2**2), abs=0.03)


@pytest.mark.parametrize("rows", [3, 5, 40])
def test_split_without_a_row_takes_the_nearest(rows):
    splits = drawn(pd.DataFrame({"text": numbered_texts(rows)}), LITTLE)
    assert pd.Series(splits).value_counts()[["validation", "test"]].between(1, 3).all()
    with_one_more = drawn(pd.DataFrame({"text": numbered_texts(rows + 1)}), LITTLE)
    assert (with_one_more[:rows] != splits).sum() <= 2


@pytest.mark.parametrize("seed", range(5))
def test_three_rows_of_a_label_are_in_three_splits(seed):
    table = pd.DataFrame({"text": numbered_texts(300), "label": ["ham"] * 297 + ["spam"] * 3})
    splits = drawn(table, PARAMS.model_copy(update={"seed": seed}))
    assert sorted(splits[297:]) == ["test", "train", "validation"]


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_too_few_rows_are_an_error(rows):
    with pytest.raises(UserError, match=f"^{rows} rows"):
        drawn(pd.DataFrame({"text": numbered_texts(rows)}))


def test_train_only_glob_that_fits_no_source_is_named_with_the_sources():
    table = pd.DataFrame({"source": ["real/a", "real/b", "real/a"]})
    params = PARAMS.model_copy(update={"train_only": ("real/*", "writen/*")})
    with pytest.raises(UserError, match=r"'writen/\*' .* real/a, real/b$"):
        check_train_only(table, params)
    check_train_only(table, PARAMS)


def test_files_named_after_splits_give_them_if_all_three_are_there():
    sources = ["own/train.jsonl", "own/validation.jsonl.gz", "own/test.csv", "notes/more.jsonl"]
    table = pd.DataFrame({"source": sources})
    assert given_splits(table).fillna("").tolist() == ["train", "validation", "test", ""]
    assert given_splits(table[1:]).isna().all()
