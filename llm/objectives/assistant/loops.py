"""Whether an answer runs in circles, as greedy decoding of a small model may ("a combination of a combination of …")."""

import re
from collections import Counter

WORDS = 4
TIMES = 3


def has_loop(text: str) -> bool:
    """Whether some run of WORDS words occurs TIMES times, or more often, in any case and punctuation."""
    words = re.findall(r"\w+", text.lower())
    runs = Counter(zip(*(words[start:] for start in range(WORDS)), strict=False))
    return max(runs.values(), default=0) >= TIMES
