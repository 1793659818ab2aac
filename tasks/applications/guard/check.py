"""What the guard's block says about its dataset and its base."""

from tasks.measures.labels.check import check

__all__ = ["check"]
