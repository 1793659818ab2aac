"""Texts of other languages than a dataset wants, which py3langid tells offline: it knows 139 of them, in 5 MB.

Below SHORTEST characters it guesses; of 600 default mails it was sure of no wrong one above that.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import pandas as pd

from llm.errors import UserError
from tasks.data.cleaning.record import drop

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

SHORTEST = 100  # characters of a text that is judged
READ = 2_000  # characters of a text that are looked at
CERTAIN = 0.9  # probability
UNKNOWN = "unknown"


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language_of(text: str) -> str:
    """The language of a text by its code of ISO 639, such as `en`; UNKNOWN where it is short or not certain."""
    if len(text) < SHORTEST:
        return UNKNOWN
    language, probability = _identifier().classify(text[:READ])
    return language if probability >= CERTAIN else UNKNOWN


def in_languages(table: pd.DataFrame, text: pd.Series, languages: Sequence[str]) -> pd.DataFrame:
    """The rows in one of the languages, and those of UNKNOWN; all rows where no language is named.

    Raises UserError for a language that is none.
    """
    if not languages:
        return table
    if unknown := sorted(set(languages) - set(_identifier().labels)):
        raise UserError(f"languages: {unknown[0]!r} is no code of ISO 639 that is known; en and pt are")
    found = text.map(language_of).astype(object)
    return drop("language", table, ("it is in " + found).where(~found.isin([*languages, UNKNOWN])), text)
