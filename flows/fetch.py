"""Fetch: pinned sources become `data/raw/<dataset>/`, whole or not at all.

python -m flows.fetch corpus
"""

import sys
from pathlib import Path
from typing import get_args

from prefect import flow
from prefect.artifacts import create_table_artifact

from llm.files import atomic_folder
from tasks.params import Dataset, Source
from tasks.sources import check_names, fetch_source
from tasks.stages import stage_command
from tasks.tracking import stage_run


@flow(flow_run_name="fetch-{dataset}")
def fetch(dataset: Dataset, sources: list[Source]) -> None:
    """Fetch the raw files of a dataset from its pinned sources."""
    check_names(sources)
    with stage_run(sources), atomic_folder(Path("data/raw") / dataset) as folder:
        fetched = [fetch_source(source, folder) for source in sources]
    create_table_artifact(fetched, key=f"fetch-{dataset}", description=f"The sources of {dataset}")


if __name__ == "__main__":
    sys.exit(stage_command(fetch, "fetch", get_args(Dataset)))
