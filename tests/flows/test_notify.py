"""Messages: a real Prefect server sends to a real webhook what happens to runs, workers and versions."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from queue import Queue
from uuid import uuid4

import pytest
import yaml
from loopback import Answer, Asked, serving
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed
from projects import free_ports

from flows import notify
from flows.notify import MESSAGES, automations, remove, set_up
from flows.overdue import FINISHED
from llm.errors import UserError
from tasks.registry.events import DECIDED, WAITS, emit
from tasks.stages.server import run_as_child

pytestmark = pytest.mark.slow

CommandLine = Callable[..., tuple[int, str, str]]

HANGS = 600  # seconds that only something that hangs takes
SECRET = "oh-so-secret"
NAME = "threestage-classifier"
RUN = "retrain 2026-11-26: 3 of 12 stages"
OVERDUE = "A retrain is overdue"
NO_WORKER = "No worker polls the work pool local"
KINDS = ("failure", "worker", "overdue", "challenger", "decision")
PAGE = f"http://127.0.0.1:5000/#/models/{NAME}/versions/2"


class Webhook:
    """A team's own chat."""

    def __init__(self) -> None:
        self.received: Queue[tuple[str, str]] = Queue()
        self.messages: list[tuple[str, str]] = []
        self.url = ""

    def answer(self, request: Asked) -> Answer:
        """Take a message."""
        body = json.loads(request.body)
        self.received.put((body["title"], body["message"]))
        return Answer()

    def until(self, *titles: str) -> dict[str, str]:
        """All messages by title, as soon as these have come, in any order; each must have come once."""
        while not {*titles} <= {title for title, _ in self.messages}:
            self.messages.append(self.received.get(timeout=HANGS))
        counts = Counter(title for title, _ in self.messages)
        counts.pop(OVERDUE, None)  # comes again each time that nothing has happened
        assert set(counts.values()) == {1}
        return dict(self.messages)


@pytest.fixture
def webhook(prefect_api: str) -> Iterator[Webhook]:
    """A webhook that gets nothing after its test: other tests use the same server."""
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


@pytest.fixture
def impatient_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proactive triggers wait 10 seconds; Prefect takes no less."""
    content = yaml.safe_load(MESSAGES.read_text())
    for automation in content["automations"]:
        if automation["trigger"].get("posture") == "Proactive":
            automation["trigger"]["within"] = 10
    path = tmp_path / "automations.yaml"
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(notify, "MESSAGES", path)


def report_as_crashed(run_name: str) -> None:
    """Report the end of a run again, as its worker may."""
    with get_client(sync_client=True) as client:
        runs = FlowRunFilter(name=FlowRunFilterName(any_=[run_name]))
        (run,) = client.read_flow_runs(flow_run_filter=runs)
        client.set_flow_run_state(run.id, Crashed(message="Its process is gone."), force=True)


def report_without_worker(pool: str) -> None:
    """Emit the server's event about a work pool that no worker polls."""
    resource = {"prefect.resource.id": f"prefect.work-pool.{uuid4()}", "prefect.resource.name": pool}
    emit_event("prefect.work-pool.not-ready", resource)


@pytest.mark.usefixtures("impatient_messages")
def test_messages_arrive_once_with_text_and_links(webhook: Webhook, command_line: CommandLine, tmp_path: Path) -> None:
    code, output, error = command_line(tmp_path, "notify", webhook.url)
    assert code == 0, error
    set_up(webhook.url, "team")  # doubles no message
    logs = "".join(path.read_text() for path in tmp_path.rglob("log"))
    assert SECRET not in output + error + logs
    for _ in range(2):
        title, _ = webhook.received.get(timeout=HANGS)
        assert title == "Threestage notifications"

    for run in (failing_stage, failing):
        with pytest.raises(UserError):
            run_as_child(run, {})
    failure = f"{RUN}: Failed"
    webhook.until(failure)
    report_without_worker("local")
    report_without_worker("another")
    report_as_crashed(RUN)
    waiting = {"model": "classifier", "number": "2", "verdict": "F1 of spam rose by 0.02.", "review": "http://review"}
    emit(WAITS, NAME, "2", **waiting)
    for outcome in ("approved", "rolled back to version 1"):
        emit(DECIDED, NAME, "2", outcome=outcome, by="reviewer", reason="see the page")
    waits = f"{NAME} version 2 waits for a decision"
    decisions = [f"{NAME} version 2 approved", f"{NAME} version 2 rolled back to version 1"]
    titles = {failure, NO_WORKER, OVERDUE, waits, *decisions}
    bodies = webhook.until(*titles)
    assert bodies.keys() == titles
    reason, page = bodies[failure].splitlines()
    assert "UserError: stage finetune@classifier failed: no space left" in reason
    pages = PREFECT_API_URL.value().removesuffix("/api")
    assert page.startswith(f"{pages}/runs/flow-run/")
    assert "`prefect worker start --pool local`" in bodies[NO_WORKER]
    assert "`threestage overdue`" in bodies[OVERDUE]
    verdict, review, _, _, *ways = bodies[waits].splitlines()
    assert (verdict, review) == ("F1 of spam rose by 0.02.", "The review: http://review")
    assert ways[0] == "- on the command line: threestage review approve classifier/2 --reason TEXT, or reject"
    assert ways[1].startswith(f"- in MLflow, {PAGE}: set the tag threestage.state to approved or rejected, ")
    assert ways[2] == f"- in Prefect, {pages}/deployments: run the deployment decide"
    for decision in decisions:
        assert bodies[decision].splitlines() == ["by reviewer: see the page", PAGE]


