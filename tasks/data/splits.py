"""Find near duplicates, and split rows so that near duplicates stay together."""

import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from llm.config import Config
from llm.errors import UserError
from tasks.data.cleaning.record import drop
from tasks.data.gates import Gates
from tasks.data.shingles import Known, Sets, bands, first_of_groups, rarest, same, shingles, uniform, whole

SPLITS = ("train", "validation", "test")
DUPLICATES = "near_duplicates"  # the rule of tasks/data/cleaning
MOST_NAMED = 10  # sources that an error names

logger = logging.getLogger(__name__)


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
    languages: tuple[str, ...] = ()
    """ISO 639 codes, such as `en`, of the languages to keep; empty keeps all. Short texts are always kept."""
    feedback_weight: int = Field(default=5, ge=1, le=100)
    """The most copies of a row of feedback in train; the bound of 2 % in tasks/data/inbox.py comes first."""
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


def near_duplicates(texts: Sequence[str], threshold: float) -> np.ndarray:
    """Number the groups of near duplicates, in the order of their first texts; int64 [len(texts)].

    Two texts belong together when their sets of word 3-shingles, in lower case, have a Jaccard similarity of at
    least `threshold`, or when a chain of such texts joins them.
    """
    if not len(texts):
        return np.zeros(0, dtype=np.int64)
    sets = [shingles(text) for text in texts]
    sizes = np.array([len(each) for each in sets])

    def chosen(rows: np.ndarray) -> Sets:
        return [sets[row] for row in rows]

    return pd.factorize(first_of_groups(whole(sets), sizes, bands(sets, threshold), chosen, threshold))[0]


def deduplicate(table: pd.DataFrame, text: pd.Series, threshold: float) -> pd.DataFrame:
    """Keep the first row of each group of exact or near duplicates; `text` holds the text of each row of `table`."""
    group = near_duplicates(text.tolist(), threshold)
    kept = np.unique(group, return_index=True)[1][group]  # the first row of each group
    repeated = kept < np.arange(len(table))
    exact = int(text.duplicated().sum())
    logger.info(
        "%d rows: %d exact and %d near duplicates dropped, %d left",
        len(table), exact, repeated.sum() - exact, (~repeated).sum(),
    )  # fmt: skip
    names = (table["id"] if "id" in table else pd.Series(table.index)).astype(str).to_numpy()
    reasons = pd.Series([f"as {name}" for name in names[kept]], table.index, dtype=object).where(repeated)
    return drop(DUPLICATES, table, reasons, text).reset_index(drop=True)


def check_train_only(table: pd.DataFrame, params: Split) -> None:
    """Raise UserError for a glob of `train_only` that matches no source of the rows, and if rows have no source."""
    if not params.train_only:
        return
    if "source" not in table:
        raise UserError("train_only: the rows of this dataset have no column `source`; leave it empty")
    sources = table["source"].unique()
    for glob in params.train_only:
        if not any(fnmatchcase(name, glob) for name in sources):
            known = ", ".join(sources[:MOST_NAMED]) + (", …" if len(sources) > MOST_NAMED else "")
            raise UserError(f"train_only: {glob!r} fits no source; sources are {known}")


def split(
    table: pd.DataFrame,
    units: np.ndarray,
    params: Split,
    *,
    label: str | None = None,
    text: pd.Series | None = None,
) -> pd.DataFrame:
    """Add the column `split`: train, validation or test, in about the shares of `params`.

    `units`, uint64 [rows], are equal for rows that stay together. A hash of the unit and the seed decides, so that no
    row moves when others are added, changed or removed. There is one exception: a split that would have no row, or none
    of a value of the column `label`, takes the unit whose hash is nearest. It needs three units of the value; for a
    value with five expected units in a split it happens in 1 of 150 draws. Later units of that value can then move an
    earlier one, mostly to train after it was measured.

    Rows whose column `source` is one of `params.train_only` go to train. Other rows of their units that the hash puts
    into validation or test are left out, and shown as `text`. Raises UserError for fewer than three units.
    """
    learned = np.zeros(len(table), bool)
    if params.train_only:
        learned = table["source"].map(lambda name: any(fnmatchcase(name, each) for each in params.train_only))
        learned = learned.to_numpy(bool)
    known, place = np.isin(units, units[learned]), uniform(units, params.seed)
    tested, validated = place < params.test, place >= 1 - params.validation
    values = table[label].to_numpy() if label else ""
    drawn = pd.DataFrame({"unit": units, "value": values, "place": place, "test": tested, "validation": validated})
    drawn = drawn[~known].drop_duplicates("unit").sort_values("place")
    if len(drawn) < len(SPLITS):
        raise UserError(
            f"{len(drawn)} rows or groups of rows that stay together are too few for train, validation and test; "
            "bring more of them"
        )
    values = drawn.groupby("value", dropna=False)
    rank, count = values.cumcount(), values["unit"].transform("size")
    first = values["test"].transform("sum").clip(1).clip(upper=(count - 2).clip(0))
    last = values["validation"].transform("sum").clip(1).clip(upper=count - 1 - first)
    chosen = np.select([rank < first, rank >= count - last], ["test", "validation"], "train")
    found = pd.Series(chosen, drawn["unit"]).reindex(units).fillna("train").to_numpy()
    out = known & ~learned & (tested | validated)
    reasons = pd.Series("its group has rows of a source that is learned from only", table.index).where(out)
    return drop("train_only", table.assign(split=found), reasons, table["source"] if text is None else text)


def near_pairs(left: Sequence[str], right: Sequence[str], threshold: float) -> np.ndarray:
    """Indices [n, 2] of texts of `left` and of `right` that are near duplicates of each other; chains do not count."""
    return Known([*map(shingles, left)]).pairs([*map(shingles, right)], threshold)


def overlap(table: pd.DataFrame, text: pd.Series, threshold: float) -> int:
    """Count the rows of validation and test that have a near duplicate in an earlier split.

    It uses neither MinHashes nor groups, so it checks their result independently. Near duplicates share one of the
    `rarest` shingles; rows that share one are compared.
    """
    if table.empty:
        return 0
    sets = pd.Series([*map(shingles, text)], dtype=object)
    prefixes = pd.Series(rarest(sets, threshold), dtype=object)
    order, found = table["split"].map(SPLITS.index).to_numpy(), 0
    for number in (1, 2):
        ours, theirs = sets[order == number].tolist(), sets[order < number].tolist()
        pairs = Known([*prefixes[order == number]]).common([*prefixes[order < number]])
        near = {
            one
            for left, right, _ in pairs
            for one, other in zip(left.tolist(), right.tolist(), strict=True)
            if same(ours[one], theirs[other], threshold)
        }
        found += len(near)
    return found
