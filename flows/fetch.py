"""Fetch pinned sources into `data/raw/<dataset>/`, all or nothing; a new dataset gets its inbox.

python -m flows.fetch corpus
"""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.command import run_stage
from llm.files import atomic_folder
from tasks.data.inbox import open_inbox
from tasks.data.sources import Source, check_names, write_source
from tasks.params import load_sources
from tasks.registry.tracking import stage_run
from tasks.stages.names import dataset_names
from tasks.stages.prefect import leave_artifact


@flow(flow_run_name="fetch-{name}")
def fetch(name: str, params: list[Source]) -> None:
    """Fetch the raw files of a dataset from its pinned sources."""
    check_names(params)
    open_inbox(name)  # a dep of `preprocess`: DVC fails if it is missing
    with stage_run(params), atomic_folder(Path("data/raw") / name) as folder:
        fetched = [write_source(source, folder) for source in params]
    leave_artifact(create_table_artifact, f"fetch-{name}", table=fetched, description=f"The sources of {name}")


def main() -> None:
    """Run the stage of the dataset that the command line names."""
    run_stage(fetch, "fetch@{}".format, lambda name: {"name": name, "params": load_sources(name)}, names=dataset_names)


if __name__ == "__main__":
    main()
