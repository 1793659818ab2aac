"""Run every stage at reduced scale on the real data, and check the results: `threestage smoke`.

Tests check a change. A smoke run checks each week that the last commit still works on this machine, with these
libraries and sources. It keeps nothing: no model, no version.
"""

from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.runtime import task_run
from prefect.settings import get_current_settings

from flows.deploy import outdated
from llm.errors import UserError
from tasks.registry.record import current_facts, uncommitted_parts
from tasks.registry.worktree import Worktree, checkout
from tasks.smoke import Result, bring_raw, measured, models_with_bounds, reduce_params, share_published, thin
from tasks.stages.end_states import no_child_open, quiet_stops
from tasks.stages.graph import stages
from tasks.stages.lock import exclusive
from tasks.stages.names import evaluation_stage
from tasks.stages.prefect_worker import depend_on_worker, end_stopped
from tasks.stages.server import PARENT_TASK_RUN, leave_artifact

NAME = "smoke"
LONGEST = 6 * 3600  # seconds


@flow(name=NAME, flow_run_name=NAME, timeout_seconds=LONGEST)
def smoke() -> str:
    """Run all stages of the last commit with small parameters in a temporary folder, and check the results.

    Fails if a result is outside its bound. Returns the results in a line.
    """
    depend_on_worker(NAME)
    quiet_stops()
    context = FlowRunContext.get()
    client, flow_run = context.client, context.flow_run
    try:
        with exclusive(NAME, patience=0):
            results = _run(str(client.api_url))
    except (KeyboardInterrupt, TerminationSignal) as stop:
        end_stopped(client, flow_run.id, stop)
        raise
    failed = [result for result in results if not result.passed]
    passed = [result for result in results if result.passed]
    table = [_row(result) for result in failed + passed]
    leave_artifact(create_table_artifact, NAME, table=table, description="Results of a smoke run and their bounds")
    if failed:
        raise UserError(f"{NAME}: outside its bound: {'; '.join(map(str, failed))}")
    return f"{NAME}: within bounds: {'; '.join(map(str, results))}"


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def make(tree: Worktree, stage: str, api_url: str) -> None:
    """Run a DVC stage in a worktree; its own flow run is a child of this task."""
    home = str(get_current_settings().home.absolute())  # its profile may hold credentials
    environment = {"PREFECT_API_URL": api_url, "PREFECT_HOME": home, PARENT_TASK_RUN: str(task_run.id)}
    with no_child_open(UUID(task_run.id)):
        tree.run(stage, environment)


def _row(result: Result) -> dict[str, str]:
    remark = "" if result.passed else "OUTSIDE"
    return {"result": result.name, "value": str(result.value), "bound": f"{result.bound:g}", "": remark}


def _run(api_url: str) -> list[Result]:
    log = get_run_logger()
    for reason in outdated():
        log.warning("it tests the code that is here: %s", reason)
    if parts := uncommitted_parts(current_facts()):
        log.warning("uncommitted changes of %s are not in it: it runs the last commit", ", ".join(parts))
    with checkout("HEAD") as tree:
        section = reduce_params(tree)
        share_published(tree)
        evaluations = [evaluation_stage(model) for model in models_with_bounds(tree, section)]
        for stage in stages(tree.project, evaluations):
            work, _, dataset = stage.partition("@")
            if work != "fetch":
                make(tree, stage, api_url)
                continue
            if not bring_raw(tree, dataset):
                make(tree, stage, api_url)
            thin(tree, dataset, section.raw)
        return measured(tree, section)
