"""A decision is several writes; a process that dies between two of them leaves the registry to the next one."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from decisions import ME, NAME, compare, states
from projects import ROOT

from tasks.registry.decide import model_state, settle

pytestmark = pytest.mark.slow

DECIDES_AND_DIES = """
import os, signal, sys
import alembic.script, mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
import prefect.settings, tasks.stages.server  # once, and not in each child
from mlflow import MlflowClient
from tasks.registry import decide
for line in sys.stdin:
    moment, word, *arguments = line.rstrip().split("|")
    if (child := os.fork()) == 0:
        count = 0
        for name in [f"{verb}_{what}" for verb in ("set", "delete")
                     for what in ("model_version_tag", "registered_model_tag", "registered_model_alias")]:
            def counted(self, *given, write=getattr(MlflowClient, name)):
                global count
                if count == int(moment):
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return write(self, *given)
            setattr(MlflowClient, name, counted)
        getattr(decide, word)("classifier", *arguments)
        os._exit(0)
    print(os.WIFSIGNALED(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def dies() -> Iterator[Callable[..., bool]]:
    """Decide in a process that is killed after so many writes; whether it was before it ended."""
    command, environment = [sys.executable, "-c", DECIDES_AND_DIES], os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:

        def decide(writes: int, word: str, *arguments: str) -> bool:
            process.stdin.write("|".join((str(writes), word, *arguments)) + "\n")
            process.stdin.flush()
            return process.stdout.readline() == "True\n"

        yield decide


DECISIONS = {
    "approved": ("approve", "5", ("5", "2", None)),
    "rejected": ("reject", "5", ("2", "1", None)),
    "rolled back": ("roll_back", "2", ("1", None, "5")),
}


def test_a_decision_that_is_killed_after_any_write_is_undone_or_completed_by_the_next_run(decided, dies, tmp_path):
    compare("5")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as now, closing(sqlite3.connect(":memory:")) as saved:
        now.backup(saved)
        before = model_state("classifier")
        for event, (word, version, after) in DECISIONS.items():
            named = [] if event == "rolled back" else [version]
            for writes in range(99):
                saved.backup(now)
                killed = dies(writes, word, *named, *ME.values())
                settled = settle("classifier")
                if writes == 0:
                    assert model_state("classifier") == before
                    continue
                state = model_state("classifier")
                assert (state.champion, state.previous, state.challenger) == after
                last = state.history[-1]
                assert (last.event, last.version) == (event, version)
                assert states() == {"1": "approved", "2": "approved", "5": "pending"} | last.states
                assert len(state.history) == len(before.history) + 1
                assert settled in ([last], [])
                assert settle("classifier") == []
                assert "threestage.deciding" not in decided.get_registered_model(NAME).tags
                if not killed:
                    break
            assert writes > 6
