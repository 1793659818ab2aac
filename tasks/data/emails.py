"""Labelled emails: raw messages, mailboxes, texts and tables, as subject and body."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tasks.data.files import is_message
from tasks.data.findings import Findings
from tasks.data.labels import LabelledSplit, labelled_expectations, read_labelled
from tasks.data.mail import RowError, clean_mail, parse_message

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

COLUMNS = ["id", "source", "subject", "body", "label", "group"]
TEXTS = {"subject": (0, 2_000), "body": (0, 1_000_000)}
LINES = "body"
USUAL = {
    "subject": ("subject", "title"),
    "body": ("body", "text", "message", "content", "email", "mail", "sms", "email_text", "message_body", "v2"),
}
REPLY = re.compile(r"^(\s*((re|fwd?|aw|wg|sv|vs|tr|rv)(\[\d+\])?:|\[[^\]]*\]))+", re.IGNORECASE)


class Params(LabelledSplit):
    """Parameters for labelling, cleaning and splitting emails."""


def read(folder: Path, params: Params, findings: Findings) -> pd.DataFrame:
    """All emails below a folder, in the order of their paths; one without any text is dropped.

    Emails of one `group` (`thread`) stay in one split.
    """
    rows: list[dict[str, str]] = []
    for row in read_labelled(folder, params, findings, texts=USUAL, mails=True):
        try:
            subject, body = _clean(row.content)
        except RowError as error:
            findings.drop("unreadable", row.id, str(error), source=row.source)
            continue
        if not f"{subject}{body}".strip():
            findings.drop("blank", row.id, "no text", source=row.source)
            continue
        rows.append({"id": row.id, "source": row.source, "subject": subject, "body": body, "label": row.label})
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.assign(group=thread(table))


def _clean(content: bytes | str | dict[str, str]) -> tuple[str, str]:
    """The subject and the body of a raw message, of a text, perhaps below a line with its subject as in the Enron-Spam
    folders, or of a row."""
    if isinstance(content, bytes):
        return parse_message(content)
    if isinstance(content, str):
        first, _, later_lines = content.partition("\n")
        line = re.match(r"subject:(.*)", first, re.IGNORECASE)
        return clean_mail(line[1], later_lines) if line else clean_mail("", content)
    if "subject" not in content and is_message(content["body"]):
        return parse_message(content["body"])
    return clean_mail(content.get("subject", ""), content["body"])


def thread(table: pd.DataFrame) -> pd.Series:
    """The group of a mail: its subject without marks of replies and lists, or the whole text if that has fewer than two
    words."""
    words = table["subject"].map(_subject_words)
    return words.str.join(" ").where(words.str.len() > 1, table["subject"] + "\n" + table["body"])


def _subject_words(subject: str) -> list[str]:
    return re.findall(r"[^\W_]+", REPLY.sub("", subject).lower())


def expectations(params: Params) -> list["Expectation"]:
    """The expectations on a table of emails."""
    return labelled_expectations(COLUMNS, TEXTS, params.labels)
