"""Labelled emails: raw messages and tables, as subject and body."""

import logging
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from pydantic import Field
from tqdm import tqdm

from tasks.data.cleaning.record import drop
from tasks.data.formats import Problem, each_file, without_problems
from tasks.data.formats.labels import LabelledSplit, without_contradictions
from tasks.data.formats.mails import Labels, mails
from tasks.data.inbox import FEEDBACK, SAID, by_votes
from tasks.data.textfiles import raw_files
from tasks.datasets import Dataset

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
    tasks/data/inbox.py gives it. Files and rows that can't be read are added to `problems`; without that list they
    raise UserError with file, row and reason.
    """
    paths = raw_files(folder)
    labels = Labels(params.labels, params.label_map)
    emails = []
    for path in tqdm(paths, desc="emails", unit="file", disable=None):
        name = path.relative_to(folder)
        found = each_file(partial(mails, name=name, labels=labels, columns=params.columns), [path])
        for mail in without_problems(found, problems):
            identity = name.as_posix() + (f"#{mail.number}" if mail.number else "")
            source = (name if mail.number else name.parent).as_posix()
            said = [mail.cells.get(column) for column in SAID] if name.as_posix() == FEEDBACK else [None] * len(SAID)
            emails.append((identity, source, mail.subject, mail.body, mail.label, *said))
    table = pd.DataFrame(emails, columns=[*COLUMNS[:-1], *SAID])
    table["group"] = thread(table)
    blank = row_text(table).str.isspace()
    logger.info("%d emails in %d files, %d of them without any text left out", len(table), len(paths), blank.sum())
    table = drop("blank", table, pd.Series("no text", table.index).where(blank), row_text(table))
    is_feedback = table["source"] == FEEDBACK
    files = table.loc[~is_feedback, COLUMNS].reset_index(drop=True)
    files = without_contradictions(files, row_text(files))
    if not is_feedback.any():
        return files
    said = table[is_feedback]
    return pd.concat([files, by_votes(said, row_text(said), said["label"])], ignore_index=True)


def thread(table: pd.DataFrame) -> pd.Series:
    """The group of a mail, which stays in one split: its subject without marks of replies and lists, or the whole text
    if that has fewer than two words."""
    words = table["subject"].map(lambda subject: re.findall(r"[^\W_]+", REPLY.sub("", subject).lower()))
    return words.str.join(" ").where(words.str.len() > 1, row_text(table))


def row_text(table: pd.DataFrame) -> pd.Series:
    """The text by which emails are compared: subject and body."""
    return table["subject"] + "\n" + table["body"]


def email_expectations() -> list["Expectation"]:
    """The expectations on a table of emails."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableColumnsToMatchOrderedList(column_list=COLUMNS),
        *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in COLUMNS),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
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
