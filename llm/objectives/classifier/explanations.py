"""Which phrases of a text made it look like a label: each is left out once (occlusion, Zeiler and Fergus 2014)."""

import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

PHRASES = 40
"""A text is cut into at most so many phrases, as each costs another reading of the text."""
WORDS = 12
"""A longer phrase is cut."""
SHOWN = 80
"""Characters of a phrase that are shown."""
LEAST = 0.05
"""Log-odds: a smaller effect is none."""
STOP_WORDS = set(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can could do for from had has have he her his how i if in is it its me my "
        "no not of on or our out she so than that the their them then there these they this to up us was we were what "
        "when which who will with would you your",
    )
)


class Moved(NamedTuple):
    """A phrase, the label that it makes likelier, and by how much: the log-odds that the label loses without it."""

    text: str
    label: str
    effect: float


def phrases(text: str) -> list[tuple[int, int]]:
    """Where the phrases of a text begin and end: parts of sentences of at most WORDS words, at most PHRASES."""
    spans: list[tuple[int, int]] = []
    for phrase in re.finditer(r"\S.*?(?:[.!?,;:]+(?=\s)|$)", text, re.MULTILINE):
        words = [word.span() for word in re.finditer(r"\S+", phrase[0])]
        for part in _parts(words, math.ceil(len(words) / WORDS)):
            spans.append((phrase.start() + part[0][0], phrase.start() + part[-1][1]))
    return [(part[0][0], part[-1][1]) for part in _parts(spans, min(PHRASES, len(spans)))]


def _parts(spans: Sequence[tuple[int, int]], count: int) -> list[Sequence[tuple[int, int]]]:
    """The same in `count` parts of about one length."""
    ends = [len(spans) * part // count for part in range(count + 1)] if count else []
    return [spans[first:last] for first, last in pairwise(ends)]


def moved_by(probabilities: Callable[[list[str]], np.ndarray], labels: Sequence[str], text: str) -> list[Moved]:
    """The phrases of a text, the strongest first; `probabilities` gives those of the labels of each text, N x K.

    A phrase of stop words alone is left out.
    """
    spans = [span for span in phrases(text) if _says_something(text[slice(*span)])]
    shortened = [text[:start] + text[end:] or " " for start, end in spans]
    probability_NK = probabilities([text, *shortened])
    with np.errstate(divide="ignore"):
        odds_NK = np.clip(np.log(probability_NK) - np.log1p(-probability_NK), -40, 40)
    moved = []
    for (start, end), effects_K in zip(spans, odds_NK[0] - odds_NK[1:], strict=True):
        label = labels[int(effects_K.argmax())]
        moved.append(Moved(text[start:end], label, effect=float(effects_K.max())))
    strong = [phrase for phrase in moved if phrase.effect >= LEAST]
    return sorted(strong, key=lambda phrase: -phrase.effect)


def _says_something(phrase: str) -> bool:
    return not STOP_WORDS.issuperset(re.findall(r"[^\W_]+", phrase.lower()))


def in_words(moved: Sequence[Moved]) -> str:
    """The same as a line: `like spam: “claim your prize”; like ham: “see you on Friday”`."""
    quotes: dict[str, list[str]] = {}
    for phrase in moved:
        text = " ".join(phrase.text.split())
        if len(text) > SHOWN:
            text = text[: SHOWN - 1] + "…"
        quotes.setdefault(phrase.label, []).append(f"“{text}”")
    return "; ".join(f"like {label}: {', '.join(texts)}" for label, texts in quotes.items())
