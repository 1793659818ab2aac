"""Quality gates: Great Expectations checks tables, writes a report, and fails with an error that names each mistake."""

import json
import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd

from llm.errors import UserError
from llm.files import write_atomic
from tasks.data.gates import LEAST, Gates
from tasks.data.splits import SPLITS

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.data_context import AbstractDataContext
    from great_expectations.expectations import Expectation

EXAMPLES = 5
LONGEST = 100  # characters of an example
RESULT_FORMAT = {"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]}

logger = logging.getLogger(__name__)


def summarise(
    table: pd.DataFrame,
    overlapping: int,
    *,
    duplicates: int = 0,
    left_out: int = 0,
    groups: str | None = None,
    labels: Sequence[str] = (),
) -> pd.DataFrame:
    """Sum up a de-duplicated and split table in one row.

    Rows read and kept, the shares of them that were duplicates or left out for other reasons, the rows of each split,
    the rows `overlapping` that have a near duplicate in an earlier split, the values of the column `groups` that are
    in several splits and, of each of the `labels`, the rows, their share and in how many splits it is.
    """
    rows_read = len(table) + duplicates + left_out
    splits_of = table.groupby("label")["split"].nunique() if labels else {}
    straddling = int((table.groupby(groups)["split"].nunique() > 1).sum()) if groups else 0
    summary = {
        "id": "summary",
        "rows_read": rows_read,
        "rows": len(table),
        "duplicate_share": round(duplicates / max(rows_read, 1), 4),
        "left_out_share": round(left_out / max(rows_read, 1), 4),
        "split_overlap": overlapping,
        "straddling_groups": straddling,
        **{f"{split}_rows": int((table["split"] == split).sum()) for split in SPLITS},
        **{f"rows_of_{label}": int((table["label"] == label).sum()) for label in labels},
        **{f"share_of_{label}": round(float((table["label"] == label).mean()), 4) for label in labels},
        **{f"splits_of_{label}": int(splits_of.get(label, 0)) for label in labels},
    }
    return pd.DataFrame([summary])


def label_expectations(labels: Sequence[str]) -> list["Expectation"]:
    """The expectation on the column `label`, for a dataset with labels."""
    import great_expectations.expectations as gxe

    return [gxe.ExpectColumnValuesToBeInSet(column="label", value_set=list(labels))] if labels else []


def summary_expectations(labels: Sequence[str], gates: Gates) -> list["Expectation"]:
    """The expectations on the result of `summarise`, from the bounds of `gates`; bounds that only warn have the
    severity `warning`."""
    import great_expectations.expectations as gxe

    columns = {
        "rows_of_a_split": [f"{split}_rows" for split in SPLITS],
        "rows_of_a_label": [f"rows_of_{label}" for label in labels],
        "splits_of_a_label": [f"splits_of_{label}" for label in labels],
    }
    found = []
    for name, gate in gates:
        for severity, bound in (("warning", gate.warn), ("critical", gate.fail)):
            side = {"min_value" if name in LEAST else "max_value": bound}
            for column in (
                columns.get(name, [name]) if bound is not None else ()
            ):  # a maximum, as its result holds the observed value
                found.append(gxe.ExpectColumnMaxToBeBetween(column=column, severity=severity, **side))
    return found


def _finding(check: str, result: "ExpectationValidationResult") -> dict[str, Any]:
    """An expectation and its result, without anything that differs between equal runs."""
    details = result.to_json_dict()
    seen, config = details["result"], details["expectation_config"]
    wanted = {key: value for key, value in config["kwargs"].items() if key not in ("batch_id", "column")}
    finding = {
        "check": check,
        "expectation": config["type"],
        "column": config["kwargs"].get("column"),
        "expected": wanted,
        "level": "warn" if config["severity"] == "warning" else "fail",
        "success": details["success"],
    }
    if "observed_value" in seen:
        finding["observed"] = seen["observed_value"]
    elif "unexpected_count" in seen:
        finding |= {"unexpected": seen["unexpected_count"], "rows": seen["element_count"]}
        finding["examples"] = [
            {key: str(value)[:LONGEST] for key, value in row.items()}
            for row in seen.get("partial_unexpected_index_list", [])[:EXAMPLES]
        ]
    else:
        finding["observed"] = next(iter(details["exception_info"].values()))["exception_message"]
    return finding


def _sentence(finding: dict[str, Any]) -> str:
    """A failed expectation on one line that names the way out."""
    column, wanted = finding["column"], finding["expected"]
    what = finding["expectation"].replace("_", " ")
    if wanted:
        what += f" ({', '.join(f'{key} {value}' for key, value in wanted.items())})"
    if "observed" in finding:
        saw = f"observed {finding['observed']}"
    else:
        examples = (f"{row['id']}: {row[column]!r}" for row in finding["examples"])
        saw = f"{finding['unexpected']} of {finding['rows']} rows fail, such as {', '.join(examples)}"
    return f"{finding['check']}{f', {column}' if column else ''}: {what}; {saw}"


def _of_batches(findings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The result of an expectation over several batches, as if they were one table."""
    first = next((each for each in findings if not each["success"]), findings[0])
    if len(findings) == 1 or not all("unexpected" in each for each in findings):
        return first
    counts = {name: sum(each[name] for each in findings) for name in ("unexpected", "rows")}
    examples = [example for each in findings for example in each["examples"]][:EXAMPLES]
    allowed = (1 - first["expected"].get("mostly", 1.0)) * counts["rows"]
    return first | counts | {"examples": examples, "success": counts["unexpected"] <= allowed}


Checks = dict[str, tuple[pd.DataFrame | Iterable[pd.DataFrame], list["Expectation"]]]


def validate(dataset: str, checks: Checks, report: Path) -> None:
    """Check each table against its expectations and write the results to `report`/validation.json.

    Every table has a column `id`, which names its rows. A table that is too large for memory comes in batches; rows of
    one id are in one batch, and its expectations are about single rows or ids. An open MLflow run gets the report, how
    many warnings there are, and Great Expectations' pages under data_docs/. Raises UserError with a line for each
    failed expectation; those that only warn are logged.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    logging.getLogger("great_expectations.data_context.types.base").setLevel(
        logging.WARNING
    )  # Great Expectations sets INFO itself
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    source = context.data_sources.add_pandas(dataset)
    findings = []
    for check, (table, expectations) in checks.items():
        suite = context.suites.add(gx.ExpectationSuite(name=check, expectations=expectations))
        rows = source.add_dataframe_asset(check).add_batch_definition_whole_dataframe("all")
        validation = context.validation_definitions.add(gx.ValidationDefinition(name=check, data=rows, suite=suite))
        found = []
        for batch in [table] if isinstance(table, pd.DataFrame) else table:
            result = validation.run(batch_parameters={"dataframe": batch}, result_format=RESULT_FORMAT)
            found.append([_finding(check, one) for one in result.results])
        findings += map(_of_batches, zip(*found, strict=True))
    findings.sort(key=lambda each: (each["check"], each["column"] or "", each["expectation"], each["level"]))
    failed = [finding for finding in findings if not finding["success"] and finding["level"] == "fail"]
    warned = [finding for finding in findings if not finding["success"] and finding["level"] == "warn"]
    content = {"dataset": dataset, "success": not failed, "expectations": findings}
    write_atomic(report / "validation.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    for finding in warned:
        logger.warning("%s: %s", dataset, _sentence(finding))
    if mlflow.active_run():
        mlflow.log_metric("quality.warnings", len(warned))
        _log_pages(context, report)
    if failed:
        raise UserError("\n  ".join([f"{dataset}: {len(failed)} checks failed", *map(_sentence, failed)]))
    logger.info("%d checks of %s passed", len(findings) - len(warned), dataset)


def _log_pages(context: "AbstractDataContext", report: Path) -> None:
    mlflow.log_artifact(str(report / "validation.json"))
    with tempfile.TemporaryDirectory() as folder:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": folder}
        site = {"class_name": "SiteBuilder", "store_backend": store}
        context.add_data_docs_site("pages", site | {"site_index_builder": {"class_name": "DefaultSiteIndexBuilder"}})
        context.build_data_docs(site_names=["pages"])
        mlflow.log_artifacts(folder, artifact_path="data_docs")
