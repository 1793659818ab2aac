"""Quality gates: Great Expectations checks tables, writes a report, and fails with an error that names each mistake."""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

import pandas as pd

from llm.errors import UserError
from llm.files import write_atomic
from tasks.data.gates import LEAST, Gates
from tasks.data.splits import SPLITS

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.data_context import AbstractDataContext
    from great_expectations.datasource.fluent import PandasDatasource
    from great_expectations.expectations import Expectation

EXAMPLES = 5
LONGEST = 100  # characters of an example
RESULT_FORMAT = {"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of rows that a table does not show any more."""

    overlapping: int
    """Rows of validation and test that have a near duplicate in an earlier split."""
    duplicates: int = 0
    left_out: int = 0
    """Rows dropped for other reasons."""


def summary_of(
    table: pd.DataFrame, counts: Counts, *, groups: str | None = None, labels: Sequence[str] = ()
) -> pd.DataFrame:
    """Sum up a de-duplicated and split table in one row.

    Rows read and kept, the shares of them that were duplicates or left out, the rows of each split, the rows that
    overlap, the values of the column `groups` that are in several splits and, of each of the `labels`, the rows, their
    share and in how many splits it is.
    """
    rows_read = len(table) + counts.duplicates + counts.left_out
    split = table["split"]
    summary: dict[str, str | float] = {
        "id": "summary",
        "rows_read": rows_read,
        "rows": len(table),
        "duplicate_share": round(counts.duplicates / max(rows_read, 1), 4),
        "left_out_share": round(counts.left_out / max(rows_read, 1), 4),
        "split_overlap": counts.overlapping,
        "straddling_groups": (table.groupby(groups)["split"].nunique() > 1).sum() if groups else 0,
    }
    summary |= {f"{name}_rows": (split == name).sum() for name in SPLITS}
    summary |= {f"rows_of_{label}": (table["label"] == label).sum() for label in labels}
    summary |= {f"share_of_{label}": round(float((table["label"] == label).mean()), 4) for label in labels}
    summary |= {f"splits_of_{label}": split[table["label"] == label].nunique() for label in labels}
    return pd.DataFrame([summary])


def cell_expectations(columns: Sequence[str]) -> list["Expectation"]:
    """The expectations that every row has a value in these columns, and an `id` of its own."""
    import great_expectations.expectations as gxe

    not_null = [gxe.ExpectColumnValuesToNotBeNull(column=column) for column in columns]
    return [*not_null, gxe.ExpectColumnValuesToBeUnique(column="id")]


def label_expectations(labels: Sequence[str]) -> list["Expectation"]:
    """The expectation on the column `label`, for a dataset with labels."""
    import great_expectations.expectations as gxe

    return [gxe.ExpectColumnValuesToBeInSet(column="label", value_set=list(labels))] if labels else []


def summary_expectations(labels: Sequence[str], gates: Gates) -> list["Expectation"]:
    """The expectations on the result of `summary_of`, from the bounds of `gates`; bounds that only warn have the
    severity `warning`."""
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


class Finding(TypedDict):
    """An expectation and its result, as validation.json has it."""

    check: str
    expectation: str
    column: str | None
    expected: dict[str, Any]
    """The arguments of the expectation."""
    level: Literal["warn", "fail"]
    success: bool
    observed: NotRequired[Any]
    """The value, of an expectation on a whole table."""
    unexpected: NotRequired[int]
    """The number of rows that fail, of an expectation on single rows."""
    rows: NotRequired[int]
    examples: NotRequired[list[dict[str, str]]]


def _finding(check: str, result: "ExpectationValidationResult") -> Finding:
    """An expectation and its result, without anything that differs between equal runs."""
    details: dict[str, Any] = result.to_json_dict()
    observed = details["result"]
    config = details["expectation_config"]
    kwargs = config["kwargs"]
    finding: Finding = {
        "check": check,
        "expectation": config["type"],
        "column": kwargs.get("column"),
        "expected": {key: value for key, value in kwargs.items() if key not in ("batch_id", "column")},
        "level": "warn" if config["severity"] == "warning" else "fail",
        "success": details["success"],
    }
    if "observed_value" in observed:
        finding["observed"] = observed["observed_value"]
    elif "unexpected_count" in observed:
        rows = observed.get("partial_unexpected_index_list", [])[:EXAMPLES]
        finding["unexpected"] = observed["unexpected_count"]
        finding["rows"] = observed["element_count"]
        finding["examples"] = [_shortened(row) for row in rows]
    else:
        finding["observed"] = next(iter(details["exception_info"].values()))["exception_message"]
    return finding


def _shortened(row: dict[str, Any]) -> dict[str, str]:
    return {key: str(value)[:LONGEST] for key, value in row.items()}


def _sentence(finding: Finding) -> str:
    """A failed expectation on one line that names the way out."""
    column = finding["column"]
    expected = ", ".join(f"{key} {value}" for key, value in finding["expected"].items())
    expectation = finding["expectation"].replace("_", " ")
    if "observed" in finding:
        observation = f"observed {finding['observed']}"
    else:
        examples = ", ".join(f"{row['id']}: {row[str(column)]!r}" for row in finding["examples"])
        observation = f"{finding['unexpected']} of {finding['rows']} rows fail, such as {examples}"
    where = f", {column}" if column else ""
    bounds = f" ({expected})" if expected else ""
    return f"{finding['check']}{where}: {expectation}{bounds}; {observation}"


def _of_batches(findings: Sequence[Finding]) -> Finding:
    """The result of an expectation over several batches, as if they were one table."""
    first = next((finding for finding in findings if not finding["success"]), findings[0])
    if len(findings) == 1 or not all("unexpected" in finding for finding in findings):
        return first
    unexpected = sum(finding["unexpected"] for finding in findings)
    rows = sum(finding["rows"] for finding in findings)
    examples = list(chain.from_iterable(finding["examples"] for finding in findings))[:EXAMPLES]
    success = unexpected <= (1 - first["expected"].get("mostly", 1.0)) * rows
    return {**first, "unexpected": unexpected, "rows": rows, "examples": examples, "success": success}


@dataclass(frozen=True)
class Check:
    """Tables to check against expectations: all rows with a column `id`, in batches.

    Rows of one id are in one batch, and the expectations are about single rows or ids.
    """

    name: str
    batches: Iterable[pd.DataFrame]
    expectations: list["Expectation"]


@dataclass(frozen=True)
class Validation:
    """The results of a dataset's checks."""

    dataset: str
    findings: list[Finding]
    context: "AbstractDataContext"

    def missed(self, level: Literal["warn", "fail"]) -> list[Finding]:
        """The failed expectations of a level."""
        return [finding for finding in self.findings if not finding["success"] and finding["level"] == level]

    def write(self, report: Path) -> None:
        """Write the results to `report`/validation.json."""
        content = {"dataset": self.dataset, "success": not self.missed("fail"), "expectations": self.findings}
        write_atomic(report / "validation.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def write_pages(self, folder: Path) -> None:
        """Write Great Expectations' pages."""
        self.context.add_data_docs_site(
            "pages",
            {
                "class_name": "SiteBuilder",
                "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            },
        )
        self.context.build_data_docs(site_names=["pages"])

    def require_success(self) -> None:
        """Log the expectations that only warn. Raises UserError with a line for each that failed."""
        for finding in self.missed("warn"):
            logger.warning("%s: %s", self.dataset, _sentence(finding))
        if failed := self.missed("fail"):
            raise UserError("\n  ".join([f"{self.dataset}: {len(failed)} checks failed", *map(_sentence, failed)]))
        passed = len(self.findings) - len(self.missed("warn"))
        logger.info("%d checks of %s passed", passed, self.dataset)


def validate(dataset: str, checks: Sequence[Check]) -> Validation:
    """Check tables against their expectations."""
    context = _context()
    source = context.data_sources.add_pandas(dataset)
    findings: list[Finding] = []
    for check in checks:
        findings += _run(context, source, check)
    return Validation(dataset, sorted(findings, key=_order), context)


def _context() -> "AbstractDataContext":
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    # Great Expectations sets INFO itself.
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    return context


def _run(context: "AbstractDataContext", source: "PandasDatasource", check: Check) -> list[Finding]:
    """The findings of one check, one an expectation."""
    import great_expectations as gx

    rows = source.add_dataframe_asset(check.name).add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name=check.name, expectations=check.expectations))
    validation = context.validation_definitions.add(gx.ValidationDefinition(name=check.name, data=rows, suite=suite))
    findings: list[list[Finding]] = []
    for batch in check.batches:
        result = validation.run(batch_parameters={"dataframe": batch}, result_format=RESULT_FORMAT)
        findings.append([_finding(check.name, part) for part in result.results])
    return [_of_batches(of_expectation) for of_expectation in zip(*findings, strict=True)]


def _order(finding: Finding) -> tuple[str, str, str, str]:
    return finding["check"], finding["column"] or "", finding["expectation"], finding["level"]
