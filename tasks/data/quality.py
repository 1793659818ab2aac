"""Quality gates: Great Expectations checks the rows and their numbers, writes pages, and stops the stage."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from llm.errors import UserError
from llm.files import write_atomic
from tasks.data.findings import Findings
from tasks.data.splits import LEAST, SPLITS, Gates

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult
    from great_expectations.data_context import AbstractDataContext
    from great_expectations.expectations import Expectation

EXAMPLES = 5
LONGEST = 100  # characters of an example
DUPLICATES = "near_duplicates"
HARMLESS = (DUPLICATES, "feedback", "inbox", "unanswered")
"""Rules whose dropped rows say nothing about the quality of the others."""

logger = logging.getLogger(__name__)


def straddling(table: pd.DataFrame, groups: np.ndarray | pd.Series) -> int:
    """The number of groups of rows that are in several splits."""
    return int((table["split"].groupby(np.asarray(groups)).nunique() > 1).sum())


def summarise(table: pd.DataFrame, findings: Findings, *, near: np.ndarray, labels: Sequence[str]) -> pd.DataFrame:
    """The numbers of rows read, dropped and split, in one row; the columns of `table` are split, unit and label.

    `near` numbers the groups of near duplicates; no group may be in several splits.
    """
    dropped = findings.counts()
    duplicates = dropped.get(DUPLICATES, 0)
    left_out = sum(count for rule, count in dropped.items() if rule not in HARMLESS)
    rows_read = len(table) + duplicates + left_out
    summary: dict[str, str | float] = {
        "id": "summary",
        "rows_read": rows_read,
        "rows": len(table),
        "duplicate_share": round(duplicates / max(rows_read, 1), 4),
        "left_out_share": round(left_out / max(rows_read, 1), 4),
        "split_overlap": straddling(table, near),
        "straddling_groups": straddling(table, table["unit"]),
    }
    for name in SPLITS:
        summary[f"{name}_rows"] = int((table["split"] == name).sum())
    for label in labels:
        is_labelled = table["label"] == label
        summary[f"rows_of_{label}"] = int(is_labelled.sum())
        summary[f"share_of_{label}"] = round(float(is_labelled.mean()), 4)
        summary[f"splits_of_{label}"] = table.loc[is_labelled, "split"].nunique()
    return pd.DataFrame([summary])


def cell_expectations(columns: Sequence[str]) -> list["Expectation"]:
    """The expectations that every row has a value in these columns, and an `id` of its own."""
    import great_expectations.expectations as gxe

    not_null = [gxe.ExpectColumnValuesToNotBeNull(column=column) for column in columns]
    return [*not_null, gxe.ExpectColumnValuesToBeUnique(column="id")]


def summary_expectations(labels: Sequence[str], gates: Gates) -> list["Expectation"]:
    """The bounds of `gates` on the result of `summarise`; those that only warn have the severity `warning`."""
    import great_expectations.expectations as gxe
    from great_expectations.expectations.metadata_types import FailureSeverity

    columns = {
        "rows_of_a_split": [f"{split}_rows" for split in SPLITS],
        "rows_of_a_label": [f"rows_of_{label}" for label in labels],
        "splits_of_a_label": [f"splits_of_{label}" for label in labels],
    }
    expectations: list[Expectation] = []
    for name, gate in gates:
        side = "min_value" if name in LEAST else "max_value"
        for severity, bound in ((FailureSeverity.WARNING, gate.warn), (FailureSeverity.CRITICAL, gate.fail)):
            if bound is None:
                continue
            for column in columns.get(name, [name]):
                # A maximum, as its result holds the observed value.
                expectation = gxe.ExpectColumnMaxToBeBetween(column=column, severity=severity, **{side: bound})
                expectations.append(expectation)
    return expectations


@dataclass(frozen=True)
class Validation:
    """The results of a dataset's checks."""

    dataset: str
    context: "AbstractDataContext"
    results: dict[str, "ExpectationSuiteValidationResult"]
    """By the checked table: rows and summary."""

    def expectations(self) -> Iterator[dict[str, Any]]:
        """Each expectation with its result: check, type, column, bounds, level, success, and what was observed.

        Nothing in it differs between equal runs.
        """
        for check, results in self.results.items():
            for result in results.results:
                yield _as_dict(check, result.to_json_dict())

    def failed(self, level: str) -> list[dict[str, Any]]:
        """The failed expectations of the level `warn` or `fail`."""
        return [entry for entry in self.expectations() if not entry["success"] and entry["level"] == level]

    def write(self, path: Path) -> None:
        """Write the results as JSON."""
        content = {"dataset": self.dataset, "expectations": list(self.expectations())}
        write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def write_pages(self, folder: Path) -> None:
        """Write Great Expectations' pages."""
        backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        site = {"class_name": "SiteBuilder", "store_backend": backend, "site_index_builder": index}
        self.context.add_data_docs_site("pages", site)
        self.context.build_data_docs(site_names=["pages"])

    def require_success(self) -> None:
        """Log the expectations that only warn. Raises UserError with a line for each that failed."""
        for entry in self.failed("warn"):
            logger.warning("%s: %s", self.dataset, _sentence(entry))
        if failed := self.failed("fail"):
            raise UserError("\n  ".join([f"{self.dataset}: {len(failed)} checks failed", *map(_sentence, failed)]))


