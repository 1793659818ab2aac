"""Whether an answer runs in circles, as the likeliest tokens of a small model do: "a combination of a combination"."""

import re
from collections import Counter

WORDS = 4
TIMES = 3


def has_loop(text: str) -> bool:
    """Whether some run of WORDS words occurs TIMES times, or more often, in any case and punctuation."""
    words = re.findall(r"\w+", text.lower())
    runs = Counter(tuple(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1))
    return max(runs.values(), default=0) >= TIMES
