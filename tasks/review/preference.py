"""Two versions of the assistant that learned from preferences: as those of any assistant."""

from tasks.review.assistant import REVIEW

__all__ = ["REVIEW"]
