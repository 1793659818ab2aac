"""A decision needs no Prefect server, and waits for none; what a server missed is sent again."""

import json
import socket
import threading
import time

import pytest
from loopback import Answer, Asked, serving
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.registry import events
from tasks.registry.decide import approve, compared, model_state
from tasks.registry.events import DECIDED, WAITS, emit, is_announced, send_unsent, version_page
from tasks.registry.store import configure_tracking
from tasks.stages import server
from tasks.stages.server import TEMPORARY

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


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch) -> None:
    """No test sends the unsent events of another."""
    monkeypatch.chdir(tmp_path)


def test_send_unsent_retries_missed_events_once_in_order(port, caplog) -> None:
    received = []

    def take(request: Asked) -> Answer:
        if request.path.endswith("/events"):
            received.extend(json.loads(request.body))
            return Answer(204)
        return Answer(404)  # it has no other page

    address = f"http://127.0.0.1:{port}/api"
    with temporary_settings({PREFECT_API_URL: address}):
        for reason in ("first", "second"):
            emit_decision(reason)
        for warning in warnings(caplog):
            assert warning.startswith(f"PREFECT_API_URL={address} did not take the message about {NAME} version 1: ")
            assert warning.endswith("; the next run sends it")
        assert len(warnings(caplog)) == 2
        with serving(take, port):
            send_unsent()
            emit_decision("third")
            send_unsent()
    assert [event["payload"]["reason"] for event in received] == ["first", "second", "third"]
    assert len(warnings(caplog)) == 2


def test_send_unsent_drops_an_event_that_the_server_refuses_for_good(port, caplog) -> None:
    received = []

    def take(request: Asked) -> Answer:
        if not request.path.endswith("/events"):
            return Answer(404)
        (event,) = json.loads(request.body)
        received.append(event["payload"]["reason"])
        return Answer(422 if len(received) == 1 else 204)

    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        for reason in ("first", "second"):
            emit_decision(reason)
        with serving(take, port):
            send_unsent()
            send_unsent()
    assert received == ["first", "second"]
    assert "refuses the message" in warnings(caplog)[-1]


def test_is_announced_for_a_day_after_emit(port, monkeypatch) -> None:
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        assert not is_announced(NAME, "1")
        emit(WAITS, NAME, "1", verdict="F1 rose.")
        assert is_announced(NAME, "1")
        assert not is_announced(NAME, "2")
        monkeypatch.setattr(events, "REMIND_AFTER", 0)
        assert not is_announced(NAME, "1")


def test_decision_stands_after_one_timeout_of_the_server(listener, mlflow_store, tmp_path, monkeypatch, caplog) -> None:
    address, connections = listener
    monkeypatch.setattr(server, "ANSWERS_WITHIN", 0.2)
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


def test_standing_server_keeps_who_decided_what_and_why(prefect_api, port) -> None:
    reason = f"f1 is up in {__name__}"
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        emit_decision(reason)  # in an outage
    send_unsent()
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
