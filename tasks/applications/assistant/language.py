"""The language of a text.

py3langid tells languages offline: it knows 139 of them, in 5 MB. It guesses below SHORTEST characters; it was sure of
no wrong one above that in 600 default mails.
"""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

SHORTEST = 100  # characters; shorter texts are not judged
READ = 2_000  # characters of a text that are read
CERTAIN = 0.9  # probability
UNKNOWN = "unknown"


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language_of(text: str) -> str:
    """The language of a text as an ISO 639 code, such as `en`; UNKNOWN if the text is short or the language not
    certain."""
    if len(text) < SHORTEST:
        return UNKNOWN
    language, probability = _identifier().classify(text[:READ])
    return language if probability >= CERTAIN else UNKNOWN
