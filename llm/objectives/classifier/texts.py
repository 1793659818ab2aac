"""Rows as the texts that a classifier reads."""

from collections.abc import Iterable, Sequence


def row_text(parts: Sequence[str]) -> str:
    """The texts in a row's columns as the model reads them, a blank line between two."""
    return "\n\n".join(parts)


def row_texts(columns: Iterable[Iterable[str]]) -> list[str]:
    """Rows as the model reads them, from the texts in each of their columns."""
    return [row_text(parts) for parts in zip(*columns, strict=True)]


def email_text(subject: str, body: str) -> str:
    """An email as the model reads it, subject first."""
    return row_text([subject, body])
