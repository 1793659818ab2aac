"""How far the data that one version learned from is from another's, by the dataset's properties."""

import pandas as pd

from tasks.data.drift import Drift, drift
from tasks.registry.trained_on import TrainedOn, current_md5, current_rows, rows_before

FETCH = "`dvc fetch --all-commits` brings what a remote has"
LABELS = ("label", "kind")  # columns that say what a row is
NO_PROPERTY = ("id", "source")


def rows_of(data: TrainedOn) -> pd.DataFrame | None:
    """The train rows of a version: those in the workspace where they are the same, else from DVC's cache.

    None where neither has them.
    """
    return current_rows(data.dataset) if current_md5(data.dataset) == data.md5 else rows_before(data)


def moved(before: pd.DataFrame, now: pd.DataFrame, *, sources: bool = False) -> list[Drift]:
    """How far each property of a dataset's rows has moved: its label, then the lengths and words of each text.

    With `sources`, where they come from, too, which says nothing of what they are.
    """
    label = next((name for name in LABELS if name in now and name in before), None)
    texts = [
        name
        for name in now
        if name in before and name not in (*NO_PROPERTY, label) and now[name].map(type).eq(str).all()
    ]
    source = "source" if sources and label != "source" and all("source" in table for table in (before, now)) else None
    return drift(before, now, texts, label, source)
