"""A person is told: a real Prefect server sends to a real webhook what happens to runs and versions."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue

import pytest
from mlflow import MlflowClient
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed
from projects import free_ports, run

from flows.notify import listed, remove, set_up
from llm.errors import UserError
from tasks.registry.decide import approve, compared, reject, roll_back
from tasks.registry.tracking import configure_tracking
from tasks.review.challenger import Reviewed
from tasks.stages.server import run_as_child

pytestmark = pytest.mark.slow

HANGS = 600  # seconds that only something that hangs takes
SECRET = "oh-so-secret"
NAME = "threestage-classifier"
RUN = "retrain 2026-11-26: 3 of 12 stages"
KINDS = ("failure", "challenger", "decision")


class Webhook:
    """What a team's own chat would be."""

    def __init__(self) -> None:
        self.got: Queue[tuple[str, str]] = Queue()
        self.told: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                self.got.put((body["title"], body["message"]))
                handler.send_response(200)
                handler.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"json://user:{SECRET}@127.0.0.1:{self.server.server_port}/hook"

    def until(self, *titles: str) -> dict[str, str]:
        """All that this gave, by its title, once these have come, in whatever order; each of them came once."""
        while not {*titles} <= {title for title, _ in self.told}:
            self.told.append(self.got.get(timeout=HANGS))
        assert set(Counter(title for title, _ in self.told).values()) == {1}
        return dict(self.told)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    webhook = Webhook()
    yield webhook
    webhook.server.shutdown()
    webhook.server.server_close()


@pytest.fixture(autouse=True)
def _nobody_left(request) -> Iterator[None]:
    """Other tests on the same server are nobody's news."""
    yield
    if "prefect_api" in request.fixturenames:
        with suppress(UserError):
            remove("team")


@pytest.fixture
def versions(mlflow_store, tmp_path, monkeypatch) -> None:
    """Three versions without weights, the first of them champion."""
    monkeypatch.chdir(tmp_path)
    configure_tracking()
    client = MlflowClient()
    client.create_registered_model(NAME)
    for _ in range(3):
        client.create_model_version(NAME, str(tmp_path / "mlartifacts"))
    compared("classifier", "1", None, [])
    approve("classifier", "1", by="reviewer-1", reason="the first")


@flow(name="retrain", flow_run_name=RUN)
def failing() -> None:
    raise UserError("stage finetune@classifier failed; the reason stands above")


@flow(name="pretrain", flow_run_name="a stage")
def failing_stage() -> None:
    raise UserError("no space left")


def test_failure_challenger_and_decision_arrive_once_with_what_happened_and_where(
    webhook, versions, prefect_api, tmp_path
) -> None:
    set_up(webhook.url, "team", KINDS)  # twice, and nothing is doubled
    root = str(Path(__file__).parents[2])
    done = run(tmp_path, "flows.notify", webhook.url, PREFECT_API_URL=prefect_api, PYTHONPATH=root)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr + "".join(path.read_text() for path in tmp_path.rglob("log"))
    assert "team: JSON hears of a run of retrain or smoke that failed or crashed; a version that was compared" in said
    assert SECRET not in said
    assert [webhook.got.get(timeout=HANGS)[0] for _ in range(2)] == ["Threestage notifications"] * 2

    for each in (failing_stage, failing):
        with pytest.raises(UserError):
            run_as_child(each, {})
    webhook.until(f"{RUN}: Failed")  # with the state of that moment
    with get_client(sync_client=True) as client:  # what a worker may say of the same run, too
        (ended,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[RUN])))
        client.set_flow_run_state(ended.id, Crashed(message="Its process is gone."), force=True)
    verdict = r"F1 of spam rose by **0.02** (0.01 to 0.03); all 7 gates pass\."
    Reviewed("classifier", "2", "1", (), verdict, "# Page", "review.html", new=True).announce()
    compared("classifier", "2", "1", [])
    approve("classifier", "2", by="reviewer-2", reason="f1 is up, see the page")
    roll_back("classifier", by="reviewer-1", reason="too slow")

    expected = (
        f"{RUN}: Failed",
        f"{NAME} version 2 waits for a decision",
        f"{NAME} version 2 approved",
        f"{NAME} version 2 rolled back to version 1",
    )
    webhook.until(*expected)
    reject("classifier", "3", by="reviewer-2", reason="worse")  # time for what must not come
    told = webhook.until(f"{NAME} version 3 rejected")
    assert told.keys() == {*expected, f"{NAME} version 3 rejected"}
    failure = told[f"{RUN}: Failed"].splitlines()
    assert "UserError: stage finetune@classifier failed" in failure[0]
    assert "/runs/flow-run/" in failure[1]
    page = f"http://127.0.0.1:5000/#/models/{NAME}/versions/2"
    waits = ["F1 of spam rose by 0.02 (0.01 to 0.03); all 7 gates pass.", page]
    assert told[f"{NAME} version 2 waits for a decision"].splitlines() == waits
    assert told[f"{NAME} version 2 approved"].splitlines() == ["by reviewer-2: f1 is up, see the page", page]
    assert told[f"{NAME} version 2 rolled back to version 1"].splitlines() == ["by reviewer-1: too slow", page]


def test_a_place_hears_only_of_what_it_asked_for_last_and_nothing_after_its_removal(webhook, prefect_api) -> None:
    nobody = "nobody is told anything: `python -m flows.notify URL`"
    assert listed() == nobody
    set_up(webhook.url, "team", KINDS, unchecked=True)
    assert len(listed().splitlines()) == 3
    set_up(webhook.url, "team", ["decision"], unchecked=True)
    assert listed() == "threestage: decision to team. By JSON: a version that was approved, rejected or rolled back."
    assert webhook.got.empty()
    assert remove("team") == "team hears nothing any more"
    assert listed() == nobody
    with pytest.raises(UserError, match=r"there is no team; `python -m flows\.notify list` names them"):
        remove("team")


def test_a_place_that_takes_no_message_is_not_set_up_and_no_word_repeats_its_url(prefect_api, caplog) -> None:
    with pytest.raises(UserError, match="this URL is none that apprise can send to") as error:
        set_up(f"nothing://{SECRET}", "team", KINDS)
    (port,) = free_ports(1)
    with pytest.raises(UserError, match="JSON did not take a first message") as other:
        set_up(f"json://user:{SECRET}@127.0.0.1:{port}/hook", "team", KINDS)
    assert SECRET not in f"{error.value} {other.value} {caplog.text}"
    assert listed().startswith("nobody is told anything")


def test_without_a_standing_server_nobody_could_tell(tmp_path, stage_line) -> None:
    with temporary_settings(restore_defaults=[PREFECT_API_URL]):
        code, said = stage_line(tmp_path, "notify@list")
    assert code == 1
    assert said == "error: a standing Prefect server is what tells: set PREFECT_API_URL to it (`make ui` starts one)\n"
