"""Labelled emails: raw messages and tables, as subject and body."""

import logging
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from pydantic import Field

from tasks.data.cleaning.record import drop
from tasks.data.dataset import Dataset
from tasks.data.feedback import FEEDBACK, by_votes
from tasks.data.formats.labelled import read_labelled, without_contradictions
from tasks.data.formats.labels import LabelledSplit, Labels
from tasks.data.formats.mails import mails
from tasks.data.problems import Problem
from tasks.data.quality import cell_expectations

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

COLUMNS = ["id", "source", "subject", "body", "label", "group"]
LENGTHS = {"subject": (0, 2_000), "body": (0, 1_000_000)}
REPLY = re.compile(r"^(\s*((re|fwd?|aw|wg|sv|vs|tr|rv)(\[\d+\])?:|\[[^\]]*\]))+", re.IGNORECASE)
logger = logging.getLogger(__name__)


class Params(LabelledSplit):
    """Parameters for labelling, cleaning and splitting emails."""

    columns: dict[str, str] = Field(default_factory=dict)
    """The names of a table's columns `label`, `subject` and `body`, if they are not usual ones."""


def read_emails(folder: Path, params: Params, problems: list[Problem] | None = None) -> pd.DataFrame:
    """Read all emails under `folder`, in the order of their paths: id, source, subject, body, label, group.

    tasks/data/formats/mails.py reads the formats. Emails of one `group` (`thread`) stay in one split. Emails without
    any text are dropped, and so are equal ones with different labels. Feedback comes last, as `by_votes` of
    tasks/data/feedback.py gives it. Files and rows that can't be read are added to `problems`; without that list they
    raise UserError with file, row and reason.
    """
    labels = Labels(params.labels, params.label_map)
    read = partial(mails, labels=labels, columns=params.columns)
    table = read_labelled(folder, read, columns=["subject", "body"], problems=problems)
    table["group"] = thread(table)
    is_blank = row_text(table).str.isspace()
    reasons = pd.Series("no text", table.index).where(is_blank)
    table = drop("blank", table, reasons=reasons, text=row_text(table))
    is_feedback = table["source"] == FEEDBACK
    own_rows = table.loc[~is_feedback, COLUMNS].reset_index(drop=True)
    own_rows = without_contradictions(own_rows, row_text(own_rows))
    if not is_feedback.any():
        return own_rows
    feedback = table[is_feedback]
    return pd.concat([own_rows, by_votes(feedback, row_text(feedback), feedback["label"])], ignore_index=True)


def thread(table: pd.DataFrame) -> pd.Series:
    """The group of a mail, which stays in one split: its subject without marks of replies and lists, or the whole text
    if that has fewer than two words."""
    words = table["subject"].map(_subject_words)
    return words.str.join(" ").where(words.str.len() > 1, row_text(table))


def _subject_words(subject: str) -> list[str]:
    return re.findall(r"[^\W_]+", REPLY.sub("", subject).lower())


def row_text(table: pd.DataFrame) -> pd.Series:
    """The text by which emails are compared: subject and body."""
    return table["subject"] + "\n" + table["body"]


def email_expectations() -> list["Expectation"]:
    """The expectations on a table of emails."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableColumnsToMatchOrderedList(column_list=COLUMNS),
        *cell_expectations(COLUMNS),
        *(gxe.ExpectColumnValueLengthsToBeBetween(column=name, max_value=most) for name, (_, most) in LENGTHS.items()),
    ]


DATASET = Dataset(
    params=Params,
    read=read_emails,
    text=row_text,
    expectations=email_expectations,
    groups="group",
    labels=lambda params: params.labels,
    feedback=LENGTHS,
    answer="label",
    lengths=LENGTHS,
    lines=lambda table: table["body"],
    check=read_emails,
)
