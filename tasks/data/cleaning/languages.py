"""Which language a text is in, and those of other languages than a dataset wants.

py3langid knows 139 of them offline, in 5 MB (lingua-language-detector has 96). Below SHORTEST characters it guesses;
of 600 default mails it was sure of no wrong one above that. It walks through a text byte by byte in Python; numpy walks
through many texts at once here, in a tenth of that time, and py3langid itself is asked where it is close.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from llm.errors import UserError
from tasks.data.cleaning.record import counted, drop

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

SHORTEST = 100  # characters of a text that is judged
READ = 2_000  # characters of a text that are looked at
CERTAIN = 0.9  # probability
CLOSE = 1e-3  # to CERTAIN: sums in another order differ by some 1e-5
TOGETHER = 1024  # texts
WALKED = 2**21  # bytes of texts at a time, of which each takes some 30 in memory
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


@cache
def _automaton() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of py3langid's automaton: the state after a row and a byte, a state's row (times 256) and its feature or -1."""
    identifier = _identifier()
    rows = np.array(identifier.tk_row, np.int64) << 8
    return np.asarray(identifier.tk_nextmove), rows, np.array(identifier.tk_output, np.int32)


def _features(texts: Sequence[bytes]) -> csr_array:
    """How often each text (row), of which none is shorter than the next, has each of py3langid's features (column)."""
    after, rows, features = _automaton()
    sizes = np.array([*map(len, texts)])
    letters = np.frombuffer(b"".join(text.ljust(sizes[0], b"\0") for text in texts), np.uint8).reshape(len(texts), -1)
    letters, states = letters.T.copy(), np.zeros((sizes[0], len(texts)), np.int32)
    state = np.zeros(len(texts), np.int32)
    for place, left in enumerate(len(texts) - np.searchsorted(sizes[::-1], np.arange(sizes[0]), side="right")):
        state = after[rows[state[:left]] + letters[place, :left]]
        states[place, :left] = state
    found = features[states.T]
    found[np.arange(sizes[0]) >= sizes[:, None]] = -1
    met = found >= 0
    found, ends = found[met], np.cumsum([0, *met.sum(axis=1)], dtype=np.int32)
    shape = (len(texts), _identifier().nb_ptc.shape[0])
    counts = csr_array((np.ones(len(found), np.float32), found, ends), shape=shape)
    counts = counts.tocsc().tocsr()  # so that columns are in order, in a third of the time of a sort
    counts.sum_duplicates()
    return counts


def _scores(texts: Sequence[bytes]) -> np.ndarray:
    """What each of some texts, as `_features` takes them, has of each class; float32 [texts, classes]."""
    identifier, counts = _identifier(), _features(texts)
    used = np.bincount(counts.indices, minlength=counts.shape[1]) > 0
    parts = np.log1p(counts.data), (np.cumsum(used) - 1)[counts.indices], counts.indptr
    scores = csr_array(parts, shape=(len(texts), used.sum())) @ identifier.nb_ptc[used].astype(np.float32)
    scores += identifier.nb_pc
    scores[np.diff(counts.indptr) == 0] = 0  # nothing is known of them
    return scores


def _probabilities(texts: Sequence[str]) -> np.ndarray:
    """Of each text and each of py3langid's classes, as `classify` has it up to rounding; float32 [texts, classes]."""
    coded = [
        unicodedata.normalize("NFC", text.lower() if text.isupper() else text).encode(errors="surrogatepass")
        for text in texts
    ]
    order, done = np.argsort([-len(text) for text in coded], kind="stable"), 0
    scores = np.empty((len(texts), len(_identifier().nb_classes)), np.float32)
    while done < len(order):
        some = order[done : done + max(1, WALKED // len(coded[order[done]]))]
        scores[some] = _scores([coded[place] for place in some])
        done += len(some)
    scores /= np.sqrt([[len(text)] for text in coded])
    found = np.exp(scores - scores.max(axis=1, keepdims=True))
    return found / found.sum(axis=1, keepdims=True)


def languages_of(texts: Sequence[str]) -> Iterator[str]:
    """As `language_of` each of the texts, many at once."""
    classes = _identifier().nb_classes
    first = [classes.index(name) for name in classes]  # one language may be two classes, by its scripts
    for start in range(0, len(texts), TOGETHER):
        some = texts[start : start + TOGETHER]
        found = [UNKNOWN] * len(some)
        judged = [place for place, text in enumerate(some) if len(text) >= SHORTEST]
        if judged:
            classed = _probabilities([some[place][:READ] for place in judged])
            merged = np.zeros_like(classed)
            np.add.at(merged.T, first, classed.T)
            for place, best, sure in zip(judged, merged.argmax(axis=1), merged.max(axis=1), strict=True):
                if abs(sure - CERTAIN) < CLOSE:
                    found[place] = language_of(some[place])
                elif sure > CERTAIN:
                    found[place] = classes[best]
        yield from found


def in_languages(table: pd.DataFrame, text: pd.Series, languages: Sequence[str]) -> pd.DataFrame:
    """The rows in one of the languages, or in all where none is named; those of UNKNOWN stay.

    How many rows are in which is counted before. Raises UserError for a language that is none.
    """
    if unknown := sorted(set(languages) - set(_identifier().labels)):
        raise UserError(f"languages: {unknown[0]!r} is no code of ISO 639 that is known; en and pt are")
    found = pd.Series([*languages_of(text.tolist())], text.index, dtype=object)
    counted("language", found.value_counts().sort_index().to_dict())
    others = bool(languages) & ~found.isin([*languages, UNKNOWN])
    return drop("language", table, ("it is in " + found).where(others), text)
