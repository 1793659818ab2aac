"""Requests to an assistant, each labelled by what it should do: answer, decline, or help a person in need."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tasks.data.files import tidy
from tasks.data.findings import Findings
from tasks.data.labels import LabelledSplit, labelled_expectations, read_labelled

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

COLUMNS = ["id", "source", "request", "label"]
TEXTS = {"request": (1, 10_000)}
USUAL = {"request": ("request", "prompt", "question", "text")}


class Params(LabelledSplit):
    """Parameters for labelling, cleaning and splitting requests."""

    labels: tuple[str, ...] = ("answer", "crisis", "decline")
    """The labels: words of letters, digits, `_`, `.` and `-`. Every split has each of them."""


def read(folder: Path, params: Params, findings: Findings) -> pd.DataFrame:
    """All requests of the tables below a folder. Several turns of a user are lines of one request."""
    rows: list[dict[str, str]] = []
    for row in read_labelled(folder, params, findings, texts=USUAL):
        assert isinstance(row.content, dict)  # no mails are read
        request = tidy(row.content["request"])
        rows.append({"id": row.id, "source": row.source, "request": request, "label": row.label})
    return pd.DataFrame(rows, columns=COLUMNS)


def expectations(params: Params) -> list["Expectation"]:
    """The expectations on a table of requests."""
    return labelled_expectations(COLUMNS, TEXTS, params.labels)
