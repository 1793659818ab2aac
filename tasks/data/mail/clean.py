"""Clean a mail: a row with its texts, a raw message, or a subject and a body."""

import re
from collections.abc import Mapping
from typing import Any

from tasks.data.mail.characters import without_lost
from tasks.data.mail.message import Note, RowError, body_text, no_note, read_message, tidy_lines
from tasks.data.mail.noise import without_encoded, without_footers, without_quotes

REQUIREMENTS = ("ftfy", "lxml")
"""The distributions on PyPI that a served model needs for its cleaning."""
INPUTS = {"subject": str | None, "body": str | None, "message": str | None}
"""The columns of a row that `clean_row` takes."""
RULES = {"encoded": without_encoded, "footers": without_footers, "quotes": without_quotes}
PASSES = 20  # of cleaning; none of the 6,046 messages of the default data needs more than four


def clean_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Tidy `subject` and `body` of a row that has these two, or a whole raw mail as `message`.

    A message may be bytes, which are decoded as its headers say. Raises RowError for a row that has both forms, holds
    anything but text, or can't be read.
    """
    values: dict[str, Any] = {name: row.get(name) for name in INPUTS if row.get(name) is not None}
    for name, value in values.items():
        if not isinstance(value, (str, bytes) if name == "message" else str):
            raise RowError(f"{name}: {value!r} is not text")
    if "message" in values:
        if len(values) > 1:
            raise RowError("a row has either message or subject and body")
        subject, body = parse_message(values["message"])
    else:
        subject, body = clean_mail(values.get("subject", ""), values.get("body", ""))
    return {"subject": subject, "body": body}


def parse_message(raw: str | bytes, note: Note = no_note) -> tuple[str, str]:
    """The subject and the body of a raw message as tidy text.

    The body is its text, its HTML where that says something else, the mails in it, and attachments that are text.
    Raises RowError for a message that can't be read.
    """
    subject, body = read_message(raw if isinstance(raw, bytes) else without_lost(raw).encode(), note)
    return _settle(subject, body, note)


def clean_mail(subject: str, body: str, note: Note = no_note) -> tuple[str, str]:
    """The subject and the body of a mail, perhaps in HTML, as tidy text. A tidy mail stays as it is.

    Raises RowError for a body that can't be read.
    """
    return _settle(without_lost(subject), body_text(without_lost(body), note=note), note)


def _settle(subject: str, body: str, note: Note) -> tuple[str, str]:
    """Clean until nothing changes, so that a cleaned mail is served as it was evaluated.

    Raises RowError after PASSES passes.
    """
    mail = _clean(subject, body, note)
    # Mending may uncover more to mend: an entity in an entity, or "<html>" after a control character.
    for _ in range(PASSES):
        subject, body = mail
        cleaned = _clean(subject, body_text(body, note=note), note)
        if cleaned == mail:
            return mail
        mail = cleaned
    raise RowError(f"not readable as a mail: cleaned {PASSES} times, there is more to clean")


def _clean(subject: str, body: str, note: Note) -> tuple[str, str]:
    """The subject as one line; the body without encoded blocks, footers, marks of quotes and empty lines in a row."""
    for name, rule in RULES.items():
        cleaned = rule(body)
        note(name, body, cleaned)
        body = cleaned
    return " ".join(tidy_lines(subject, note).split()), re.sub(r"\n{3,}", "\n\n", body).strip()
