"""OpenLineage events (https://openlineage.io): that a run began, and how it ended, for whoever listens.

Who listens is the configuration of OpenLineage's own client: OPENLINEAGE_URL, OPENLINEAGE_CONFIG,
OPENLINEAGE__TRANSPORT__…, and an openlineage.yml in this folder or in ~/.openlineage; OPENLINEAGE_DISABLED=true says
nobody. Where nobody listens nothing is imported. Events leave in a thread of their own, in their order, and are waited
for at the end alone, briefly: a listener that is away or slow costs one warning.
"""

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from tasks.stages.hashes import PREFIX

MLFLOW_RUN = f"{PREFIX}.mlflow.run"
CODE = ("flows", "llm", "tasks")
FILE = "openlineage.yml"
PARENT, ROOT = "OPENLINEAGE_PARENT_ID", "OPENLINEAGE_ROOT_PARENT_ID"  # NAMESPACE/JOB/RUN, as others say it, too
NAMESPACE = "OPENLINEAGE_NAMESPACE"
PATIENCE = 3  # seconds that events have to leave after the last one
SENDING = "openlineage"  # the thread that sends
QUIET = ("openlineage.client.client", "urllib3.connectionpool")

State = Literal["START", "COMPLETE", "FAIL", "ABORT"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """A dataset of an event."""

    name: str
    """A path as dvc.yaml spells it, or a URI of the registry."""
    version: str
    """DVC's hash of its bytes, or the number of a registered version."""
    of_registry: bool = False


def as_data(hashes: Mapping[str, str]) -> list[Data]:
    """The deps or outs of a stage, MD5s by path, without code: which that was says the commit."""
    return [Data(path, md5) for path, md5 in hashes.items() if Path(path).parts[0] not in CODE]


@dataclass
class Told:
    """What the events of a run say; whoever runs it adds what comes up meanwhile."""

    job: str
    """Such as `finetune@classifier`."""
    kind: tuple[str, str]
    """The engine that knows it by that name, and what it is there, such as `DVC` and `STAGE`."""
    facts: dict[str, str]
    """Code, machine, runs: as the tags of an MLflow run."""
    inputs: list[Data]
    outputs: list[Data] = field(default_factory=list)
    run_id: str = ""
    """UUIDv7; empty where nobody listens."""


@dataclass(frozen=True)
class Event:
    """What happened to a run."""

    state: State
    at: datetime
    namespace: str
    """Of the job."""
    told: Told
    parent: str
    """NAMESPACE/JOB/RUN of the run that this one is a part of, if any."""
    root: str
    """The same of the outermost one."""
    scheduled: datetime | None
    """When it was due, if a schedule made it."""
    error: tuple[str, str] | None
    """Message and traceback of what ended it."""


def listens() -> bool:
    """Whether the client's configuration names somebody to tell."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return False
    named = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT")
    if any(value and name.startswith(named) for name, value in os.environ.items()):
        return True
    return any(Path(os.path.expanduser(folder), FILE).is_file() for folder in (".", "~/.openlineage"))  # noqa: PTH111


class _Sender:
    """Makes events and hands them to the client, in a thread of its own."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Event | None] = SimpleQueue()
        self._failed = ""
        self._thread = threading.Thread(target=self._send, name=SENDING, daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        self._waiting.put(event)

    def close(self) -> None:
        """Wait for what was put, PATIENCE seconds at most."""
        self._waiting.put(None)
        self._thread.join(PATIENCE)
        late = f"nobody took it within {PATIENCE} s" if self._thread.is_alive() else ""
        if reason := self._failed or late:
            logger.warning("OpenLineage: what runs here can't be told: %s", reason[:300])

    def _send(self) -> None:
        try:
            emit = _client()
        except Exception as error:  # whatever it is, the run is not about it
            self._failed = _reason(error)
            return
        while event := self._waiting.get():
            try:
                emit(event)
            except Exception as error:
                self._failed = self._failed or _reason(error)


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


class _NotOfSender(logging.Filter):
    """Keeps a log from what is said in the sender's thread, such as that a connection is tried again: what came of it
    is said once, at the end."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.threadName != SENDING


def _client() -> Callable[[Event], None]:
    from openlineage.client import OpenLineageClient

    from tasks.registry.facets import run_event

    for quiet in map(logging.getLogger, QUIET):
        if not any(isinstance(each, _NotOfSender) for each in quiet.filters):
            quiet.addFilter(_NotOfSender())
    client = OpenLineageClient()
    if client.transport.kind == "console" and not client.config.transport:
        raise ValueError(f"neither OPENLINEAGE_URL nor {FILE} names a transport")
    return lambda event: client.emit(run_event(event))


_sender: ContextVar[_Sender | None] = ContextVar("sender", default=None)


@contextmanager
def run_events(
    job: str | None, kind: tuple[str, str], facts: Mapping[str, str], inputs: Sequence[Data] = ()
) -> Iterator[Told]:
    """Tell that a run begins, and at the end of the block that it completed, failed or, where it was stopped, aborted.

    What runs in the block, here or in a process that it starts, is a part of it. Without a job, a listener or the
    client's library nobody is told.
    """
    told = Told(job or "", kind, dict(facts), [*inputs])
    if job is None or not listens() or not (run_id := _new_run_id()):
        yield told
        return
    told.run_id = run_id
    outer = _sender.get()
    sender = outer or _Sender()
    before = {name: os.environ.get(name, "") for name in (PARENT, ROOT)}
    here = f"{(namespace := _job_namespace())}/{job}/{run_id}"
    parent, root, scheduled = before[PARENT], before[ROOT] or before[PARENT], _scheduled()

    def tell(state: State, error: BaseException | None = None) -> None:
        said = (f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))) if error else None
        known = replace(told, facts=dict(told.facts), inputs=[*told.inputs], outputs=[*told.outputs])
        sender.put(Event(state, datetime.now(UTC), namespace, known, parent, root, scheduled, said))

    os.environ |= {PARENT: here, ROOT: root or here}
    token = _sender.set(sender)
    tell("START")
    try:
        yield told
    except BaseException as error:
        from tasks.stages.server import STOPS

        tell("ABORT" if isinstance(error, STOPS) else "FAIL", error)
        raise
    else:
        tell("COMPLETE")
    finally:
        _sender.reset(token)
        for name, value in before.items():
            os.environ.pop(name) if not value else os.environ.update({name: value})
        if outer is None:
            sender.close()


def _new_run_id() -> str | None:
    try:
        from openlineage.client.uuid import generate_new_uuid
    except ImportError:
        logger.warning("OpenLineage: somebody listens, and its client is missing: pip install '.[openlineage]'")
        return None
    return str(generate_new_uuid())


def _job_namespace() -> str:
    """OPENLINEAGE_NAMESPACE, or what the registered models' names begin with."""
    if name := os.environ.get(NAMESPACE):
        return name
    from tasks.registry.tracking import namespace

    return namespace()


def _scheduled() -> datetime | None:
    """When the Prefect run that this is was due, if a schedule made it."""
    prefect: Any = sys.modules.get("prefect.context")  # which a process that has a flow run has imported
    context = prefect and prefect.FlowRunContext.get()
    run = context.flow_run if context else None
    return run.expected_start_time if run and run.auto_scheduled else None
