"""Requests to an assistant, each labelled by what it should do: answer, decline, or help a person in need."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import pandas as pd

from tasks.data.dataset import Dataset
from tasks.data.formats.labelled import LabelledText, read_labelled, without_contradictions
from tasks.data.formats.labels import LabelledSplit, Labels
from tasks.data.formats.tables import READERS, read_rows
from tasks.data.problems import Problem, RowError, check_form
from tasks.data.quality import cell_expectations
from tasks.data.sniff import sniff
from tasks.data.textfiles import tidy

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

COLUMNS = ["id", "source", "request", "label"]
LENGTHS = {"request": (1, 10_000)}


class Params(LabelledSplit):
    """Parameters for labelling, cleaning and splitting requests."""

    labels: tuple[str, ...] = ("answer", "crisis", "decline")
    """The labels: words of letters, digits, `_`, `.` and `-`. Every split has each of them."""


def read_requests(folder: Path, params: Params, problems: list[Problem] | None = None) -> pd.DataFrame:
    """Read all tables under `folder`. Each row has a `request` and a `label`.

    Several turns of a user are lines of one request. Equal requests with different labels are dropped. What can't be
    read is added to `problems`; without that list it raises UserError with file, row and reason.
    """
    labels = Labels(params.labels, params.label_map)
    read = partial(requests, labels=labels)
    table = read_labelled(folder, read, columns=["request"], problems=problems)[COLUMNS]
    return without_contradictions(table, table["request"])


def requests(path: Path, name: PurePath, labels: Labels) -> Iterator[LabelledText | Problem]:
    """The requests of a file."""
    form = sniff(path)
    check_form(path, form, READERS, reason=f"no table of requests; they are read from {', '.join(READERS)}")

    def read(number: int | None, cells: Any) -> LabelledText:
        if not isinstance(cells, Mapping) or not isinstance(cells.get("request"), str):
            raise RowError("no text under 'request'")
        if cells.get("label") is None:
            raise RowError(f"no label; it is one of {', '.join(labels.names)}")
        label = labels.of(cells["label"])
        return LabelledText(label=label, texts={"request": tidy(cells["request"])}, number=number)

    return read_rows(path, READERS[form](path), read)


def request_expectations() -> list["Expectation"]:
    """The expectations on a table of requests."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableColumnsToMatchOrderedList(column_list=COLUMNS),
        *cell_expectations(COLUMNS),
    ]


DATASET = Dataset(
    params=Params,
    read=read_requests,
    text=lambda table: table["request"],
    expectations=request_expectations,
    labels=lambda params: params.labels,
    lengths=LENGTHS,
    check=read_requests,
)
