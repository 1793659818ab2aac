"""The gates of a dataset: for each number a bound to warn at and a bound to fail at."""

from llm.config import Config

LEAST = ("rows_of_a_split", "rows_of_a_label", "splits_of_a_label")  # lower bounds; all others are upper bounds


class Gate(Config):
    """The bounds of one number; null means no bound."""

    warn: float | None = None
    """Beyond it the run logs a warning and goes on."""
    fail: float | None = None
    """Beyond it the stage fails and writes nothing."""


class Gates(Config):
    """All bounds. A number that you name has the bounds that you give it, and no others."""

    rows_of_a_split: Gate = Gate(warn=10, fail=1)
    """The least rows of train, validation and test."""
    rows_of_a_label: Gate = Gate(warn=30, fail=3)
    """The least rows of each label.

    It is a number, not a share: with enough mails, 1 % of them is enough to train on.
    """
    splits_of_a_label: Gate = Gate(fail=3)
    """The least number of splits that each label is in."""
    duplicate_share: Gate = Gate(warn=0.3, fail=0.5)
    """The largest share of the read rows that may be near duplicates of others."""
    left_out_share: Gate = Gate(warn=0.1, fail=0.5)
    """The largest share of the read rows that other cleaning rules may drop."""
    split_overlap: Gate = Gate(fail=0)
    """The most rows of validation and test that may have a near duplicate in an earlier split."""
    straddling_groups: Gate = Gate(fail=0)
    """The most groups that may be in several splits."""
