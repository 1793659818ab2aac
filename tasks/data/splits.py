"""Draw the split of every row by a hash, so that no other row moves it; the bounds on rows and splits."""

from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from llm.config import Config
from llm.errors import UserError
from tasks.data.shingles import uniform

SPLITS = ("train", "validation", "test")
LEAST = ("rows_of_a_split", "rows_of_a_label", "splits_of_a_label")  # lower bounds; all others are upper bounds
MOST_NAMED = 10  # sources that an error names


class Gate(Config):
    """The bounds of one number; null means no bound."""

    warn: float | None = None
    """Beyond it the run logs a warning and goes on."""
    fail: float | None = None
    """Beyond it the stage fails and writes nothing."""


class Gates(Config):
    """All bounds. A number that you name has the bounds that you give it, and no others."""

    rows_of_a_split: Gate = Gate(warn=10, fail=1)
    """The least rows of train, validation and test."""
    rows_of_a_label: Gate = Gate(warn=30, fail=3)
    """The least rows of each label.

    It is a number, not a share: with enough mails, 1 % of them is enough to train on.
    """
    splits_of_a_label: Gate = Gate(fail=3)
    """The least number of splits that each label is in."""
    duplicate_share: Gate = Gate(warn=0.3, fail=0.5)
    """The largest share of the read rows that may be near duplicates of others."""
    left_out_share: Gate = Gate(warn=0.1, fail=0.5)
    """The largest share of the read rows that other cleaning rules may drop."""
    split_overlap: Gate = Gate(fail=0)
    """The most rows of validation and test that may have a near duplicate in an earlier split."""
    straddling_groups: Gate = Gate(fail=0)
    """The most groups that may be in several splits."""


class Split(Config):
    """Parameters for de-duplicating and splitting a table."""

    seed: int = Field(default=1, ge=0)
    """Decides which split a row goes to."""
    validation: float = Field(default=0.15, gt=0, lt=1)
    """The approximate share of rows on which choices are made."""
    test: float = Field(default=0.2, gt=0, lt=1)
    """The approximate share of rows that only `evaluate` opens."""
    near_duplicate: float = Field(default=0.8, gt=0, le=1)
    """The least Jaccard similarity of word 3-shingles for near duplicates."""

    train_only: tuple[str, ...] = ()
    """Globs of sources whose rows are only trained on, never measured on, such as hand-written ones."""
    feedback_weight: int = Field(default=5, ge=1, le=100)
    """The copies of a row of accepted feedback in train."""
    mask_personal_data: Literal["feedback", "all", "none"] = "feedback"
    """The rows in which made-up data replaces e-mail addresses, phone, card and account numbers, and account names:
    those of the inbox, all, or none."""
    gates: Gates = Gates()
    """Bounds on rows and splits."""

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} + test {self.test} leave nothing for train")
        return self


def check_train_only(table: pd.DataFrame, params: Split) -> None:
    """Raise UserError for a glob of `train_only` that matches no source of the rows, and if rows have no source."""
    if not params.train_only:
        return
    sources = table["source"].unique()
    for glob in params.train_only:
        if not any(fnmatchcase(source, glob) for source in sources):
            ellipsis = ", …" if len(sources) > MOST_NAMED else ""
            names = ", ".join(sources[:MOST_NAMED]) + ellipsis
            raise UserError(f"train_only: {glob!r} fits no source; sources are {names}")


def is_train_only(table: pd.DataFrame, params: Split) -> np.ndarray:
    """Whether each row is from a source that `train_only` names; bool [rows]."""
    if not params.train_only:
        return np.zeros(len(table), bool)
    matching: set[str] = set()
    for glob in params.train_only:
        matching.update(source for source in table["source"].unique() if fnmatchcase(source, glob))
    return table["source"].isin(matching).to_numpy()


def given_splits(table: pd.DataFrame) -> pd.Series:
    """The split that each row's file is named after, where files are named train, validation and test, as in datasets
    of Hugging Face; NaN for all other rows."""
    stems = table["source"].map(_stem).astype(object)
    is_given = stems.isin(SPLITS) & (len(set(SPLITS) - set(stems)) == 0)
    return stems.mask(~is_given)


def _stem(source: str) -> str:
    return PurePath(source).name.partition(".")[0]


def draw_splits(
    units: np.ndarray, params: Split, train_only: np.ndarray, labels: pd.Series | None = None
) -> np.ndarray:
    """The split of each row, in about the shares of `params`; object [rows].

    `units`, uint64 [rows], are equal for rows that stay together. A hash of the unit and the seed decides, so that no
    row moves when others are added, changed or removed. There is one exception: a split that would have no row, or none
    of a label, takes the unit whose hash is nearest. It needs three units of the label; for a label with five expected
    units in a split it happens in 1 of 150 draws. Later units of that label can then move an earlier one, mostly to
    train after it was measured.

    Rows that are `train_only`, bool [rows], go to train. Other rows of their units that the hash puts into validation
    or test get None. Raises UserError for fewer than three units.
    """
    has_train_only = np.isin(units, units[train_only])
    numbers = uniform(units, params.seed)
    in_test = numbers < params.test
    in_validation = numbers >= 1 - params.validation
    columns = {"unit": units, "number": numbers, "test": in_test, "validation": in_validation}
    drawn = pd.DataFrame(columns | {"label": "" if labels is None else labels.to_numpy()})
    drawn = drawn[~has_train_only].drop_duplicates("unit").sort_values("number")
    if len(drawn) < len(SPLITS):
        raise UserError(
            f"{len(drawn)} rows or groups of rows that stay together are too few for train, validation and test; "
            "bring more of them"
        )
    units_of_label = drawn.groupby("label", dropna=False)
    rank = units_of_label.cumcount()
    count = units_of_label["unit"].transform("size")
    test_units = units_of_label["test"].transform("sum").clip(1).clip(upper=(count - 2).clip(0))
    validation_units = units_of_label["validation"].transform("sum").clip(1).clip(upper=count - 1 - test_units)
    chosen = np.select([rank < test_units, rank >= count - validation_units], ["test", "validation"], "train")
    splits = pd.Series(chosen, drawn["unit"], dtype=object).reindex(units).fillna("train").to_numpy(copy=True)
    splits[has_train_only & ~train_only & (in_test | in_validation)] = None
    return splits