def validate(
    dataset: str,
    *,
    rows: tuple[pd.DataFrame, list["Expectation"]],
    summary: tuple[pd.DataFrame, list["Expectation"]],
) -> Validation:
    """Check the rows and their summary, each a table with its expectations."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    # Great Expectations sets INFO itself.
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    source = context.data_sources.add_pandas(dataset)
    results: dict[str, ExpectationSuiteValidationResult] = {}
    for check, (table, expectations) in {"rows": rows, "summary": summary}.items():
        batch = source.add_dataframe_asset(check).add_batch_definition_whole_dataframe("all")
        suite = context.suites.add(gx.ExpectationSuite(name=check, expectations=expectations))
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=check, data=batch, suite=suite))
        results[check] = definition.run(
            batch_parameters={"dataframe": table},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]},
        )
    return Validation(dataset, context, results)


def _as_dict(check: str, result: dict[str, Any]) -> dict[str, Any]:
    config = result["expectation_config"]
    bounds = {key: value for key, value in config["kwargs"].items() if key not in ("batch_id", "column")}
    entry = {
        "check": check,
        "expectation": config["type"],
        "column": config["kwargs"].get("column"),
        "expected": bounds,
        "level": "warn" if config["severity"] == "warning" else "fail",
        "success": result["success"],
    }
    observed = result["result"]
    if "unexpected_count" in observed:
        examples = observed.get("partial_unexpected_index_list", [])[:EXAMPLES]
        return entry | {"unexpected": observed["unexpected_count"], "examples": list(map(_shortened, examples))}
    if "observed_value" in observed:
        return entry | {"observed": observed["observed_value"]}
    return entry | {"observed": next(iter(result["exception_info"].values()))["exception_message"]}


def _shortened(row: dict[str, Any]) -> dict[str, str]:
    return {key: str(value)[:LONGEST] for key, value in row.items()}


def _sentence(entry: dict[str, Any]) -> str:
    """A failed expectation on one line."""
    expected = ", ".join(f"{key} {value}" for key, value in entry["expected"].items())
    if "observed" in entry:
        observation = f"observed {entry['observed']}"
    else:
        examples = ", ".join(f"{row['id']}: {row.get(entry['column'])!r}" for row in entry["examples"])
        observation = f"{entry['unexpected']} rows fail, such as {examples}"
    where = ", ".join(filter(None, [entry["check"], entry["column"]]))
    return f"{where}: {entry['expectation'].replace('_', ' ')} ({expected}); {observation}"
