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
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
)

HANGS = 1800  # seconds that only something that hangs takes
Found = TypeVar("Found")


def wait_for(there: Callable[[], Found], every: float = 0.2) -> Found:
    """What `there` gives as soon as that is something; it is asked every so many seconds."""
    deadline = time.monotonic() + HANGS
    while not (found := there()):
        assert time.monotonic() < deadline
        time.sleep(every)
    return found


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
        return wait_for(lambda: (state := self.client.read_flow_run(run).state).is_final() and state.name)

    def tree(self, run: UUID) -> dict[str, str]:
        """The states of a flow run and of all below it, by their names."""
        found, level = {}, [self.client.read_flow_run(run)]
        while level:
            found |= {each.name: str(each.state_name) for each in level}
            below = [each.id for each in level]
            tasks = self.client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=below)))
            found |= {each.name: str(each.state_name) for each in tasks}  # None before it has one
            parents = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=below))
            level = self.client.read_flow_runs(flow_run_filter=parents)
        return found

    def page(self, run: UUID, key: str) -> str:
        """The newest of the pages of that key which a run left, in Markdown."""

        async def read() -> list[Any]:
            async with PrefectClient(self.api, httpx_settings={"timeout": HANGS}) as client:
                ours = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
                return await client.read_artifacts(artifact_filter=ours)

        return max((each for each in asyncio.run(read()) if each.key == key), key=lambda each: each.created).data
