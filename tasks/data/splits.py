"""Near duplicates, and splits that they do not straddle."""

import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import chain, repeat
from typing import Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from llm.config import Config
from llm.errors import UserError
from tasks.data.cleaning.record import drop
from tasks.data.gates import Gates
from tasks.data.shingles import Known, Sets, bands, first_of_groups, shingles, whole

SPLITS = ("train", "validation", "test")
DUPLICATES = "near_duplicates"  # the rule of tasks/data/cleaning
FEW = 10  # units, rows or groups of them: a stratum with as many has some in every split, one with fewer may not
LARGE = 2  # how many times the median unit one must be to be kept out of validation and test for its size
MOST_NAMED = 10  # sources in an error

logger = logging.getLogger(__name__)


class Split(Config):
    """How a table is de-duplicated and split."""

    seed: int = Field(ge=0)
    """Decides which rows go to which split."""
    validation: float = Field(gt=0, lt=1)
    """Share of the rows (of a corpus: of its characters) that choices are made on."""
    test: float = Field(gt=0, lt=1)
    """Share of the rows (of a corpus: of its characters) that only `evaluate` opens."""
    near_duplicate: float = Field(gt=0, le=1)
    """Jaccard similarity of word 3-shingles from which on two texts count as near duplicates."""

    train_only: tuple[str, ...] = ()
    """Sources, as globs, whose rows are learned from and never measured on, as written or made-up ones."""
    languages: tuple[str, ...] = ()
    """Codes of ISO 639, such as `en`, of the languages that are kept; none for all. Short texts are not judged."""
    feedback_weight: int = Field(default=5, ge=1, le=100)
    """Times that train has a row of feedback (tasks/data/inbox.py)."""
    mask_personal_data: Literal["feedback", "all", "none"] = "feedback"
    """Where e-mail addresses, numbers of phones, cards and accounts, and account names give way to made-up ones: in
    what was left in the inbox, in all rows, in none."""
    gates: Gates = Gates()
    """What rows and splits are held against."""

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
    """Keep the first row of each group of exact or near duplicates of `text`, which goes with the rows of `table`."""
    group = near_duplicates(text.tolist(), threshold)
    kept = np.unique(group, return_index=True)[1][group]  # the first row of each row's group
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
    """Raise UserError for a glob of `train_only` that no source of the rows fits, and where rows have no source."""
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
    params: Split,
    *,
    groups: pd.Series | None = None,
    stratify: Sequence[str] = (),
    weights: pd.Series | None = None,
    few: int = FEW,
) -> pd.DataFrame:
    """Add the column `split`: train, validation or test, in the shares of `params` and drawn with its seed.

    A row counts as much as its weight, or as any other. Rows of one group stay together. Each value of the first column
    of `stratify` is shared out by itself, and one of at least `few` rows or groups has some in every split; those of
    fewer are shared out as one. Within a value the same goes for those of the next column, of FEW. Of three rows or
    groups in all every split has one. A group belongs to the values that most of it has, and one larger than a split's
    share of them (and than others) goes to train. Rows whose column `source` is one of
    `params.train_only` go to train, too, with their groups, and count in no share. Raises UserError where rows are too
    few for validation and test to have some.
    """
    if params.train_only:
        learned = table["source"].map(lambda name: any(fnmatchcase(name, each) for each in params.train_only))
        learned = learned.astype(bool)
        learned = learned.groupby(groups).transform("any") if groups is not None else learned
        rest = [None if each is None else each[~learned] for each in (groups, weights)]
        parted = split(
            table[~learned],
            params.model_copy(update={"train_only": ()}),
            groups=rest[0],
            stratify=stratify,
            weights=rest[1],
            few=few,
        )
        return table.assign(split=parted["split"].reindex(table.index, fill_value="train"))
    group = pd.factorize(groups if groups is not None else np.arange(len(table)))[0]
    units = pd.DataFrame({"size": np.bincount(group, weights)})
    units["stratum"] = 0
    for column, least in zip(stratify, chain([few], repeat(max(few, FEW))), strict=False):
        keys = [units["stratum"], _most(group, pd.factorize(table[column])[0], weights)]
        counts = units.groupby(keys)["size"].transform("count")
        units["stratum"] = units.groupby([keys[0], np.where(counts < least, -1, keys[1])]).ngroup()
    shuffled = units.sample(frac=1, random_state=params.seed)
    units = _in_split(shuffled, params.validation, params.test, few)
    if len(units) >= len(SPLITS) and not set(SPLITS) <= set(units["split"]):
        units = _in_split(shuffled.assign(stratum=0), params.validation, params.test, len(SPLITS))
    if missing := [name for name in SPLITS[1:] if name not in set(units["split"])]:
        raise UserError(
            f"{len(units)} rows or groups of rows that stay together are too few: with validation {params.validation} "
            f"and test {params.test} there is none for {missing[0]}; bring more of them, or choose other shares"
        )
    return table.assign(split=units["split"].sort_index().to_numpy()[group])


def _most(group: np.ndarray, values: np.ndarray, weights: pd.Series | None) -> np.ndarray:
    """The value that most of each group's weight has, the least of several; groups are 0, 1, …"""
    rows = pd.DataFrame({"group": group, "value": values, "weight": 1 if weights is None else weights.to_numpy()})
    sizes = rows.groupby(["group", "value"], as_index=False)["weight"].sum()
    return sizes.loc[sizes.groupby("group")["weight"].idxmax(), "value"].to_numpy()


def _in_split(units: pd.DataFrame, validation: float, test: float, few: int) -> pd.DataFrame:
    """Give each unit (size, stratum) its split, in the order of the units but for large ones, which come last."""
    sizes = units.groupby("stratum")["size"]
    total = sizes.transform("sum")
    large = units["size"] > np.maximum(min(validation, test) * total, LARGE * sizes.transform("median"))
    enough = sizes.transform("count") >= few
    units = units.assign(large=large, total=total, enough=enough).sort_values("large", kind="stable")
    strata = units.groupby("stratum")["size"]
    middle, number = (strata.cumsum() - units["size"] / 2) / units["total"], strata.cumcount()
    chosen = (middle < validation) | (units["enough"] & (number == 0))
    next_one = number == chosen.groupby(units["stratum"]).transform("sum")
    tested = (middle < validation + test) | (units["enough"] & next_one)
    return units.assign(split=np.select([chosen, tested], ["validation", "test"], "train"))


def near_pairs(left: Sequence[str], right: Sequence[str], threshold: float) -> np.ndarray:
    """Places [n, 2] of the texts of `left` and of `right` that are near duplicates of each other, chains apart."""
    return Known([*map(shingles, left)]).pairs([*map(shingles, right)], threshold)


def overlap(table: pd.DataFrame, text: pd.Series, threshold: float) -> int:
    """Count the rows of validation and test that have a near duplicate in a split before theirs.

    Every row is compared with every other, with no index and no groups, so that this can judge what they made.
    """
    if table.empty:
        return 0
    sets = pd.Series([*map(shingles, text)], dtype=object)
    order = table["split"].map(SPLITS.index).to_numpy()
    found = 0
    for number in (1, 2):
        pairs = Known([*sets[order == number]]).pairs([*sets[order < number]], threshold)
        found += len(np.unique(pairs[:, 0]))
    return found
