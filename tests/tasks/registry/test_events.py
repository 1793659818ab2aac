"""A decision needs no Prefect server, and waits for none."""

import socket
import threading
import time

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.registry.decide import approve, compared, model_state
from tasks.registry.events import DECIDED, emit, version_page
from tasks.registry.store import configure_tracking
from tasks.stages import prefect
from tasks.stages.prefect import TEMPORARY

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"
HANGS = 600  # seconds that only something that hangs takes


@pytest.fixture
def listener():
    """A server that takes connections and says nothing: its address, and those connections."""
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def take() -> None:
            while True:
                try:
                    connections.append(listening.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/api", connections
        listening.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        connection.close()


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "tasks.registry.events"]


def emit_decision(reason: str = "f1 is up") -> None:
    emit(DECIDED, NAME, "1", outcome="approved", by="reviewer-1", reason=reason)


@pytest.mark.parametrize("api", [None, "temporary"])
def test_emit_asks_nobody_without_a_standing_server(api, listener, monkeypatch, caplog) -> None:
    address, connections = listener
    if api:
        monkeypatch.setenv(TEMPORARY, address)
    settings = {PREFECT_API_URL: address} if api else {}
    with temporary_settings(settings, restore_defaults=[] if api else [PREFECT_API_URL]):
        emit_decision()
    assert connections == []
    assert warnings(caplog) == []


def test_decision_stands_after_one_timeout_of_the_server(listener, mlflow_store, tmp_path, monkeypatch, caplog) -> None:
    address, connections = listener
    monkeypatch.setattr(prefect, "ANSWERS_WITHIN", 0.2)
    monkeypatch.chdir(tmp_path)
    configure_tracking()
    MlflowClient().create_registered_model(NAME)
    MlflowClient().create_model_version(NAME, str(tmp_path / "mlartifacts"))
    compared("classifier", "1", champion=None)
    with temporary_settings({PREFECT_API_URL: address}):
        approve("classifier", "1", by="reviewer-1", reason="f1 is up")
    assert model_state("classifier").champion == "1"
    assert len(connections) == 1
    (warning,) = warnings(caplog)
    assert "did not take the message about" in warning


def test_standing_server_keeps_who_decided_what_and_why(prefect_api) -> None:
    reason = f"f1 is up in {__name__}"
    emit_decision(reason)
    decided = EventFilter(event=EventNameFilter(name=[DECIDED]))
    deadline = time.monotonic() + HANGS
    kept = []
    with get_client(sync_client=True) as client:
        while not kept:  # the server writes it down in its own time
            assert time.monotonic() < deadline
            kept = [event for event in client.read_events(decided, 50).events if event.payload["reason"] == reason]
    (event,) = kept
    assert event.resource.name == f"{NAME} version 1"
    about = {"outcome": "approved", "by": "reviewer-1", "reason": reason}
    assert event.payload == about | {"page": version_page(NAME, "1")}
