"""Mails in data/behavioural, written to test a classifier; no model learns from them."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.data.mail import clean_mail
from tasks.evaluation.classifier.baseline import Reader, numbers_of, texts_of
from tasks.evaluation.statistics import for_spreadsheets

RUN = 6  # words in a row that no behavioural mail may share with what was learned from
FILES = {"everyday": "test.jsonl", "short": "short.jsonl"}

logger = logging.getLogger(__name__)


def read_behavioural(dataset: str, name: str, labels: set[str]) -> pd.DataFrame | None:
    """The mails of FILES[name] for a dataset of this name and labels; None without any."""
    file = Path("data/behavioural") / dataset / FILES[name]
    if not file.exists():
        return None
    table = pd.read_json(file, lines=True, dtype=False)
    if not set(table["label"]) <= labels:
        return None
    cleaned = [clean_mail(*row) for row in zip(table["subject"], table["body"], strict=True)]
    return table.assign(subject=[subject for subject, _ in cleaned], body=[body for _, body in cleaned])


def measure_behavioural(
    dataset: str, learned: pd.DataFrame, ours: Reader, its: Reader, evidence: Path
) -> dict[str, float]:
    """The shares of each label's behavioural mails that are right, of model and baseline; a row a mail as evidence."""
    labels, shares, tables = ours.config.labels, {}, []
    for name in FILES:
        if (mails := read_behavioural(dataset, name, set(labels))) is None:
            continue
        mails = unlike(mails, learned)
        actual, probability = numbers_of(mails["label"], labels), ours.probabilities(texts_of(mails))
        predicted = ours.config.decide(probability)
        right, its_right = predicted == actual, its.config.decide(its.probabilities(texts_of(mails))) == actual
        columns = {
            "predicted": np.array(labels)[predicted],
            "probability": probability[np.arange(len(mails)), predicted].round(4),
            "right": right,
            "baseline_right": its_right,
        }
        for number, label in enumerate(labels):
            if (actual == number).any():
                shares[f"{name}_{label}"] = float(right[actual == number].mean())
                shares[f"baseline_{name}_{label}"] = float(its_right[actual == number].mean())
        tables.append(mails[["id", "label", "slice"]].assign(**columns))
    if tables:
        for_spreadsheets(pd.concat(tables)).to_csv(evidence / "behavioural.csv", index=False)
    return shares


def unlike(mails: pd.DataFrame, learned: pd.DataFrame) -> pd.DataFrame:
    """The behavioural mails that share neither their subject nor RUN words in a row with what was learned from."""

    def runs(table: pd.DataFrame) -> pd.Series:
        words = (table["subject"] + " " + table["body"]).str.lower().str.findall(r"[^\W_]+")
        return words.map(lambda each: {tuple(each[first : first + RUN]) for first in range(len(each) - RUN + 1)})

    def subjects(table: pd.DataFrame) -> pd.Series:
        return table["subject"].str.lower().str.replace(r"^(?:\s*(?:re|fwd?)\s*:)+|[\W_]+", "", regex=True)

    known, said = set().union(*runs(learned)), set(subjects(learned)) - {""}
    alike = ~runs(mails).map(known.isdisjoint) | subjects(mails).isin(said)
    if alike.any():
        logger.warning(
            "%d of %d behavioural mails left out: their subject or %d words in a row stand in train or validation: %s",
            alike.sum(), len(mails), RUN, ", ".join(mails.loc[alike, "id"]),
        )  # fmt: skip
    return mails[~alike].reset_index(drop=True)
