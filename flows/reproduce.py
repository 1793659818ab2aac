"""Make a registered version again: `python -m flows.reproduce models:/threestage-classifier/3`.

The exit code is 0 where its bytes are identical, 1 where a stage made others, 2 where it can't be tried. All happens in
a temporary folder, which needs room for the model and its data several times; TMPDIR says where.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Protocol

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.runtime import task_run
from prefect.settings import get_current_settings

from tasks.registry.reproduce import Attempt
from tasks.registry.verdict import Verdict
from tasks.registry.worktree import registered, worktree
from tasks.stages.command import run_command
from tasks.stages.lock import STATE
from tasks.stages.server import PARENT_TASK_RUN, prefect_server, run_as_child

IDENTICAL, DIFFERS, UNTRIED = range(3)  # exit codes


class Runs(Protocol):
    """What runs a DVC stage elsewhere than here."""

    def run(self, stage: str, environment: Mapping[str, str]) -> None: ...


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def make(there: Runs, stage: str, api_url: str) -> None:
    """Run a DVC stage in a worktree; its own flow run hangs under this task."""
    home = str(get_current_settings().home.absolute())  # whose profile may say how to log in
    there.run(stage, {"PREFECT_API_URL": api_url, "PREFECT_HOME": home, PARENT_TASK_RUN: str(task_run.id)})


@flow(name="reproduce", flow_run_name="reproduce {version}")
def reproduce(version: str) -> Verdict:
    """Train a registered version again from its commit, and compare the bytes, up to the first stage that differs."""
    log, api_url = get_run_logger(), str(FlowRunContext.get().client.api_url)
    found = registered(version)
    with worktree(found) as tree:
        attempt = Attempt(found, tree)
        for difference in attempt.foreseen():
            log.warning("other bytes are to be expected: %s", difference)
        stages = task(attempt.gather, name="gather", task_run_name="gather", cache_policy=NO_CACHE)()
        log.info("to run: %s", ", ".join(stages))
        for stage in stages:
            make(attempt, stage, api_url)
            if verdict := attempt.verdict():
                break
    create_markdown_artifact(f"```\n{verdict}\n```", key="reproduce", description=version)
    return verdict


def main() -> int:
    """Run the flow on the configured Prefect server or on a temporary one; the exit code."""
    parser = ArgumentParser(prog="python -m flows.reproduce", description=reproduce.fn.__doc__)
    parser.add_argument(
        "version", help="models:/NAME/VERSION, models:/NAME@ALIAS, or a model's name: its champion or else challenger"
    )
    parser.add_argument("--verbose", action="store_true", help="show the traceback of every error")
    options = parser.parse_args()
    verdicts: list[Verdict] = []

    def work() -> None:
        uri = registered(options.version).uri  # before a server starts; an alias may move meanwhile
        with prefect_server():
            verdicts.append(run_as_child(reproduce, {"version": uri}))

    ended = run_command(work, STATE / "reproduce" / "log", verbose=options.verbose)
    if ended:
        return UNTRIED if ended == 1 else ended  # 130 and 143: it was stopped
    sys.stdout.write(f"{verdicts[0]}\n")
    return IDENTICAL if verdicts[0].identical else DIFFERS


if __name__ == "__main__":
    sys.exit(main())
