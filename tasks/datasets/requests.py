"""Requests to an assistant, each labelled by what it should do: answer, decline, or help a person in need."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tasks.data.formats import Problem, RowError, check_form, each_file, without_problems
from tasks.data.formats.labels import LabelledSplit, without_contradictions
from tasks.data.formats.mails import Labels
from tasks.data.formats.tables import READERS, each_row
from tasks.data.sniff import sniff
from tasks.data.textfiles import raw_files, tidy
from tasks.datasets import Dataset

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
    labels, rows = Labels(params.labels, params.label_map), []
    for path in raw_files(folder):
        name = path.relative_to(folder).as_posix()
        rows += without_problems(each_file(partial(_rows, name=name, labels=labels), [path]), problems)
    table = pd.DataFrame(rows, columns=COLUMNS)
    return without_contradictions(table, table["request"])


def _rows(path: Path, name: str, labels: Labels) -> Iterator[dict[str, str] | Problem]:
    form = sniff(path)
    check_form(path, form, READERS, f"no table of requests; they are read from {', '.join(READERS)}")

    def row(number: int | None, cells: Any) -> dict[str, str]:
        if not isinstance(cells, dict) or not isinstance(cells.get("request"), str):
            raise RowError("no text under 'request'")
        if cells.get("label") is None:
            raise RowError(f"no label; it is one of {', '.join(labels.names)}")
        identity = f"{name}#{number}"
        return {"id": identity, "source": name, "request": tidy(cells["request"]), "label": labels.of(cells["label"])}

    return each_row(path, READERS[form](path), row)


def request_expectations() -> list["Expectation"]:
    """The expectations on a table of requests."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableColumnsToMatchOrderedList(column_list=COLUMNS),
        *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in COLUMNS),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
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
