"""Servers and workers of a test's own, which it may kill and start again, and what Prefect knows of a run."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
import psutil
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
)

HANGS = 1800  # seconds that only something that hangs takes
FINAL = {"Completed", "Failed", "Crashed", "Cancelled"}
T = TypeVar("T")


def wait_for(condition: Callable[[], T], every: float = 0.2) -> T:
    """What `condition` returns as soon as that is true; it is called every so many seconds."""
    deadline = time.monotonic() + HANGS
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(every)
    return value


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended; init may bury it at any moment."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Process:
    """A command of this Python that runs on, in a group of its own; it can be killed and started again as it was."""

    def __init__(self, command: str, folder: Path, variables: Mapping[str, str], answers: str | None = None) -> None:
        """`command` is a module and its arguments; `answers` an address that answers as soon as it is ready."""
        self.command = [sys.executable, "-m", *command.split()]
        self.folder, self.variables, self.answers = folder, variables, answers
        self.log = folder / f"{command.split()[0]}-{command.split()[1]}.log"
        self.running: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it, and come back at once."""
        with self.log.open("a") as log:
            self.running = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=dict(self.variables),
                process_group=0,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            assert self.running.poll() is None, self.said()
            with suppress(httpx.TransportError):
                return httpx.get(self.answers, timeout=HANGS).is_success
            return False

        wait_for(answers)

    def kill(self) -> None:
        """SIGKILL, which leaves no time for a word: of a server and what it started, of a worker without its runs."""
        if self.running and self.running.poll() is None:
            if self.answers:
                os.killpg(self.running.pid, signal.SIGKILL)
            else:
                self.running.kill()
            self.running.wait()

    def said(self) -> str:
        """The end of what it printed."""
        return self.log.read_text()[-3000:]


class Runs:
    """What a Prefect server knows of runs."""

    def __init__(self, api: str, password: str | None = None) -> None:
        """`password` is USER:PASSWORD of a server that asks for one."""
        self.api = api
        self.client = SyncPrefectClient(api, auth_string=password, httpx_settings={"timeout": HANGS})

    def ended(self, run: UUID) -> str:
        """What its state is called once it has ended."""

        def final_state() -> str | None:
            state = self.client.read_flow_run(run).state
            return state.name if state.is_final() else None

        return wait_for(final_state)

    def tree(self, run: UUID) -> dict[str, str]:
        """The states of a flow run and of all below it, by their names."""
        states: dict[str, str] = {}
        flow_runs = [self.client.read_flow_run(run)]
        while flow_runs:
            ids = [flow_run.id for flow_run in flow_runs]
            task_runs = self.client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)))
            states |= {flow_run.name: str(flow_run.state_name) for flow_run in flow_runs}
            states |= {task_run.name: str(task_run.state_name) for task_run in task_runs}  # None before it has one
            parents = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=ids))
            flow_runs = self.client.read_flow_runs(flow_run_filter=parents)
        return states

    def final_tree(self, run: UUID) -> dict[str, str]:
        """`tree` once all of it has ended: a server records tasks a little later than flows."""

        def final_states() -> dict[str, str] | None:
            states = self.tree(run)
            return states if FINAL.issuperset(states.values()) else None

        return wait_for(final_states)

    def page(self, run: UUID, key: str) -> str:
        """The newest of the pages of that key which a run left, in Markdown."""

        async def read() -> list[Any]:
            async with PrefectClient(self.api, httpx_settings={"timeout": HANGS}) as client:
                ours = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
                return await client.read_artifacts(artifact_filter=ours)

        artifacts = [artifact for artifact in asyncio.run(read()) if artifact.key == key]
        newest = max(artifacts, key=lambda artifact: artifact.created)
        return newest.data
