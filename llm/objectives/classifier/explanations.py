"""Which phrases of a text made it look like a label: each is left out once (occlusion, Zeiler and Fergus 2014)."""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import logit

WORDS, PHRASES = 5, 40
"""Words of a phrase; of a long text there are more, as each of at most so many phrases costs another reading."""
SHOWN = 80
"""Characters of a phrase that are shown."""
LEAST = 0.05
"""Log-odds: a smaller effect is none."""


class Moved(NamedTuple):
    """A phrase, the label that it makes likelier, and by how much: the log-odds that the label loses without it."""

    text: str
    label: str
    effect: float


def moved_by(probabilities: Callable[[list[str]], np.ndarray], labels: Sequence[str], text: str) -> list[Moved]:
    """The phrases of a text, the strongest first; `probabilities` gives those of the labels of each text, N x K."""
    words = max(WORDS, math.ceil(len(text.split()) / PHRASES))
    phrases = re.findall(rf"\s*(?:\S++\s*+){{1,{words}}}", text)
    shortened = ["".join([*phrases[:number], *phrases[number + 1 :]]) or " " for number in range(len(phrases))]
    odds_NK = logit(probabilities([text, *shortened]).clip(1e-15, 1 - 1e-15))
    moved = []
    for phrase, effect_K in zip(phrases, odds_NK[0] - odds_NK[1:], strict=True):
        moved.append(Moved(" ".join(phrase.split()), labels[effect_K.argmax()], effect=effect_K.max().item()))
    return sorted([phrase for phrase in moved if phrase.effect > LEAST], key=lambda phrase: -phrase.effect)


def in_words(moved: Sequence[Moved]) -> str:
    """The same as a line: `like spam: “claim your prize”; like ham: “see you on Friday”`."""
    return "; ".join(f"like {phrase.label}: “{phrase.text[:SHOWN]}”" for phrase in moved)
