"""/feedback on a live server: which rows wait, which are refused, and that no row is lost."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from app.api.server import create_app
from app.errors import Busy, Unavailable
from app.feedback import Feedback, client_of
from app.settings import Settings
from tests.app.conftest import feedback_rows, post, talk, tracked

EMAIL = {"about": "email", "subject": "Lunch", "body": "at noon", "label": "ham"}
ANSWER = {"about": "answer", "messages": [{"role": "user", "content": "hello"}], "answer": "Hi.", "good": True}
ODD = "naïve \u2028 \x85 \u202e 'quote\" \\n \\ud800 🙂 {x} <|endoftext|> e\u0301"


def send(address: str, body: dict) -> httpx.Response:
    return post(address, "/feedback", body)


def error(response: httpx.Response) -> dict:
    return response.json()["error"]


def asks(*contents: str) -> dict:
    """The messages of a conversation that ends with a question."""
    return {"messages": talk(contents)}


def test_email_feedback_waits_as_a_row_of_the_dataset(server, quarantine):
    body = EMAIL | {"subject": "To  read", "body": "<html><p>one</p><p>two &amp; three</p></html>", "label": "spam"}
    answer = send(server, body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"kept": True, "dataset": "emails", "model": "threestage-classifier/1"}
    row = feedback_rows(quarantine, "emails")[-1]
    names = ("label", "subject", "body", "version")
    assert [row[name] for name in names] == ["spam", "To read", "one\ntwo & three", "threestage-classifier/1"]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(row["time"])) < timedelta(hours=1)
    assert row["client"] == "127.0.0.0/24"
    raw = "From: a@b.example\nSubject: =?utf-8?q?Caf=C3=A9?=\n\nAt the caf\u00e9 at noon?\n"
    assert send(server, {"about": "email", "message": raw, "label": "ham"}).json()["kept"]
    row = feedback_rows(quarantine, "emails")[-1]
    assert (row["subject"], row["body"]) == ("Café", "At the café at noon?")


def test_answer_feedback_waits_as_rows_of_the_dataset(server, quarantine):
    long = ANSWER | asks("one", "two", "three")
    long["messages"].insert(0, {"role": "system", "content": "Be brief."})
    assert send(server, ANSWER).json()["kept"]
    assert send(server, long | {"good": False}).json()["kept"]
    better = ANSWER | asks("and now?") | {"good": False, "better": "Then."}
    assert send(server, better).json()["dataset"] == "instructions"
    values = itemgetter(*["instruction", "output", "system", "history", "verdict"])
    rows = feedback_rows(quarantine, "instructions")[-3:]
    assert [values(row) for row in rows] == [
        ("hello", "Hi.", "", [], "good"),
        ("three", "Hi.", "Be brief.", ["one", "two"], "bad"),
        ("and now?", "Then.", "", [], "good"),
    ]
    assert {row["version"] for row in rows} == {"threestage-assistant/1"}


def test_duplicate_feedback_is_kept_once_and_unicode_stays_as_sent(server, quarantine):
    sent = [EMAIL | {"body": "dedupe", "label": label} for label in ("ham", "ham", "spam", "ham")]
    assert [send(server, feedback).json()["kept"] for feedback in sent] == [True, False, True, False]
    assert [row["label"] for row in feedback_rows(quarantine, "emails") if row["body"] == "dedupe"] == [
        "spam",
        "ham",
    ], "the newest counts"
    odd = ANSWER | asks(f"what is {ODD}") | {"answer": ODD}
    assert [send(server, odd).json()["kept"] for _ in range(2)] == [True, False]
    row = feedback_rows(quarantine, "instructions")[-1]
    assert (row["instruction"], row["output"]) == (f"what is {ODD}", ODD)


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        (EMAIL | {"label": "smap"}, 400, "label", "label 'smap' is not one of ham, spam"),
        (EMAIL | {"label": "unsure"}, 400, "label", "label 'unsure' is not one of ham, spam"),
        (EMAIL | {"subject": "", "body": " \n"}, 400, "body", "there is no text in this mail"),
        (EMAIL | {"message": "Subject: a\n\nb"}, 400, "message", "either message or subject and body"),
        (EMAIL | {"subject": "long " * 401}, 400, "subject", "2004 characters; the limit is 2000"),
        (EMAIL | {"model": "assistant"}, 400, "model", "assistant/1 can't classify; models that can: classifier"),
        (EMAIL | {"mood": "bad"}, 422, "email.mood", "mood is not known"),
        (EMAIL | {"about": "weather"}, 422, None, "expected tags: 'email', 'answer'"),
        (ANSWER | {"model": "classifier"}, 400, "model", "classifier/1 can't chat; models that can: assistant"),
        (ANSWER | {"answer": "\x07"}, 400, "answer", "there is no text to learn from"),
        (ANSWER | {"good": False, "better": " "}, 400, "better", "there is no text to learn from"),
        (ANSWER | {"better": "Hi"}, 400, "better", "a good answer needs no better one"),
        (ANSWER | {"messages": []}, 422, ..., "at least 1 item"),
        (ANSWER | asks(" "), 400, "messages", "a message has no text"),
        (ANSWER | asks("w" * 10_001), 400, "messages", "10001 characters"),
        (ANSWER | asks("one", "two"), 400, "messages", "the last message is not a user's"),
        (ANSWER | {"messages": [{"role": "assistant", "content": "Hi"}]}, 400, "messages", "and the user begins"),
        (ANSWER | {"answer": "ﬁ" * 6000}, 400, "output", "12000 characters; the limit is 10000"),
        (ANSWER | {"answer": "\ud800"}, 422, ..., ""),
    ],
)
def test_feedback_that_no_training_could_read_is_refused(server, quarantine, body, status, param, message):
    before = Feedback(Settings(quarantine=quarantine)).waiting()
    content, headers = json.dumps(body), {"Content-Type": "application/json"}
    answer = httpx.post(f"{server}/feedback", content=content, headers=headers, timeout=120)
    assert answer.status_code == status, answer.text
    assert message in error(answer)["message"]
    assert param is ... or error(answer)["param"] == param
    assert Feedback(Settings(quarantine=quarantine)).waiting() == before


def test_feedback_limit_of_a_client_is_429_with_the_time_to_retry(registry, tmp_path):
    mails = [EMAIL | {"body": body} for body in "abcb"]
    settings = Settings(quarantine=tmp_path / "feedback", feedback_a_client=3)
    with tracked(registry), TestClient(create_app(settings), "http://localhost") as client:
        answers = [client.post("/feedback", json=body) for body in (*mails[:2], ANSWER, *mails[2:])]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 200]
    assert error(answers[3])["message"] == "you sent 3 rows of feedback in a day, which is the limit"
    assert 86_400 - 3_600 < int(answers[3].headers["Retry-After"]) <= 86_400
    assert not answers[4].json()["kept"], "an equal row needs no room"
    assert [row["body"] for row in feedback_rows(tmp_path / "feedback", "emails")] == ["a", "b"]


@pytest.mark.parametrize(
    ("settings", "status", "code"),
    [
        (Settings(feedback=False), 400, "feedback_off"),
        (Settings(quarantine=Path("/proc/self/nothing")), 503, "feedback_not_kept"),
    ],
    ids=["switched off", "no place to write"],
)
def test_feedback_that_can_not_be_kept_is_an_error(registry, tmp_path, monkeypatch, settings, status, code):
    monkeypatch.chdir(tmp_path)
    with tracked(registry), TestClient(create_app(settings), "http://localhost") as client:
        answer = client.post("/feedback", json=ANSWER)
    assert (answer.status_code, error(answer)["code"]) == (status, code)


# ---- the table


@pytest.fixture
def small(tmp_path) -> Feedback:
    """Room for three rows a day and a client, four rows and 20,000 bytes in all."""
    settings = Settings(quarantine=tmp_path, feedback_a_client=3, feedback_rows=4, feedback_bytes=20_000)
    return Feedback(settings)


def add(table: Feedback, body: str, client: str = "client") -> bool:
    return table.add("emails", {"label": "ham", "subject": "a", "body": body}, client=client, version="m/1")


def bodies(table: Feedback) -> list[str]:
    return [feedback.row["body"] for feedback in table.waiting()]


def set_ages(table: Feedback, hours: list[float]) -> None:
    """Make the rows so many hours old."""
    with closing(sqlite3.connect(table.path)) as store, store:
        for id_, age in enumerate(hours, 1):
            time = (datetime.now(UTC) - timedelta(hours=age)).timestamp()
            store.execute("UPDATE waiting SET time = ? WHERE id = ?", (time, id_))


def test_concurrent_servers_lose_no_feedback_and_keep_none_twice(tmp_path):
    servers = [Feedback(Settings(quarantine=tmp_path / "new")) for _ in range(4)]

    def write(number: int) -> tuple[bool, bool]:
        server = servers[number % 4]
        return add(server, f"row {number}"), add(server, "the same", "another")

    with ThreadPoolExecutor(8) as threads:
        kept, same = zip(*threads.map(write, range(40)), strict=True)
    assert (all(kept), sum(same)) == (True, 1)
    assert sorted(bodies(servers[0])) == sorted([*(f"row {number}" for number in range(40)), "the same"])
    assert servers[0].path.stat().st_mode & 0o777 == 0o600


def test_feedback_limit_counts_rows_of_one_day(small):
    assert all(add(small, body) for body in "abc")
    with pytest.raises(Busy) as full:
        add(small, "d")
    assert full.value.retry_after > 86_000
    set_ages(small, [25, 23, 1])
    assert add(small, "d")
    with pytest.raises(Busy) as full:
        add(small, "e")
    assert 3_500 < full.value.retry_after <= 3_601
    set_ages(small, [-24, -24, -24, -24])
    with pytest.raises(Unavailable):
        add(small, "e")


def test_feedback_limit_bounds_rows_and_bytes_of_all_clients(small):
    assert all(add(small, "c" * 1_500, client) for client in "wxyz")
    with pytest.raises(Unavailable) as full:
        add(small, "e", "v")
    assert (full.value.status, full.value.code) == (503, "feedback_full")
    large = Feedback(small.settings.model_copy(update={"feedback_rows": 100, "feedback_bytes": 6_500}))
    with pytest.raises(Unavailable):
        add(large, "e" * 400, "v")


def test_dropped_feedback_is_gone_from_the_file_and_counts_for_the_day(small):
    assert all(add(small, body) for body in ("quetzal", "b", "c"))
    first, second, _ = [feedback.id for feedback in small.waiting()]
    assert small.decide([first, second, first], "dropped") == (2, [])
    assert small.decide([first], "dropped") == (0, [])
    assert bodies(small) == ["c"]
    assert b"quetzal" not in small.path.read_bytes()
    with pytest.raises(Busy):
        add(small, "d")
    set_ages(small, [25, 25, 25])
    assert add(small, "d")
    assert small.decide([feedback.id for feedback in small.waiting()], "dropped") == (2, [])
    with closing(sqlite3.connect(small.path)) as store:
        assert store.execute("SELECT count(*) FROM waiting").fetchone() == (1,), "no trace is older than a day"


@pytest.mark.parametrize(
    ("key", "keys", "client"),
    [
        ("second key", ("first key", "second key"), "key 2"),
        (" first key ", ("first key", "second key"), "key 1"),
        ("first key", (), "10.0.0.0/24"),
        ("unknown", ("first key",), "10.0.0.0/24"),
    ],
)
def test_client_of_feedback_is_a_key_of_the_server_or_a_network(key, keys, client):
    headers = [(b"authorization", f"Bearer {key}".encode())]
    request = Request({"type": "http", "headers": headers, "client": ("10.0.0.1", 1)})
    assert client_of(request, keys) == client