def test_overdue_names_the_last_retrain_and_fails_if_it_was_too_long_ago(
    prefect_api: str, command_line: CommandLine, tmp_path: Path
) -> None:
    with pytest.raises(UserError):
        run_as_child(failing, {})
    code, output, error = command_line(tmp_path, "overdue")
    assert (code, error) == (0, "")
    assert output.startswith(f"{RUN} ended as Failed 0.0 hours ago: ")
    code, output, error = command_line(tmp_path, "overdue", "--hours", "0")
    assert (code, output) == (1, "")
    assert error.startswith(f"error: no retrain finished for 0 hours ({RUN} ended as Failed 0.0 hours")


def test_message_about_an_overdue_retrain_waits_as_long_as_the_command_for_the_same_states() -> None:
    failure, _, overdue, _, _ = automations("team", uuid4())
    assert overdue.trigger.within == timedelta(hours=26)
    assert overdue.trigger.expect == {f"prefect.flow-run.{state}" for state in FINISHED}
    assert failure.trigger.match_related["prefect.resource.name"] == ["retrain", "smoke"]


def titles() -> set[str]:
    """The names of the server's automations."""
    with get_client(sync_client=True) as client:
        names = [automation.name for automation in client.read_automations(limit=200)]
    return {name for name in names if name.startswith("threestage: ")}


def test_remove_stops_the_messages_to_one_address(webhook: Webhook) -> None:
    to_team = {f"threestage: {kind} to team" for kind in KINDS}
    to_me = {f"threestage: {kind} to me" for kind in KINDS}
    assert titles() == set()
    set_up(webhook.url, "team")
    set_up(webhook.url, "me")
    assert titles() == to_team | to_me
    assert remove("me") == "me gets no messages any more"
    assert titles() == to_team
    with pytest.raises(UserError, match="there is no address me; Prefect's page Automations lists those"):
        remove("me")


def test_address_that_takes_no_message_is_an_error_without_its_url(
    prefect_api: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match="apprise knows no such URL") as unknown:
        set_up(f"nothing://{SECRET}", "team")
    (port,) = free_ports(1)
    with pytest.raises(UserError, match="JSON did not take a first message") as unreachable:
        set_up(f"json://user:{SECRET}@127.0.0.1:{port}/hook", "team")
    assert SECRET not in f"{unknown.value} {unreachable.value} {caplog.text}"
    assert titles() == set()


def test_wrong_automation_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "automations.yaml"
    path.write_text("automations: [{name: wrong, actions: [], trigger: {type: event, within: soon}}]")
    monkeypatch.setattr(notify, "MESSAGES", path)
    with pytest.raises(UserError, match=rf"^{path}: .*within"):
        automations("team", uuid4())


def test_notify_without_a_standing_server_is_an_error_with_the_way_out(
    tmp_path: Path, command_line: CommandLine
) -> None:
    with temporary_settings(restore_defaults=[PREFECT_API_URL]):
        code, _, error = command_line(tmp_path, "notify", "remove")
    assert code == 1
    way_out = "set PREFECT_API_URL (`make ui` starts one)"
    assert error == f"error: a standing Prefect server sends the messages: {way_out}\n"
