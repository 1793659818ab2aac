"""Add the rows of an inbox to train. Nothing is tested on them, and they change no row of validation or test."""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.data.cleaning.record import drop
from tasks.data.cleaning.rules import HALF, shares_before
from tasks.data.dataset import Dataset, Table
from tasks.data.duplicates import DUPLICATES
from tasks.data.shingles import text_hashes
from tasks.data.similarity import near_pairs
from tasks.data.splits import Split

MOST = 0.02  # largest share of feedback in train, repetitions included
NETWORKS = 4  # a network may have one in this many rows of feedback
AGREE = 3  # networks that must agree before feedback replaces a row of train

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NearRows:
    """Pairs of near duplicates: rows of an inbox and rows of the dataset, by their indices."""

    inbox: np.ndarray
    table: np.ndarray

    def of(self, rows: Table) -> np.ndarray:
        """The rows of the dataset that are near to these rows of the inbox."""
        return self.table[np.isin(self.inbox, rows.index)]


def join_inbox(table: Table, inbox: Table, *, dataset: Dataset, params: Split) -> Table:
    """Add the rows of an inbox to the train rows of a split `table`; rows with `votes` are feedback.

    A row that is a near duplicate of one of validation or test in any of its `forms`, or of its group, or has half of
    its long `lines` in such rows, is left out, so that what is tested is not learned and no feedback changes a test.

    A row of train gives way to a near duplicate in a person's own file. It gives way to feedback on which AGREE
    networks agree; other feedback on it is left out. Each row of feedback is in train up to `feedback_weight` times,
    and all of them together are at most MOST of train, those that one network said first at most one in NETWORKS of
    these.
    """
    is_feedback = inbox["votes"].notna() if "votes" in inbox else pd.Series(False, inbox.index)
    table = _join_files(table, inbox[~is_feedback], dataset=dataset, params=params)
    return _join_feedback(table, inbox[is_feedback], dataset=dataset, params=params)


def _join_files(table: Table, rows: Table, *, dataset: Dataset, params: Split) -> Table:
    if rows.empty:
        return table
    rows = _last_of_equal(rows, dataset)
    near = _near_rows(table, rows, dataset=dataset, threshold=params.near_duplicate)
    reasons = _too_near(table, rows, near=near, dataset=dataset)
    rows = drop("inbox", rows, reasons=reasons, text=dataset.text(rows))
    logger.info(
        "inbox: %d rows of files are learned from, %d are too near to validation or test", len(rows), reasons.count()
    )
    return _in_train(_replaced(table, near.of(rows), dataset), rows)


def _join_feedback(table: Table, rows: Table, *, dataset: Dataset, params: Split) -> Table:
    if rows.empty:
        return table
    rows = _last_of_equal(rows, dataset)
    near = _near_rows(table, rows, dataset=dataset, threshold=params.near_duplicate)
    reasons = _too_near(table, rows, near=near, dataset=dataset)
    is_outvoted = rows.index.isin(near.inbox) & (rows["votes"] < AGREE).to_numpy() & reasons.isna().to_numpy()
    reasons[is_outvoted] = f"a row of train is about it, which gives way to {AGREE} networks that agree"
    rows = drop("inbox", rows, reasons=reasons, text=dataset.text(rows))
    train_rows = (table["split"] == "train").sum() - len(np.unique(near.of(rows)))
    text = dataset.text(rows)
    copies = _within_shares(rows, text, train_rows=train_rows, weight=params.feedback_weight)
    is_over = pd.Series(~rows.index.isin(copies.index), rows.index)
    over = pd.Series("over the share of feedback in train", rows.index).where(is_over)
    rows = drop("inbox", rows, reasons=over, text=text)
    logger.info(
        "inbox: %d rows of feedback are learned from, %d are left out", len(rows), reasons.count() + is_over.sum()
    )
    return _in_train(_replaced(table, near.of(rows), dataset), copies)


def _last_of_equal(rows: Table, dataset: Dataset) -> Table:
    """The last of a person's own rows with equal words."""
    text = dataset.text(rows)
    hashes = pd.Series(text_hashes(text), rows.index)
    last = rows["id"].groupby(hashes).transform("last")
    reasons = ("as " + last).where(hashes.duplicated(keep="last"))
    return drop(DUPLICATES, rows, reasons=reasons, text=text)


def _near_rows(table: Table, rows: Table, *, dataset: Dataset, threshold: float) -> NearRows:
    forms = dataset.forms or dataset.text
    inbox_forms = forms(rows)
    table_forms = forms(table)
    pairs = near_pairs(inbox_forms.tolist(), table_forms.tolist(), threshold)
    return NearRows(
        inbox=inbox_forms.index.to_numpy()[pairs[:, 0]],
        table=table_forms.index.to_numpy()[pairs[:, 1]],
    )


def _too_near(table: Table, rows: Table, *, near: NearRows, dataset: Dataset) -> pd.Series:
    """The reason to leave out each row that is too near to rows of validation or test."""
    is_tested = table["split"] != "train"
    is_near = rows.index.isin(near.inbox[is_tested[near.table].to_numpy()])
    if dataset.groups:
        is_near |= rows[dataset.groups].isin(table.loc[is_tested, dataset.groups]).to_numpy()
    if dataset.lines:
        tested = table[is_tested].assign(split="train")
        compared = pd.concat([tested, rows.assign(split="test")], ignore_index=True)
        shares = shares_before(compared, dataset.lines(compared))
        is_near |= (shares.iloc[len(tested) :] >= HALF).to_numpy()
    return pd.Series("too near to what is tested on", rows.index, dtype=object).where(is_near)


def _replaced(table: Table, near: np.ndarray, dataset: Dataset) -> Table:
    """The table without the rows to which rows of the inbox are near."""
    is_replaced = table.index.isin(near)
    logger.info("inbox: %d rows of train are replaced", is_replaced.sum())
    reasons = pd.Series("the inbox says another thing of it", table.index).where(is_replaced)
    return drop("inbox", table, reasons=reasons, text=dataset.text(table))


def _in_train(table: Table, rows: Table) -> Table:
    rows = rows.drop(columns=["client", "votes"], errors="ignore").assign(split="train")
    return pd.concat([table, rows], ignore_index=True)


def _within_shares(rows: Table, text: pd.Series, *, train_rows: int, weight: int) -> Table:
    """The rows of feedback to add to so many rows of train, each up to `weight` times, within the bounds.

    Rows with more votes come first, then those with a smaller hash of their text; no row comes twice before all came
    once.
    """
    most = int(MOST * train_rows / (1 - MOST))
    most_of_network = -(-most // NETWORKS)
    hashes = text.map(_sha256)
    order = rows.assign(hash=hashes).sort_values(["votes", "hash"], ascending=[False, True])
    chosen: list[int] = []
    suffixes: list[str] = []
    of_network: Counter[str] = Counter()
    for number in range(1, weight + 1):
        for index, network in zip(order.index.tolist(), order["client"].tolist(), strict=True):
            if len(chosen) < most and of_network[network] < most_of_network:
                of_network[network] += 1
                chosen.append(index)
                suffixes.append(f" x{number}" if number > 1 else "")
    copies = rows.loc[chosen]
    return copies.assign(id=copies["id"] + pd.Series(suffixes, copies.index, dtype=str))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
