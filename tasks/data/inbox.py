"""Rows that people add to a dataset in data/inbox/<dataset>/: accepted feedback, and files of their own.

Training learns from these rows. Nothing is tested on them, and they change no row of validation or test. Anybody may
send feedback, so its influence is bounded: `by_votes` counts networks, and `join_inbox` enforces the shares below.
"""

import hashlib
import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from llm.files import write_atomic
from tasks.data.cleaning.record import drop
from tasks.data.cleaning.rules import HALF, shares_before
from tasks.data.shingles import Known, shingles
from tasks.data.splits import deduplicate, near_pairs

INBOX = Path("data/inbox")
FEEDBACK = "feedback.jsonl"
IN_INBOX = "inbox/"  # prefix of the id and source of its rows
IGNORED = "*\n!.gitignore\n!*.dvc\n"  # git keeps the folder and DVC's pointers to its contents
NEAR = 0.8  # least Jaccard similarity of word 3-shingles for two rows of feedback to count as one
MOST = 0.02  # largest share of feedback in train, repetitions included
NETWORKS = 4  # a network may have one in this many rows of feedback
AGREE = 3  # networks that must agree before feedback replaces a row of train
SAID = ["client", "time", "verdict"]  # columns of feedback besides those of its dataset
COUNTED = ["client", "votes"]  # columns that `by_votes` leaves for `join_inbox`
BLOCK = 500  # texts that are compared at a time

logger = logging.getLogger(__name__)


def open_inbox(dataset: str) -> Path:
    """Create the inbox of a dataset and the folder for the project's own content, if they are missing.

    Returns the inbox.
    """
    own = INBOX.parent / dataset
    own.mkdir(parents=True, exist_ok=True)
    if not any(own.iterdir()):
        write_atomic(own / ".gitkeep", "")
    folder = INBOX / dataset
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".gitignore").exists():
        write_atomic(folder / ".gitignore", IGNORED)
    return folder


