"""Two versions of the assistant that learned from preferences: as those of any assistant."""

from tasks.applications.assistant.review import REVIEW

__all__ = ["REVIEW"]
