"""`prefect deploy` refuses other work pools and other checkouts' deployments; a scheduled run brings merged code."""

import re
from pathlib import Path

import pytest
from dvc.repo import Repo
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from projects import git

from flows.deploy import REASON, bring_merged_code, check, here, outdated
from llm.errors import UserError
from tasks.stages.lock import workspace


@pytest.mark.slow
def test_deployment_belongs_to_one_checkout_and_runs_in_processes(prefect_api, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("work.py").write_text("from prefect import flow\n\n@flow(name='night work')\ndef work(): ...\n")
    Path("prefect.yaml").write_text("deployments: [{name: nightly, entrypoint: work.py:work}]\n")
    with get_client(sync_client=True) as client:
        for pool, kind in {"ours": "process", "swarm": "docker"}.items():
            client.create_work_pool(WorkPoolCreate(name=pool, type=kind), overwrite=True)
        check("ours")
        for pool, reason in {"swarm": "is of the type docker", "nowhere": "does not exist"}.items():
            with pytest.raises(UserError, match=rf"^the work pool {pool} {reason}; .* work-pool create {pool} "):
                check(pool)
        flow = client.create_flow_from_name("night work")
        another = client.create_flow_from_name("another project's work")
        client.create_deployment(another, name="nightly", tags=["another:/project"])
        check("ours")
        client.create_deployment(flow, name="nightly", tags=[workspace()])
        assert here("ours")["folder"] == str(tmp_path)
        client.create_deployment(flow, name="nightly", tags=["another:/checkout"], entrypoint="work.py:work")
        reason = f"runs work.py:work in another:/checkout, and not in {re.escape(workspace())}: deploy there"
        with pytest.raises(UserError, match=rf"^the deployment night work/nightly {reason}"):
            check("ours")
        with pytest.raises(SystemExit, match=r"^error: the deployment night work/nightly runs "):
            here("ours")


def test_update_that_works_withdraws_what_an_earlier_one_could_not_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "--quiet")
    Repo.init().close()
    failed = bring_merged_code()
    assert failed == REASON.read_text()
    assert failed.startswith("git ls-tree: "), "there is no commit"
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "All")
    assert bring_merged_code().endswith("of this checkout, which has no upstream")
    assert outdated() == []
