"""How each dataset reads somebody's files, and which dataset suits them best."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llm.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from tasks.data.problems import Problem

Changes = Mapping[str, Mapping[str, str]]
"""Entries that are added to `label_map` and `columns` of a dataset's parameters."""


@dataclass(frozen=True)
class Reading:
    """A dataset's reading of the files."""

    dataset: str
    table: "pd.DataFrame"
    problems: list["Problem"]

    def stopping(self) -> list["Problem"]:
        """The problems that stop `preprocess`."""
        return [problem for problem in self.problems if not problem.left_out]

    def fit(self) -> tuple[bool, int, int]:
        """How well the dataset suits the files: whether it reads any, then how few problems it has.

        An unknown label is no problem, since it can be mapped.
        """
        own = [problem for problem in self.problems if not problem.other_form]
        foreign = len(self.problems) - len(own)
        stopping = [problem for problem in own if not problem.left_out and not unknown_labels([problem])]
        reads_any = len(self.table) > 0 or len(stopping) < len(own)
        return reads_any, -len(stopping) - foreign, -foreign


def unknown_labels(problems: Sequence["Problem"]) -> set[str]:
    """The labels that the dataset does not know."""
    matches = [re.match(r"label '(.*)' is not one of", problem.reason) for problem in problems]
    return {match[1] for match in matches if match}


def best_readings(folder: Path, dataset: str | None, changes: Changes) -> list[Reading]:
    """The reading of the dataset that suits the files best; of equals the one that demands most of them.

    If none reads anything, all that suit equally well; one entry if all have the same problems. Raises UserError for an
    unknown `dataset`, the only one that is tried if it is given.
    """
    from tasks.stages.names import dataset_names

    names = dataset_names()
    if dataset and dataset not in names:
        raise UserError(f"there is no dataset {dataset!r}; those are {', '.join(names)}")
    readings: list[Reading] = []
    refusal: ValueError | None = None
    for name in [dataset] if dataset else names:
        try:
            readings.append(_read(name, folder, changes))
        except ValueError as error:  # a label or column of another dataset
            refusal = error
    if refusal and not readings:
        raise refusal
    best = max(reversed(readings), key=Reading.fit)
    reads_any, *_ = best.fit()
    if reads_any:
        return [best]
    equals = [reading for reading in readings if reading.fit() == best.fit()]
    if len(equals) > 1 and all(reading.problems == best.problems for reading in equals):
        return [replace(best, dataset="any dataset")]
    return equals


def _read(name: str, folder: Path, changes: Changes) -> Reading:
    import pandas as pd

    from tasks.data.problems import Problem
    from tasks.params.load import load_preprocess
    from tasks.params.slices import find_dataset

    dataset = find_dataset(name)
    params = load_preprocess(name)
    changed = {key: getattr(params, key) | new for key, new in changes.items() if new and hasattr(params, key)}
    if changed:
        params = type(params)(**params.model_dump() | changed)
    problems: list[Problem] = []
    try:
        table = dataset.check(folder, params, problems) if dataset.check else dataset.read(folder, params)
    except UserError as error:
        table = pd.DataFrame()
        problems.append(Problem(*str(error).split(": ", 1)))
    return Reading(name, table, problems)
