"""Convert published weights to a model folder that fine-tunes start from: `python -m flows.load_published`."""

from pathlib import Path

import mlflow
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.command import run_stage
from llm.files import atomic_folder
from tasks.data.published import save_published
from tasks.params import load_published_name
from tasks.registry.tracking import stage_run
from tasks.stages.names import PUBLISHED


@flow(flow_run_name="load_published-{params}")
def load_published(params: str) -> None:
    """Fetch published weights, check them, and write them as a model folder."""
    save = task(save_published, name="load", cache_policy=NO_CACHE)
    with stage_run(), atomic_folder(Path("models") / PUBLISHED) as folder:
        mlflow.log_param(PUBLISHED, params)
        save(params, folder)


def main() -> None:
    """Run the stage."""
    run_stage(load_published, "load_published".format, lambda: {"params": load_published_name()})


if __name__ == "__main__":
    main()