def plain(text: str) -> str:
    """A text without case, spaces and punctuation; a text of punctuation alone stays as it is."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(filter(str.isalnum, folded)) or text


def leaders(texts: Sequence[str]) -> np.ndarray:
    """For each text the index of the first text that it is nearly equal to, perhaps itself; int64 [texts].

    Two texts are nearly equal if they are equal in `plain`, or if their shingles have a similarity of NEAR. Each text
    is compared with first ones only: no chain of texts joins two different ones.
    """
    sets, found, firsts = [shingles(text) for text in texts], np.arange(len(texts)), list[int]()
    known: dict[str, int] = {}
    for start in range(0, len(texts), BLOCK):
        block = range(start, min(start + BLOCK, len(texts)))
        others, near = [*firsts, *block], defaultdict(list)
        pairs = Known([sets[place] for place in block]).pairs([sets[place] for place in others], NEAR)
        for one, other in pairs.tolist():
            near[block[one]].append(others[other])
        for place in block:
            same = known.setdefault(plain(texts[place]), place)
            first = (each for each in near[place] if each < place and found[each] == each)
            found[place] = found[same] if same < place else min(first, default=place)
            firsts += [place] * int(found[place] == place)
    return found


def lines_of_feedback(rows: pd.DataFrame, asked: pd.Series, answer: pd.Series) -> pd.DataFrame:
    """Rows of feedback by time, with the columns text, answer, good, asked, client and time.

    Rows with the same `text` (the index of the first of them), `answer` and `good` are one line of the list that a
    person decides on. Its first row represents it, there and in `by_votes`: the row that is shown is the one that is
    learned.
    """
    said = pd.DataFrame({"asked": asked, "answer": answer.map(same_answer), "good": rows["verdict"] != "bad"})
    said[["client", "time"]] = rows[["client", "time"]].fillna("").astype(str)
    said = said.sort_values(["time", "asked", "answer", "client"], kind="stable")
    return said.assign(text=said.index[leaders(said["asked"].tolist())])


def by_votes(rows: pd.DataFrame, asked: pd.Series, answer: pd.Series) -> pd.DataFrame:
    """One row of feedback for each text that networks agree on, with the columns COUNTED instead of SAID.

    `asked` is the text that a row is about, `answer` its answer; `verdict` is `bad` if that answer is wrong. Nearly
    equal texts count as one. The last answer of each network counts, as a vote for it or, if it is bad, against it. The
    answer with the most votes is kept, in its first wording; a tie keeps none. The order of the rows does not matter.
    """
    said = lines_of_feedback(rows, asked, answer)
    is_last = ~said.duplicated(["text", "client"], keep="last")
    scores, votes = defaultdict(Counter[str]), Counter[tuple[int, str]]()
    for each in said[is_last].itertuples():
        scores[each.text][each.answer] += 1 if each.good else -1
        votes[each.text, each.answer] += each.good
    first: dict[int, int] = {}
    reasons = pd.Series(None, rows.index, dtype=object)
    for each, last in zip(said.itertuples(), is_last, strict=True):
        others = [score for answer_, score in scores[each.text].items() if answer_ != each.answer]
        if each.good and scores[each.text][each.answer] > max([0, *others]):
            if first.setdefault(each.text, each.Index) != each.Index:
                reasons[each.Index] = "a nearly equal row that came before it stands for it"
        elif not last:
            reasons[each.Index] = "the same network said something else later"
        elif not each.good:
            reasons[each.Index] = "a bad answer is not learned from"
        else:
            reasons[each.Index] = "other networks say something else, and as many or more of them"
    rows = drop("feedback", rows, reasons, asked + "\n" + answer)
    agreed = {index: votes[text, said["answer"][index]] for text, index in first.items()}
    return rows.assign(votes=pd.Series(agreed, dtype=float)).drop(columns=["time", "verdict"])


def same_answer(answer: str) -> str:
    """An answer without case, line breaks and a full stop at its end."""
    return " ".join(answer.casefold().split()).strip(" .!")


def join_inbox(
    table: pd.DataFrame,
    left: pd.DataFrame,
    threshold: float,
    *,
    text: Callable[[pd.DataFrame], pd.Series],
    forms: Callable[[pd.DataFrame], pd.Series],
    groups: str | None = None,
    lines: Callable[[pd.DataFrame], pd.Series] | None = None,
    weight: int = 1,
) -> pd.DataFrame:
    """Add the rows `left` in an inbox to the train rows of a split `table`; rows with `votes` are feedback.

    `forms` gives all texts by which a row is recognised, with its index. A row that is a near duplicate of one of
    validation or test in any of them, or of its group, or has half of its long `lines` in such rows, is left out, so
    that what is tested is not learned and no feedback changes a test.

    A row of train gives way to a near duplicate in a person's own file. It gives way to feedback on which AGREE
    networks agree; other feedback on it is left out. Each row of feedback is in train up to `weight` times, and all of
    them together are at most MOST of train, those that one network said first at most one in NETWORKS of these.
    """
    is_feedback = left["votes"].notna() if "votes" in left else pd.Series(False, left.index)
    for rows, feedback in ((left[~is_feedback], False), (left[is_feedback], True)):
        if rows.empty:
            continue
        # Of a person's own rows with equal words, keep the last.
        rows = deduplicate(rows[::-1], text(rows[::-1]), 1.0)[::-1]
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
        reasons = pd.Series("too near to what is tested on", rows.index).where(out)
        if feedback:
            few = rows.index.isin(mine) & (rows["votes"] < AGREE).to_numpy() & ~out
            reasons[few] = f"a row of train is about it, which gives way to {AGREE} networks that agree"
        rows = drop("inbox", rows, reasons, text(rows))
        copies = rows
        if feedback:
            others = np.count_nonzero(~tested) - len(np.unique(theirs[np.isin(mine, rows.index)]))
            copies = _within_shares(rows, text(rows), others, weight)
            over = pd.Series("over the share of feedback in train", rows.index).where(~rows.index.isin(copies.index))
            rows = drop("inbox", rows, over, text(rows))
        replaced = table.index.isin(theirs[np.isin(mine, rows.index)])
        logger.info(
            "inbox: %d rows of %s, %d of them learned from; %d too near to validation or test, %d of train replaced",
            np.count_nonzero(is_feedback == feedback), "feedback" if feedback else "files", len(rows), out.sum(),
            replaced.sum(),
        )  # fmt: skip
        gone = pd.Series("the inbox says another thing of it", table.index).where(replaced)
        table = drop("inbox", table, gone, text(table))
        copies = copies.drop(columns=COUNTED, errors="ignore").assign(split="train")
        table = pd.concat([table, copies], ignore_index=True)
    return table


def _within_shares(rows: pd.DataFrame, text: pd.Series, others: int, weight: int) -> pd.DataFrame:
    """The indices of rows of feedback to add to `others` rows of train, each up to `weight` times, within the bounds.

    Rows with more votes come first, then those with a smaller hash of their text; no row comes twice before all came
    once.
    """
    most = int(MOST * others / (1 - MOST))
    of_one = -(-most // NETWORKS)
    hashes = text.map(lambda each: hashlib.sha256(each.encode(errors="replace")).hexdigest())
    order = rows.assign(hash=hashes).sort_values(["votes", "hash"], ascending=[False, True])
    taken, numbers, of = [], [], Counter[str]()
    for number in range(1, weight + 1):
        for index, client in zip(order.index, order["client"], strict=True):
            if len(taken) < most and of[client] < of_one:
                of[client] += 1
                taken.append(index)
                numbers.append(f" x{number}" if number > 1 else "")
    copies = rows.loc[taken]
    return copies.assign(id=copies["id"] + pd.Series(numbers, copies.index, dtype=str))
