"""A decision is several writes; a process that dies between two of them leaves the registry to the next one."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from decisions import ME, NAME, aliases, compare, states
from projects import ROOT

from tasks.registry.decide import model_state, settle

pytestmark = pytest.mark.slow

DECIDES_AND_DIES = """
import json, os, signal, sys
import alembic.script, mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
import prefect.settings, tasks.stages.prefect  # once, and not in each child
from mlflow import MlflowClient
from tasks.registry import decide

WRITES = [
    "set_model_version_tag", "set_registered_model_tag", "set_registered_model_alias",
    "delete_model_version_tag", "delete_registered_model_tag", "delete_registered_model_alias",
]
count = 0

def counted(write, limit):
    def counting(*arguments, **options):
        global count
        if count == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        return write(*arguments, **options)
    return counting

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        for name in WRITES:
            setattr(MlflowClient, name, counted(getattr(MlflowClient, name), order["writes"]))
        getattr(decide, order["decision"])("classifier", *order["versions"], **order["reason"])
        os._exit(0)
    print(os.WIFSIGNALED(os.waitpid(child, 0)[1]), flush=True)
"""
DECISIONS = {
    "approved": ("approve", "5", ("5", "2", None)),
    "rejected": ("reject", "5", ("2", "1", None)),
    "rolled back": ("roll_back", "2", ("1", None, "5")),
}
"""By event: the function, the version that the event names, and the aliases after it."""


@pytest.fixture
def is_killed() -> Iterator[Callable[[int, str, list[str]], bool]]:
    """Decide in a process that is killed after so many writes; whether it was before it ended."""
    command = [sys.executable, "-c", DECIDES_AND_DIES]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:

        def decide(writes: int, decision: str, versions: list[str]) -> bool:
            order = {"writes": writes, "decision": decision, "versions": versions, "reason": ME}
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            return process.stdout.readline() == "True\n"

        yield decide


@pytest.mark.parametrize("event", DECISIONS)
def test_killed_decision_is_undone_or_completed_by_the_next_run(decided, is_killed, tmp_path, event):
    decision, version, after = DECISIONS[event]
    compare("5")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, closing(sqlite3.connect(":memory:")) as saved:
        store.backup(saved)
        before = model_state("classifier")
        writes = 0
        while is_killed(writes, decision, [] if decision == "roll_back" else [version]):
            events = settle("classifier")
            if writes == 0:
                assert model_state("classifier") == before
            else:
                state = model_state("classifier")
                last = state.history[-1]
                assert aliases() == after
                assert (last.event, last.version) == (event, version)
                assert states() == {"1": "approved", "2": "approved", "5": "pending"} | last.states
                assert len(state.history) == len(before.history) + 1
                assert events in ([last], [])
                assert settle("classifier") == []
                assert "threestage.deciding" not in decided.get_registered_model(NAME).tags
            saved.backup(store)
            writes += 1
        assert writes > 6
        assert aliases() == after
