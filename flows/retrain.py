"""Bring everything up to date, as one observed flow: the stale part of the DVC graph, then the registry.

`python -m flows` runs it where there is anything to do; prefect.yaml schedules it.
"""

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.runtime import task_run

from flows.register import register
from tasks.stages import graph
from tasks.stages.server import PARENT_TASK_RUN


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def reproduce(stage: str, api_url: str) -> None:
    """Run a DVC stage; its own flow run hangs under this task."""
    graph.reproduce(stage, {"PREFECT_API_URL": api_url, PARENT_TASK_RUN: str(task_run.id)})


@flow
def retrain() -> dict[str, str]:
    """Run each stale stage in order, then make the models challengers. Returns the version of each."""
    api_url = str(FlowRunContext.get().client.api_url)
    for stage in graph.stages():
        if graph.is_stale(stage):
            reproduce(stage, api_url)
        else:
            get_run_logger().info("%s is up to date", stage)
    return register()
