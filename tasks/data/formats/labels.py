"""Labels of texts, as a block of params.yaml names them: which there are, and what files write instead."""

import logging
import re
from typing import Annotated, Any, Self

import pandas as pd
from pydantic import BeforeValidator, Field, field_validator, model_validator

from tasks.data.cleaning.record import drop
from tasks.data.splits import Split

logger = logging.getLogger(__name__)


def _as_texts(value: Any) -> Any:
    """YAML reads 1 as a number, but a file's cell is text.

    A word that YAML reads as true, such as yes, can't be restored.
    """
    if not isinstance(value, dict):
        return value
    if any(isinstance(key, bool) for key in value):
        raise ValueError('YAML reads yes, no, on, off, true and false as truth values; put such keys in quotes: "yes"')
    return {str(key): label for key, label in value.items()}


class LabelledSplit(Split):
    """Parameters for labelling, cleaning and splitting texts."""

    labels: tuple[str, ...] = Field(("ham", "spam"), min_length=2)
    """The labels: words of letters, digits, `_`, `.` and `-`. Every split has each of them."""
    label_map: Annotated[dict[str, str], BeforeValidator(_as_texts)] = Field(default_factory=dict)
    """What files write instead of a label, such as `{0: ham, 1: spam}`."""

    @field_validator("labels", mode="after")
    @classmethod
    def _each_label_is_a_name_and_once(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        for label in labels:  # they become names of metrics
            if not re.fullmatch(r"[\w.-]+( [\w.-]+)*", label):
                raise ValueError(f"{label!r} is no word of letters, digits, _, . and -, nor several of them")
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(f"{twice[0]!r} stands here twice")
        return labels

    @model_validator(mode="after")
    def _the_map_leads_to_labels(self) -> Self:
        if strangers := [label for label in self.label_map.values() if label not in self.labels]:
            raise ValueError(f"label_map: {strangers[0]!r} is not one of the labels {', '.join(self.labels)}")
        return self


def without_contradictions(table: pd.DataFrame, text: pd.Series) -> pd.DataFrame:
    """Drop rows of equal `text` with different labels: it is not clear which is right."""
    contradicted = table.groupby(text)["label"].transform("nunique") > 1
    if contradicted.any():
        equal = table[text == text[contradicted.idxmax()]].drop_duplicates("label")
        named = " and ".join(equal["id"] + " (" + equal["label"] + ")")
        logger.warning("%d rows left out: equal ones have several labels, such as %s", contradicted.sum(), named)
    reasons = ("equal ones have other labels than " + table["label"]).where(contradicted)
    return drop("contradictions", table, reasons, text).reset_index(drop=True)
