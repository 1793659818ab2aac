"""Disguised spam beside the same spam as it was: what of it the classifier and its baseline catch."""

from pathlib import Path

import numpy as np
import pandas as pd

from llm.objectives.classifier import email_text
from tasks.applications.classifier.evasions import FORMS, draw, message
from tasks.data.mail import RowError, parse_message
from tasks.measures.description import Measured
from tasks.measures.labels.baseline import Reader
from tasks.measures.metrics import Metric
from tasks.measures.scores import ANSWER, BASELINE, TEST, score_table

EVASION = "evasion"
"""The part of disguised spam in the score table: a row a spam."""
AS_IT_WAS = "as it was"
ANY_FORM = "any form"
ON_EVASIONS = {"part": EVASION}


def score_evasions(rows: pd.DataFrame, *, ours: Reader, baseline: Reader, evidence: Path) -> Measured | None:
    """The shares of disguised spam that the model and its baseline catch. The evidence has them by form.

    Each spam is in all forms; a message that can't be read counts as passed. None with more than two labels, or where
    the test split has no spam and ham of a fitting length.
    """
    if len(ours.config.labels) > 2:
        return None
    spams = draw(rows[rows["part"] == TEST], *ours.config.labels)
    if not spams:
        return None
    texts = {AS_IT_WAS: [text_of(message(spam.subject, spam.body)) for spam in spams]}
    for name, form in FORMS.items():
        texts[name] = [text_of(form(spam)) for spam in spams]
    caught = caught_by(ours, texts)
    baseline_caught = caught_by(baseline, texts)
    scores = score_table(
        pd.DataFrame({"part": EVASION, "id": [spam.id for spam in spams], "question": [spam.body for spam in spams]}),
        ours=measures_of(caught),
        baseline=measures_of(baseline_caught),
    )
    _write_evidence(caught, baseline_caught, evidence)
    shares = caught.drop(columns=AS_IT_WAS).mean()
    plain = caught[AS_IT_WAS].mean()
    return Measured(scores, {"evasion_worst": float(shares.min() / plain) if plain else 0.0})


def evasion_metrics(scores: pd.DataFrame) -> list[Metric]:
    """Metrics of disguised spam; none without any.

    `evasion_recall` is the mean over all forms, with an interval over the spams, and `evasion_loss` by how much that is
    below the recall of the same spam as it was.
    """
    if EVASION not in set(scores["part"]):
        return []
    return [
        Metric("evasion_recall", (ANY_FORM,), where=ON_EVASIONS, logs=frozenset({BASELINE})),
        Metric("evasion_loss", (AS_IT_WAS, ANY_FORM), loss, where=ON_EVASIONS, logs=frozenset()),
    ]


def loss(plain: np.ndarray, disguised: np.ndarray) -> np.ndarray:
    """By how much the recall of disguised spam is lower."""
    return plain.mean(axis=-1) - disguised.mean(axis=-1)


def caught_by(reader: Reader, texts: dict[str, list[str]]) -> pd.DataFrame:
    """Whether a reader catches each spam, a column a form. Cleaning undoes some forms: equal texts are read once."""
    different = list(dict.fromkeys(text for same_form in texts.values() for text in same_form))
    decided = dict(zip(different, reader.config.decide(reader.probabilities(different)), strict=True))
    return pd.DataFrame({form: pd.Series(same_form).map(decided) for form, same_form in texts.items()})


def measures_of(caught: pd.DataFrame) -> pd.DataFrame:
    """The measures of each spam: whether it is caught as it was, and in which share of all forms."""
    plain = caught[AS_IT_WAS].astype(float)
    return pd.DataFrame({AS_IT_WAS: plain, ANY_FORM: caught[list(FORMS)].mean(axis=1), ANSWER: None})


def text_of(raw: bytes) -> str:
    """What a filter reads of a raw message; nothing of one that can't be read."""
    try:
        return email_text(*parse_message(raw))
    except RowError:
        return email_text("", "")


def _write_evidence(caught: pd.DataFrame, baseline: pd.DataFrame, evidence: Path) -> None:
    """`evasions.csv`, a row a form."""
    shares = {"mails": len(caught), "caught": caught.mean(), "baseline_caught": baseline.mean()}
    by_form = pd.DataFrame(shares).rename_axis("form")
    by_form.to_csv(evidence / "evasions.csv", float_format="%.4f")
