"""Feedback: nearly equal rows are one text, and networks vote on its answer.

Anybody may send feedback, so its influence is bounded: `by_votes` counts networks, and tasks/data/join.py enforces
shares.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from tasks.data.cleaning.record import drop
from tasks.data.shingles import shingles
from tasks.data.similarity import ShingleMatrix

FEEDBACK = "feedback.jsonl"
NEAR = 0.8  # least Jaccard similarity of word 3-shingles for two rows of feedback to count as one
VOTE_COLUMNS = ["client", "time", "verdict"]  # columns of feedback besides those of its dataset
BLOCK = 500  # texts that are compared at a time


def plain(text: str) -> str:
    """A text without case, spaces and punctuation; a text of punctuation alone stays as it is."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(filter(str.isalnum, folded)) or text


def same_answer(answer: str) -> str:
    """An answer without case, line breaks and a full stop at its end."""
    return " ".join(answer.casefold().split()).strip(" .!")


def leaders(texts: Sequence[str]) -> np.ndarray:
    """For each text the index of the first text that it is nearly equal to, perhaps itself; int64 [texts].

    Two texts are nearly equal if they are equal in `plain`, or if their shingles have a similarity of NEAR. Each text
    is compared with first ones only: no chain of texts joins two different ones.
    """
    sets = [shingles(text) for text in texts]
    first_of = np.arange(len(texts))
    firsts: list[int] = []
    first_plain: dict[str, int] = {}
    for start in range(0, len(texts), BLOCK):
        block = list(range(start, min(start + BLOCK, len(texts))))
        candidates = [*firsts, *block]
        near: dict[int, list[int]] = defaultdict(list)
        block_sets = ShingleMatrix([sets[index] for index in block])
        for left, right in block_sets.pairs([sets[index] for index in candidates], NEAR).tolist():
            near[block[left]].append(candidates[right])
        for index in block:
            equal = first_plain.setdefault(plain(texts[index]), index)
            near_firsts = [number for number in near[index] if number < index and first_of[number] == number]
            first_of[index] = first_of[equal] if equal < index else min(near_firsts, default=index)
            if first_of[index] == index:
                firsts.append(index)
    return first_of


def lines_of_feedback(rows: pd.DataFrame, asked: pd.Series, answer: pd.Series) -> pd.DataFrame:
    """Rows of feedback by time, with the columns text, answer, good, asked, client and time.

    Rows with the same `text` (the index of the first of them), `answer` and `good` are one line of the list that a
    person decides on. Its first row represents it, there and in `by_votes`: the row that is shown is the one that is
    learned.
    """
    lines = pd.DataFrame({"asked": asked, "answer": answer.map(same_answer), "good": rows["verdict"] != "bad"})
    lines[["client", "time"]] = rows[["client", "time"]].fillna("").astype(str)
    lines = lines.sort_values(["time", "asked", "answer", "client"], kind="stable")
    return lines.assign(text=lines.index[leaders(lines["asked"].tolist())])


def by_votes(rows: pd.DataFrame, asked: pd.Series, answer: pd.Series) -> pd.DataFrame:
    """One row of feedback for each text that networks agree on, with the columns client and votes.

    `asked` is the text that a row is about, `answer` its answer; `verdict` is `bad` if that answer is wrong. Nearly
    equal texts count as one. The last answer of each network counts, as a vote for it or, if it is bad, against it. The
    answer with the most votes is kept, in its first wording; a tie keeps none. The order of the rows does not matter.
    """
    lines = lines_of_feedback(rows, asked, answer)
    is_last = ~lines.duplicated(["text", "client"], keep="last")
    lines["vote"] = lines["good"].map({True: 1, False: -1}).where(is_last, 0)
    lines["votes"] = (lines["good"] & is_last).astype(float)
    of_answer = lines.groupby(["text", "answer"])
    lines["score"] = of_answer["vote"].transform("sum")
    is_best = lines["score"] == lines.groupby("text")["score"].transform("max").clip(lower=1)
    best_answers = lines["answer"].where(is_best).groupby(lines["text"]).transform("nunique")
    is_agreed = lines["good"] & is_best & (best_answers == 1)
    stands_for_others = is_agreed & ~lines["text"].where(is_agreed).duplicated()
    reasons = np.select(
        [stands_for_others, is_agreed, ~is_last, ~lines["good"]],
        [
            "",
            "a nearly equal row that came before it stands for it",
            "the same network said something else later",
            "a bad answer is not learned from",
        ],
        "other networks say something else, and as many or more of them",
    )
    reasons_of_rows = pd.Series(reasons, lines.index, dtype=object).where(~stands_for_others).reindex(rows.index)
    kept = drop("feedback", rows, reasons=reasons_of_rows, text=asked + "\n" + answer)
    votes = of_answer["votes"].transform("sum").reindex(kept.index)
    return kept.assign(votes=votes).drop(columns=["time", "verdict"])
