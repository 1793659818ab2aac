"""The folder of scheduled runs: `prefect deploy` checks it, and scheduled runs first bring it the merged code.

prefect.yaml names both as steps. The second is a command of its own, `python -m flows.deploy`: no module is imported
before its new code is there.
"""

import sys
from contextlib import suppress
from pathlib import Path

import yaml
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.flows import load_flow_arguments_from_entrypoint

from llm.errors import UserError
from llm.files import write_atomic
from tasks.registry.git import git
from tasks.registry.result_branch import put_back
from tasks.stages import dvc
from tasks.stages.hashes import LOCK
from tasks.stages.lock import STATE, exclusive, workspace

PROCESS = "process"
PULL_WITHIN = 600  # seconds
REASON = STATE / "deploy" / "failed"


def here(pool: str) -> dict[str, str]:
    """The build step of `prefect deploy`: `check`, then return the values that prefect.yaml fills in."""
    try:
        check(pool)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None  # Prefect would print its own traceback
    return {"folder": str(Path.cwd()), "python": sys.executable, "workspace": workspace()}


def check(pool: str) -> None:
    """Raise UserError for a work pool of another type, and for a deployment that belongs to another folder or machine.

    Prefect knows a deployment by its flow and its name; one of another flow is none of ours, whatever its name.
    """
    with get_client(sync_client=True) as client:
        try:
            kind = client.read_work_pool(pool).type
        except ObjectNotFound:
            kind = ""
        if kind != PROCESS:
            state = f"is of the type {kind}" if kind else "does not exist"
            way_out = f"`prefect work-pool create {pool} --type {PROCESS}`"
            raise UserError(f"the work pool {pool} {state}; runs share one checkout on one machine: {way_out}")
        for entry in yaml.safe_load(Path("prefect.yaml").read_text())["deployments"]:
            flow = load_flow_arguments_from_entrypoint(entry["entrypoint"], {"name"})["name"]
            name = f"{flow}/{entry['name']}"
            try:
                deployment = client.read_deployment_by_name(name)
            except ObjectNotFound:
                continue
            if workspace() not in deployment.tags:
                owner = ", ".join(deployment.tags) or "another folder"
                way_out = f"deploy there, use another Prefect server, or first `prefect deployment delete {name}`"
                reason = f"runs {deployment.entrypoint or 'a flow'} in {owner}, and not in {workspace()}"
                raise UserError(f"the deployment {name} {reason}: {way_out}")


def update() -> str:
    """Fast-forward this checkout to its upstream branch, if it has one. Returns a line that names the commit.

    Results of a killed run are first put back to HEAD's: DVC's run cache still has them. Raises UserError if local
    changes are in the way, or the git remote does not answer.
    """
    with exclusive("retrain"):
        put_back([str(LOCK)])  # DVC reads it, and a kill may have left half of it
        with suppress(UserError):  # DVC can't read files that were merged broken; the pull may bring their repair
            put_back(dvc.results()[0])
        try:
            upstream = git("rev-parse", "--abbrev-ref", "@{upstream}")
        except UserError:
            upstream = ""
        if upstream:
            try:
                git("pull", "--quiet", "--ff-only", seconds=PULL_WITHIN)
            except UserError as error:
                way_out = f"`git pull --ff-only` in {Path.cwd()} must work"
                raise UserError(f"the code is not what was merged: {error}; {way_out}") from None
        return f"commit {git('rev-parse', '--short', 'HEAD')} of {upstream or 'this checkout, which has no upstream'}"


def bring_merged_code() -> str:
    """`update`; the line that it returns, or the reason why it failed, which `outdated` gives to the next run."""
    try:
        line = update()
    except UserError as error:
        write_atomic(REASON, str(error))
        return str(error)
    REASON.unlink(missing_ok=True)
    return line


def outdated() -> list[str]:
    """The reason why the last `bring_merged_code` failed, if it did. A second call returns nothing."""
    reasons = [REASON.read_text()] if REASON.exists() else []
    REASON.unlink(missing_ok=True)
    return reasons


if __name__ == "__main__":
    sys.stdout.write(f"{bring_merged_code()}\n")
