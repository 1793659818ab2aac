"""The bounds that a dataset is held against: for each number one to warn at and one to fail at."""

from typing import Any

from pydantic import ValidationInfo, field_validator

from llm.config import Config

LEAST = ("rows_of_a_split", "rows_of_a_label", "splits_of_a_label")  # of these there may be more, of all others less


class Gate(Config):
    """The bounds of one number; null means no bound."""

    warn: float | None = None
    """Beyond it the run says so and goes on."""
    fail: float | None = None
    """Beyond it the stage ends and writes nothing."""


class Gates(Config):
    """All bounds. A key that you give changes that bound alone."""

    rows_of_a_split: Gate = Gate(warn=10, fail=1)
    """The least rows of train, validation and test."""
    rows_of_a_label: Gate = Gate(warn=30, fail=3)
    """The least rows of each label. Rows, not a share: of enough mails one can learn what one in a hundred is."""
    splits_of_a_label: Gate = Gate(fail=3)
    """In how many splits each label must be, at least."""
    duplicate_share: Gate = Gate(warn=0.3, fail=0.5)
    """The most of the rows read that may be near duplicates of others."""
    left_out_share: Gate = Gate(warn=0.1, fail=0.5)
    """The most of the rows read that other rules of cleaning may leave out."""
    split_overlap: Gate = Gate(fail=0)
    """The most rows of validation and test that may have a near duplicate in a split before theirs."""
    straddling_groups: Gate = Gate(fail=0)
    """The most groups that may be in several splits."""

    @field_validator("*", mode="before")
    @classmethod
    def _over_the_default(cls, value: Any, info: ValidationInfo) -> Any:
        default = cls.model_fields[info.field_name].default
        return default.model_dump() | value if isinstance(value, dict) else value
