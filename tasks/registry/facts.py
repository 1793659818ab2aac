"""What a run was made from: code, data, parameters and machine. DVC's hashes say which bytes, git says which commit."""

import os
from collections.abc import Mapping

from tasks.registry.record import DATA, current_facts
from tasks.stages.hashes import PREFIX, inputs
from tasks.stages.ui import address

UNCOMMITTED = f"{PREFIX}.git.dirty.params"  # the tag that says in words what no commit holds


def prefect_page(flow_run: str) -> str:
    """The address of a flow run's page: of the configured server, or of the one that `make ui` starts."""
    from prefect.settings import PREFECT_API_URL
    from prefect.utilities.urls import url_for

    from tasks.stages.server import TEMPORARY

    api = PREFECT_API_URL.value()
    if api and api != os.environ.get(TEMPORARY) and (url := url_for("flow-run", flow_run)):
        return url
    return f"{address('prefect')}/runs/flow-run/{flow_run}"


def not_in_git(tags: Mapping[str, str]) -> str:
    """What a version was made from that no commit holds, in words; empty where a commit holds it all."""
    if tags.get(f"{PREFIX}.git.commit", "none") == "none":
        return "no git commit is known"
    dirty = [part for part in ("code", *DATA) if tags.get(f"{PREFIX}.git.dirty.{part}") != "false"]
    return (tags.get(UNCOMMITTED) or f"not in git: {', '.join(dirty)}") if dirty else ""


def lineage(stage: str | None) -> dict[str, str]:
    """The facts of this process as flat tags, with the DVC stage and the hashes of its deps."""
    facts = {f"{PREFIX}.{name}": value for name, value in current_facts().items()}
    return facts if stage is None else facts | {f"{PREFIX}.dvc.stage": stage} | inputs(stage).tags()
