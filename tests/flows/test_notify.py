"""A person is told: a real Prefect server sends to a real webhook what happens to runs, workers and versions."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from queue import Queue
from uuid import uuid4

import pytest
from loopback import Answer, Asked, serving
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed
from projects import free_ports

from flows import notify
from flows.notify import messages, remove, set_up
from llm.errors import UserError
from tasks.registry.events import DECIDED, WAITS, emit
from tasks.stages.server import run_as_child

pytestmark = pytest.mark.slow

HANGS = 600  # seconds that only something that hangs takes
SECRET = "oh-so-secret"
NAME = "threestage-classifier"
RUN = "retrain 2026-11-26: 3 of 12 stages"
OVERDUE = "A retrain is overdue"


class Webhook:
    """What a team's own chat would be."""

    def __init__(self) -> None:
        self.got: Queue[tuple[str, str]] = Queue()
        self.messages: list[tuple[str, str]] = []
        self.url = ""

    def answer(self, asked: Asked) -> Answer:
        """Take a message."""
        body = json.loads(asked.body)
        self.got.put((body["title"], body["message"]))
        return Answer()

    def until(self, *titles: str) -> dict[str, str]:
        """All that this gave, by its title, once these have come, in whatever order; each of them came once."""
        while not {*titles} <= {title for title, _ in self.messages}:
            self.messages.append(self.got.get(timeout=HANGS))
        counts = Counter(title for title, _ in self.messages)
        counts.pop(OVERDUE, None)  # comes again each time that nothing has happened
        assert set(counts.values()) == {1}
        return dict(self.messages)


@pytest.fixture
def webhook(prefect_api) -> Iterator[Webhook]:
    """One, that gets nothing any more afterwards: other tests on the same server are nobody's news."""
    webhook = Webhook()
    with serving(webhook.answer) as url:
        webhook.url = f"json://user:{SECRET}@{url.removeprefix('http://')}/hook"
        yield webhook
        with suppress(UserError):
            remove("team")


@flow(name="retrain", flow_run_name=RUN)
def failing() -> None:
    raise UserError("stage finetune@classifier failed: no space left")


@flow(name="pretrain", flow_run_name="a stage")
def failing_stage() -> None:
    raise UserError("no space left")


def test_each_message_arrives_once_with_what_happened_and_where(webhook, command_line, tmp_path, monkeypatch) -> None:
    for time in ("WORKER_GONE", "OVERDUE"):
        monkeypatch.setattr(notify, time, timedelta(seconds=10))  # Prefect takes no less
    code, output, error = command_line(tmp_path, "notify", webhook.url)
    assert code == 0, error
    set_up(webhook.url, "team")  # twice, and nothing is doubled
    assert SECRET not in output + error + "".join(path.read_text() for path in tmp_path.rglob("log"))
    assert [webhook.got.get(timeout=HANGS)[0] for _ in range(2)] == ["Threestage notifications"] * 2

    for each in (failing_stage, failing):
        with pytest.raises(UserError):
            run_as_child(each, {})
    webhook.until(f"{RUN}: Failed")  # with the state of that moment
    for name in ("local", "another"):
        resource = {"prefect.resource.id": f"prefect.work-pool.{uuid4()}", "prefect.resource.name": name}
        emit_event("prefect.work-pool.not-ready", resource)  # as the server does where no worker polls
    with get_client(sync_client=True) as client:  # what a worker may say of the same run, too
        (ended,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[RUN])))
        client.set_flow_run_state(ended.id, Crashed(message="Its process is gone."), force=True)
    emit(WAITS, NAME, "2", model="classifier", verdict="F1 of spam rose by 0.02.")
    decided = {"by": "reviewer", "reason": "see the page"}
    for outcome in ("approved", "rolled back to version 1"):
        emit(DECIDED, NAME, "2", model="classifier", outcome=outcome, **decided)
    gone = "No worker polls the work pool local"
    version = [f"{NAME} version 2 {what}" for what in ("waits for a decision", "approved", "rolled back to version 1")]
    titles = {f"{RUN}: Failed", gone, OVERDUE, *version}
    assert webhook.until(*titles).keys() == titles
    bodies = dict(webhook.messages)
    failure = bodies[f"{RUN}: Failed"].splitlines()
    assert "UserError: stage finetune@classifier failed: no space left" in failure[0]
    assert "/runs/flow-run/" in failure[1]
    assert "`prefect worker start --pool local`" in bodies[gone]
    assert "`threestage overdue`" in bodies[OVERDUE]
    page = f"http://127.0.0.1:5000/#/models/{NAME}/versions/2"
    assert bodies[version[0]].splitlines() == ["F1 of spam rose by 0.02.", page]
    assert bodies[version[1]].splitlines() == bodies[version[2]].splitlines() == ["by reviewer: see the page", page]


def test_overdue_names_the_last_retrain_and_fails_if_it_was_too_long_ago(prefect_api, command_line, tmp_path) -> None:
    with pytest.raises(UserError):
        run_as_child(failing, {})
    code, output, error = command_line(tmp_path, "overdue")
    assert (code, error) == (0, "")
    assert output.startswith(f"{RUN} ended as Failed 0.0 hours ago: ")
    code, output, error = command_line(tmp_path, "overdue", "--hours", "0")
    assert (code, output) == (1, "")
    assert error.startswith(f"error: no retrain finished for 0 hours ({RUN} ended as Failed 0.0 hours")


def titles() -> set[str]:
    """The automations that there are."""
    with get_client(sync_client=True) as client:
        return {each.name for each in client.read_automations(limit=200) if each.name.startswith("threestage: ")}


def test_an_address_is_removed_under_its_name_and_others_stay(webhook) -> None:
    assert titles() == set()
    for name in ("team", "me"):
        set_up(webhook.url, name)
    assert titles() == {f"threestage: {kind} to {name}" for kind in messages() for name in ("team", "me")}
    assert remove("me") == "me gets no messages any more"
    assert titles() == {f"threestage: {kind} to team" for kind in messages()}
    with pytest.raises(UserError, match="there is no address me; Prefect's page Automations lists those"):
        remove("me")


def test_an_address_that_takes_no_message_is_not_set_up_and_no_message_repeats_its_url(prefect_api, caplog) -> None:
    with pytest.raises(UserError, match="apprise knows no such URL") as error:
        set_up(f"nothing://{SECRET}", "team")
    (port,) = free_ports(1)
    with pytest.raises(UserError, match="JSON did not take a first message") as other:
        set_up(f"json://user:{SECRET}@127.0.0.1:{port}/hook", "team")
    assert SECRET not in f"{error.value} {other.value} {caplog.text}"
    assert titles() == set()


def test_without_a_standing_server_no_message_can_be_sent(tmp_path, command_line) -> None:
    with temporary_settings(restore_defaults=[PREFECT_API_URL]):
        code, _, error = command_line(tmp_path, "notify", "remove")
    assert code == 1
    way_out = "set PREFECT_API_URL (`make ui` starts one)"
    assert error == f"error: a standing Prefect server sends the messages: {way_out}\n"
