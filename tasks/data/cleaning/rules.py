"""The rules that look at whole rows: which are no text to learn from."""

from collections.abc import Mapping

import pandas as pd

from tasks.data.cleaning.record import drop

FEWEST_LINES = 10  # a shorter text may well repeat its lines
REPEATED = 0.7  # share of lines that stand before


def within_lengths(table: pd.DataFrame, text: pd.Series, lengths: Mapping[str, tuple[int, int]]) -> pd.DataFrame:
    """The rows whose fields have as many characters as they may: an outlier is no reason to stop."""
    reasons = pd.Series(None, index=table.index, dtype=object)
    for column, (least, most) in lengths.items():
        size = table[column].str.len()
        wrong = reasons.isna() & ~size.between(least, most)
        reasons[wrong] = column + " has " + size[wrong].astype(str) + f" characters, not {least:,} to {most:,}"
    return drop("lengths", table, reasons, text)


def repeated_lines(text: str) -> float:
    """The share of lines, blank ones apart, that stand in the text before; 0 where it is short."""
    if text.count("\n") < FEWEST_LINES:
        return 0.0
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    return 1 - len(set(lines)) / len(lines) if len(lines) >= FEWEST_LINES else 0.0


def without_repetition(table: pd.DataFrame, text: pd.Series) -> pd.DataFrame:
    """The rows of which not most lines repeat others (Rae et al. 2021, who allow 0.3 of them to pages of the web)."""
    shares = text.map(repeated_lines)
    reasons = shares.map(lambda share: f"{share:.0%} of its lines repeat others").where(shares > REPEATED)
    return drop("repetition", table, reasons, text)
