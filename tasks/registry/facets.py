"""What OpenLineage's standard says of a run, its job and its datasets; imported where somebody listens."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from platform import node
from typing import Any
from urllib.parse import quote, urlsplit

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState, set_producer
from openlineage.client.facet_v2 import (
    DatasetFacet,
    JobFacet,
    RunFacet,
    data_quality_assertions_dataset,
    dataset_version_dataset,
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    nominal_time_run,
    output_statistics_output_dataset,
    parent_run,
    schema_dataset,
    source_code_location_job,
)

from tasks.registry.git import git_text
from tasks.registry.openlineage import Data, Event
from tasks.registry.server import is_server, tracking_uri
from tasks.stages.hashes import PREFIX

LINEAGE = f"{PREFIX}_lineage"  # the facet of ours: what MLflow has as tags, and the runs in Prefect and MLflow
PRODUCER = f"urn:{PREFIX}:pipeline"
PROCESSED, QUALITY = Path("data/processed"), Path("reports/quality")
TABLES = "*.parquet"

set_producer(PRODUCER)


def run_event(event: Event) -> RunEvent:
    """An event as the standard has it."""
    told = event.told
    return RunEvent(
        eventType=RunState(event.state),
        eventTime=event.at.isoformat(),
        run=Run(told.run_id, _of_run(event)),
        job=Job(event.namespace, told.job, _of_job(event)),
        inputs=[_input(each) for each in told.inputs],
        outputs=[_output(each) for each in told.outputs],
        producer=PRODUCER,
    )


def _of_run(event: Event) -> dict[str, RunFacet]:
    facets = {LINEAGE: RunFacet().with_additional_properties(tags=dict(event.told.facts))}
    if event.parent:
        (namespace, job, run), (root_namespace, root_job, root) = (
            each.rsplit("/", 2) for each in (event.parent, event.root)
        )
        facets["parent"] = parent_run.ParentRunFacet(
            parent_run.Run(run),
            parent_run.Job(namespace, job),
            parent_run.Root(parent_run.RootRun(root), parent_run.RootJob(root_namespace, root_job)),
        )
    if event.scheduled:
        facets["nominalTime"] = nominal_time_run.NominalTimeRunFacet(event.scheduled.isoformat())
    if event.error:
        message, trace = event.error
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(message, "PYTHON", trace)
    return facets


def _of_job(event: Event) -> dict[str, JobFacet]:
    told = event.told
    facets: dict[str, JobFacet] = {"jobType": job_type_job.JobTypeJobFacet("BATCH", *told.kind)}
    if (commit := told.facts.get(f"{PREFIX}.git.commit", "none")) != "none":
        url = _repository()
        facets["sourceCodeLocation"] = source_code_location_job.SourceCodeLocationJobFacet(
            "git", url, repoUrl=url, version=commit
        )
    return facets


def _repository() -> str:
    """Where others find the code: git's `origin`, or this folder on this machine."""
    origin = git_text("config", "--get", "remote.origin.url") or ""
    if not origin or Path(origin).is_absolute():
        top = git_text("rev-parse", "--show-toplevel") or ""
        return _on_this_machine(origin or top)
    return _without_credentials(origin)


def _on_this_machine(path: str) -> str:
    return f"file://{node()}{quote(path)}"


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    secret = parts.password or parts.scheme in ("http", "https")  # where a name alone may be a token; git@ is none
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if secret else url


def _project() -> str:
    """The namespace of this project's paths: the default remote of DVC, which all clones share, or this folder."""
    from dvc.config import Config
    from dvc.repo import Repo

    config = Config(Repo.find_dvc_dir())
    name = config["core"].get("remote")
    url = str(config["remote"][name]["url"]).rstrip("/") if name else str(Path.cwd())
    return _on_this_machine(url) if Path(url).is_absolute() else _without_credentials(url)


def _registry() -> str:
    """The namespace of what is registered."""
    uri = tracking_uri()
    return _without_credentials(uri) if is_server(uri) else _project()


@dataclass(frozen=True)
class _Measure:
    """What a look at a dataset's files tells, without reading them."""

    bytes: int
    files: int
    rows: int | None
    columns: tuple[tuple[str, str], ...]
    """Names and types; of tables alone, and where all have the same."""

    @classmethod
    def of(cls, data: Data) -> "_Measure | None":
        """None where it is no path here, or is gone."""
        path = Path(data.name)
        if data.of_registry or not path.exists():
            return None
        files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        rows, columns = None, ()
        if tables := [each for each in files if each.match(TABLES)]:
            import pyarrow.parquet as pq

            rows = sum(pq.read_metadata(each).num_rows for each in tables)
            schemas = [pq.read_schema(each) for each in tables]
            if all(schema.equals(schemas[0]) for schema in schemas):
                columns = tuple((column.name, str(column.type)) for column in schemas[0])
        return cls(sum(each.stat().st_size for each in files), len(files), rows, columns)

    @property
    def counts(self) -> dict[str, int | None]:
        return {"rowCount": self.rows, "size": self.bytes, "fileCount": self.files}


def _dataset(data: Data, measure: _Measure | None) -> dict[str, Any]:
    """What inputs and outputs have in common."""
    facets: dict[str, DatasetFacet] = {"version": dataset_version_dataset.DatasetVersionDatasetFacet(data.version)}
    if measure and measure.columns:
        columns = [schema_dataset.SchemaDatasetFacetFields(*column) for column in measure.columns]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(columns)
    return {"namespace": _registry() if data.of_registry else _project(), "name": data.name, "facets": facets}


def _input(data: Data) -> InputDataset:
    measure, facets = _Measure.of(data), {}
    if measure:
        facets["inputStatistics"] = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(**measure.counts)
    if checks := list(_checks(Path(data.name))):
        facets["dataQualityAssertions"] = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(checks)
    return InputDataset(**_dataset(data, measure), inputFacets=facets)


def _output(data: Data) -> OutputDataset:
    measure, facets = _Measure.of(data), {}
    if measure:
        facets["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            **measure.counts
        )
    return OutputDataset(**_dataset(data, measure), outputFacets=facets)


def _checks(path: Path) -> Iterator[data_quality_assertions_dataset.Assertion]:
    """What was checked of a processed dataset, where its report is here."""
    report = QUALITY / path.name / "validation.json"
    if path.parent == PROCESSED and report.exists():
        for each in json.loads(report.read_text())["expectations"]:
            saw = each["observed"] if "observed" in each else f"{each['unexpected']} of {each['rows']} rows fail"
            yield data_quality_assertions_dataset.Assertion(
                each["expectation"], each["success"], each["column"], actual=str(saw), params=each["expected"]
            )
