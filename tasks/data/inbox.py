"""What people leave for a dataset in data/inbox/<dataset>/: feedback that a person accepted, and files of their own.

Training learns from these rows. Nothing is tested on them, and they change no row of validation or test. Anybody may
send feedback, so what it can change is bounded: `by_votes` counts networks, and `join_inbox` holds the shares below.
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
IN_INBOX = "inbox/"  # how id and source of its rows begin
IGNORED = "*\n!.gitignore\n!*.dvc\n"  # git keeps the folder and DVC's pointers to what people left in it
NEAR = 0.8  # Jaccard similarity of word 3-shingles from which on two rows of feedback are one
MOST = 0.02  # share of train that may be feedback, repetitions included
NETWORKS = 4  # one network may have one in so many of these rows
AGREE = 3  # networks that must agree before a row of train gives way to feedback
SAID = ["client", "time", "verdict"]  # columns of feedback beside those of its dataset
COUNTED = ["client", "votes"]  # columns that `by_votes` leaves for `join_inbox`
BLOCK = 500  # texts that are compared with each other at a time

logger = logging.getLogger(__name__)


def open_inbox(dataset: str) -> Path:
    """The inbox of a dataset, made where it is missing, as is the folder for content of the project's own."""
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
    """A text without case, spaces and punctuation; one of punctuation alone stays as it is."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(filter(str.isalnum, folded)) or text


def leaders(texts: Sequence[str]) -> np.ndarray:
    """The place of the first text that each text is nearly equal to, which may be itself; int64 [texts].

    Two texts are nearly equal when they are the same in `plain`, or when their shingles have a similarity of NEAR. Each
    text is held against first ones only: no chain of texts joins two that are different.
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
    person decides on, and its first row stands for it, there and in `by_votes`: what is shown is what is learned.
    """
    said = pd.DataFrame({"asked": asked, "answer": answer.map(same_answer), "good": rows["verdict"] != "bad"})
    said[["client", "time"]] = rows[["client", "time"]].fillna("").astype(str)
    said = said.sort_values(["time", "asked", "answer", "client"], kind="stable")
    return said.assign(text=said.index[leaders(said["asked"].tolist())])


def by_votes(rows: pd.DataFrame, asked: pd.Series, answer: pd.Series) -> pd.DataFrame:
    """Of rows of feedback one for each text that networks agree on, with COUNTED instead of SAID.

    `asked` is the text that a row is about, `answer` what it says of it; `verdict` is `bad` where that answer is wrong.
    Nearly equal texts are one. The last answer of each network counts, as a vote for it or, where it is bad, against
    it. The answer with the most votes is kept, in the words that came first with it; a tie keeps none. The order of
    the rows does not matter.
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
    """An answer without case, breaks of lines and a full stop at its end."""
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
        # Of a person's own rows with the same words the last one stays.
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
    """Rows of feedback beside `others` of train, each up to `weight` times, by its index; what is over is left out.

    Rows with more votes come first, then those with a smaller hash of their text; none comes twice before all came
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
