"""What people leave for a dataset in data/inbox/<dataset>/: feedback that the app wrote down, and files of their own.

It is learned from and never tested on, and no row of validation or test comes, goes or changes by it.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from llm.files import write_atomic
from tasks.data.cleaning.lines import HALF, shares_before
from tasks.data.cleaning.record import drop
from tasks.data.splits import deduplicate, near_pairs

INBOX = Path("data/inbox")
FEEDBACK = "feedback.jsonl"
IN_INBOX = "inbox/"  # how id and source of its rows begin
IGNORED = "*\n!.gitignore\n"  # git keeps the folder, which DVC wants there, and nothing that people left in it
MOST = 0.25  # rows of feedback, repeated, for each other row of train

logger = logging.getLogger(__name__)


def open_inbox(dataset: str) -> Path:
    """The inbox of a dataset, made where it is missing."""
    folder = INBOX / dataset
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".gitignore").exists():
        write_atomic(folder / ".gitignore", IGNORED)
    return folder


def join_inbox(
    table: pd.DataFrame,
    left: pd.DataFrame,
    threshold: float,
    *,
    text: Callable[[pd.DataFrame], pd.Series],
    forms: Callable[[pd.DataFrame], pd.Series],
    groups: str | None = None,
    lines: Callable[[pd.DataFrame], pd.Series] | None = None,
) -> pd.DataFrame:
    """Add the rows `left` in an inbox to the train rows of a split `table`.

    Of those with the same words as `text` the last stays. `forms` gives all texts by which a row is recognised, with
    its index: a row left that is a near duplicate of one of validation or test in any of them, or of its group, or has
    half of its long `lines` in such rows, is left out, so that what is tested is not learned and no feedback changes a
    test. A row of train gives way to such a duplicate: what a person says of it counts.
    """
    rows = deduplicate(left[::-1], text(left[::-1]), 1.0)[::-1]
    ours, known = forms(rows), forms(table)
    pairs = near_pairs(ours.tolist(), known.tolist(), threshold)
    mine, theirs = ours.index.to_numpy()[pairs[:, 0]], known.index.to_numpy()[pairs[:, 1]]
    tested = table["split"] != "train"
    out = rows.index.isin(mine[tested[theirs].to_numpy()])
    if groups:
        out |= rows[groups].isin(table.loc[tested, groups]).to_numpy()
    if lines:
        both = pd.concat([table[tested].assign(split="train"), rows.assign(split="test")], ignore_index=True)
        out |= (shares_before(both, lines(both))[-len(rows) :] >= HALF).to_numpy()
    tested_on = pd.Series("too near to what is tested on", rows.index).where(out)
    rows = drop("inbox", rows, tested_on, text(rows))
    replaced = table.index.isin(theirs[np.isin(mine, rows.index)])
    logger.info(
        "inbox: %d rows, %d of them learned from; %d too near to validation or test, %d of train replaced",
        len(left), len(rows), out.sum(), replaced.sum(),
    )  # fmt: skip
    table = drop(
        "inbox", table, pd.Series("the inbox says another thing of it", table.index).where(replaced), text(table)
    )
    return pd.concat([table, rows.assign(split="train")], ignore_index=True)


def repeat_feedback(train: pd.DataFrame, weight: int) -> pd.DataFrame:
    """Train rows with those of feedback `weight` times: among thousands one alone would hardly count.

    Fewer times where they would be more than MOST of the others, but each of them once. Files of people's own are there
    once.
    """
    said = train[train["id"].str.startswith(f"{IN_INBOX}{FEEDBACK}#")]
    if said.empty:
        return train
    times = max(1, min(weight, int(MOST * (len(train) - len(said)) / len(said))))
    again = [said.assign(id=said["id"] + f" x{number}") for number in range(2, times + 1)]
    return pd.concat([train, *again], ignore_index=True)
