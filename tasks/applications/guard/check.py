"""What the guard's block says about its dataset and its base: as that of any classifier."""

from tasks.applications.classifier.check import check

__all__ = ["check"]
