"""Make a registered version again: `threestage reproduce classifier/3`.

It runs in a temporary folder (below TMPDIR), which needs several times the space of the model and its data.
"""

from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.runtime import task_run
from prefect.settings import get_current_settings

from tasks.registry.reproduce import Comparison, compare, expected_differences, gather, registered, worktree
from tasks.registry.worktree import Worktree
from tasks.stages.end_states import no_child_open
from tasks.stages.server import PARENT_TASK_RUN, leave_artifact


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def make(tree: Worktree, stage: str, api_url: str, threads: int | str | None = None) -> None:
    """Run a DVC stage in a worktree; its own flow run is a child of this task."""
    home = str(get_current_settings().home.absolute())  # its profile may hold credentials
    environment = {"PREFECT_API_URL": api_url, "PREFECT_HOME": home, PARENT_TASK_RUN: str(task_run.id)}
    with no_child_open(UUID(task_run.id)):
        tree.run(stage, environment, threads)


@flow(name="reproduce", flow_run_name="reproduce {version}")
def reproduce(version: str) -> Comparison:
    """Run the stages of a registered version again from its commit, and compare the bytes.

    Stops at the first difference.
    """
    log = get_run_logger()
    api_url = str(FlowRunContext.get().client.api_url)
    recorded = registered(version)
    expected = expected_differences(recorded)
    for difference in expected:
        log.warning("other bytes are to be expected: %s", difference)
    with worktree(recorded) as tree:
        stages = task(gather, task_run_name="gather", cache_policy=NO_CACHE)(recorded, tree)
        log.info("to run: %s", ", ".join(stages))
        for number, stage in enumerate(stages, 1):
            make(tree, stage, api_url, threads=recorded.facts.get("threads"))
            result = compare(recorded, tree, stages[:number], expected=expected)
            if result.differs:
                break
    leave_artifact(create_markdown_artifact, "reproduce", markdown=f"```\n{result}\n```", description=version)
    return result
