"""/feedback on a live server: what waits, what is refused, and that nothing that was said is lost."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import httpx
import pytest
from projects import ROOT, environment
from starlette.requests import Request

from app.errors import Busy, Unavailable
from app.quarantine import Quarantine
from app.settings import Settings
from llm.errors import UserError
from tests.app.conftest import running, tracked

EMAIL = {"about": "email", "subject": "Lunch", "body": "at noon", "label": "ham"}
ANSWER = {"about": "answer", "messages": [{"role": "user", "content": "hello"}], "answer": "Hi.", "good": True}
ROW = {"label": "ham", "subject": "a", "body": "b"}
ODD = "naïve \u2028 \x85 \u202e 'quote\" \\n \\ud800 🙂 {x} <|endoftext|> e\u0301"
KEYS = ("first key", "second key")


@pytest.fixture
def own(registry, tmp_path) -> Iterator[str]:
    """A server with keys, over a quarantine of this test's own, that takes three rows of a client in a day."""
    settings = Settings(quarantine=tmp_path / "feedback", feedback_a_client=3, api_keys=KEYS)
    with tracked(registry), running(settings) as address:
        yield address


def post(address: str, body: dict, key: str | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.post(f"{address}/feedback", json=body, headers=headers, timeout=120)


def rows(quarantine: Path, dataset: str) -> list[dict]:
    waiting = Quarantine(Settings(quarantine=quarantine)).waiting()
    return [dict(each.row) for each in waiting if each.dataset == dataset]


def error(response: httpx.Response) -> dict:
    return response.json()["error"]


def test_what_a_mail_really_is_waits_as_a_row_of_the_dataset(server, quarantine):
    body = EMAIL | {"subject": "To  read", "body": "<html><p>one</p><p>two &amp; three</p></html>", "label": "spam"}
    answer = post(server, body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"kept": True, "dataset": "emails", "model": "threestage-classifier/1"}
    row = rows(quarantine, "emails")[-1]
    assert {name: row[name] for name in ("label", "subject", "body", "version")} == {
        "label": "spam", "subject": "To read", "body": "one\ntwo & three", "version": "threestage-classifier/1",
    }  # fmt: skip
    assert abs(datetime.now(UTC) - datetime.fromisoformat(row["time"])) < timedelta(hours=1)
    assert len(row["client"]) == 12


def test_a_raw_message_is_kept_as_the_text_that_people_read(server, quarantine):
    raw = "From: a@b.example\nSubject: =?utf-8?q?Caf=C3=A9?=\n\nAt the caf\u00e9 at noon?\n"
    body = {"about": "email", "message": raw, "label": "ham"}
    assert post(server, body).json()["kept"]
    assert (rows(quarantine, "emails")[-1]["subject"], rows(quarantine, "emails")[-1]["body"]) == (
        "Café",
        "At the café at noon?",
    )


def test_good_answers_and_better_ones_wait_and_so_do_bad_ones(server, quarantine):
    system = {"role": "system", "content": "Be brief."}
    talk = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    long = {**ANSWER, "messages": [system, *talk, {"role": "user", "content": [{"type": "text", "text": "three"}]}]}
    assert post(server, ANSWER).json()["kept"]
    assert post(server, long | {"good": False}).json()["kept"]
    other = ANSWER | {"messages": [{"role": "user", "content": "and now?"}], "good": False, "better": "Then."}
    assert post(server, other).json()["dataset"] == "instructions"
    names = ("instruction", "output", "system", "history", "verdict", "version")
    assert [[row[name] for name in names] for row in rows(quarantine, "instructions")[-3:]] == [
        ["hello", "Hi.", "", [], "good", "threestage-assistant/1"],
        ["three", "Hi.", "Be brief.", ["one", "two"], "bad", "threestage-assistant/1"],
        ["and now?", "Then.", "", [], "good", "threestage-assistant/1"],
    ]


def test_the_same_is_kept_once_and_a_changed_verdict_again(server, quarantine):
    said = [EMAIL | {"body": "dedupe", "label": label} for label in ("ham", "ham", "spam", "ham")]
    said.insert(1, EMAIL | {"body": "De-dupe!"})
    assert [post(server, each).json()["kept"] for each in said] == [True, False, False, True, True]
    kept = [row for row in rows(quarantine, "emails") if row["body"] == "dedupe"]
    assert [row["label"] for row in kept] == ["ham", "spam", "ham"]


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        (EMAIL | {"label": "smap"}, 400, "label", "label 'smap' is not one of ham, spam"),
        (EMAIL | {"subject": "", "body": " \n"}, 400, "body", "there is no text in this mail"),
        ({"about": "email", "label": "ham"}, 400, "body", "there is no text in this mail"),
        (EMAIL | {"body": "<html><div></div></html>", "subject": ""}, 400, "body", "there is no text"),
        (EMAIL | {"message": "Subject: a\n\nb"}, 400, "message", "either message or subject and body"),
        (EMAIL | {"subject": "long " * 401}, 400, "subject", "2004 characters; at most 2000 are learned from"),
        (EMAIL | {"model": "assistant"}, 400, "model", "assistant/1 can't classify; models that can: classifier"),
        (EMAIL | {"model": "classifier/9"}, 404, "model", "model 'classifier' has no 9"),
        (EMAIL | {"mood": "bad"}, 422, "mood", "mood is not known"),
        (EMAIL | {"about": "weather"}, 422, "about", "about: one of email, answer"),
        (
            {name: value for name, value in EMAIL.items() if name != "about"},
            422,
            "about",
            "about: one of email, answer",
        ),
        ({name: value for name, value in EMAIL.items() if name != "label"}, 422, "label", "Field required"),
        (ANSWER | {"model": "classifier"}, 400, "model", "classifier/1 can't chat; models that can: assistant"),
        (ANSWER | {"answer": " \n"}, 400, "answer", "there is no text to learn from"),
        (ANSWER | {"answer": "\x07", "good": True}, 400, "answer", "there is no text to learn from"),
        (ANSWER | {"good": False, "better": " "}, 400, "better", "there is no text to learn from"),
        (ANSWER | {"better": "Hi"}, 400, "better", "an answer that is good has no better one"),
        (ANSWER | {"messages": []}, 422, ..., "at least 1 item"),
        (ANSWER | {"messages": [{"role": "user", "content": " "}]}, 400, "messages", "a message has no text"),
        (ANSWER | {"messages": [{"role": "user", "content": "w" * 10_001}]}, 400, "messages", "of 10001 characters"),
        (ANSWER | {"good": "yes"}, 422, ..., "valid boolean"),
        (ANSWER | {"messages": [{"role": "assistant", "content": "Hi"}]}, 400, "messages", "and the user begins"),
        (ANSWER | {"messages": [{"role": "system", "content": "Hi"}]}, 400, "messages", "is not a user's"),
        (ANSWER | {"messages": [{"role": "user", "content": "w " * 1001}]}, 400, "instruction", "at most 2000"),
        (ANSWER | {"answer": "ﬁ" * 6000}, 400, "output", "12000 characters; at most 10000"),
    ],
)
def test_what_nobody_could_learn_from_is_refused_and_not_kept(server, quarantine, body, status, param, message):
    before = [rows(quarantine, dataset) for dataset in ("emails", "instructions")]
    answer = post(server, body)
    assert answer.status_code == status, answer.text
    assert message in error(answer)["message"]
    assert param is ... or error(answer)["param"] == param
    assert [rows(quarantine, dataset) for dataset in ("emails", "instructions")] == before


def test_half_a_character_is_refused_and_odd_ones_come_back_as_they_were(server, quarantine):
    half = json.dumps(ANSWER | {"answer": "x"}).replace('"x"', '"\\ud800"')
    answer = httpx.post(f"{server}/feedback", content=half, headers={"Content-Type": "application/json"}, timeout=120)
    assert answer.status_code == 422
    question = {"role": "user", "content": f"what is {ODD}"}
    assert post(server, ANSWER | {"messages": [question], "answer": ODD}).json()["kept"]
    row = rows(quarantine, "instructions")[-1]
    assert (row["instruction"], row["output"]) == (question["content"], ODD)
    assert not post(server, ANSWER | {"messages": [question], "answer": ODD}).json()["kept"]
    assert post(server, EMAIL | {"subject": ODD}).json()["kept"]
    assert not post(server, EMAIL | {"subject": ODD}).json()["kept"]
    assert "🙂" in rows(quarantine, "emails")[-1]["subject"]


def test_a_client_has_its_share_of_a_day_over_all_datasets_and_is_told_when_there_is_more(own, tmp_path):
    assert post(own, EMAIL).status_code == 401
    first, second = KEYS
    assert [post(own, EMAIL | {"body": body}, first).status_code for body in "ab"] == [200, 200]
    assert post(own, ANSWER, first).status_code == 200
    answer = post(own, EMAIL | {"body": "c"}, first)
    assert answer.status_code == 429
    assert error(answer)["message"] == "3 rows of feedback in a day; no more are taken"
    assert 86_400 - 3_600 < int(answer.headers["Retry-After"]) <= 86_400
    assert not post(own, EMAIL | {"body": "b"}, first).json()["kept"], "what is there already needs no room"
    assert post(own, EMAIL | {"body": "c"}, second).json()["kept"], "another client has a share of its own"
    kept = rows(tmp_path / "feedback", "emails")
    assert [row["body"] for row in kept] == ["a", "b", "c"]
    assert len({row["client"] for row in kept}) == 2


def test_a_server_that_is_told_so_takes_none(registry, tmp_path):
    with tracked(registry), running(Settings(quarantine=tmp_path / "feedback", feedback=False)) as address:
        answer = post(address, EMAIL)
    assert (answer.status_code, error(answer)["code"]) == (400, "feedback_off")
    assert not (tmp_path / "feedback").exists()


def test_many_who_say_something_at_once_are_all_heard(server, quarantine):
    bodies = [f"at once {n}" for n in range(40)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda body: post(server, EMAIL | {"body": body}), bodies))
    assert all(answer.json()["kept"] for answer in answers), answers[0].text
    kept = [row["body"] for row in rows(quarantine, "emails") if row["body"] in bodies]
    assert sorted(kept) == sorted(bodies)


SERVER = """
import json, resource, sys
from pathlib import Path
from app.errors import Unavailable
from app.quarantine import Quarantine
from app.settings import Settings

quarantine = Quarantine(Settings(quarantine=Path(sys.argv[1]), feedback_a_client=1000))

def say(body):
    return quarantine.add("emails", {"label": "ham", "subject": "a", "body": body}, "client", "m/1")
"""
SAYS = """
print(json.dumps([say(f"{sys.argv[2]}, {n}: {'word ' * 2_000}") for n in range(40)] + [say("b")]))
"""
OVERFLOWS = """
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
try:
    say("word " * 1_000)
except Unavailable as error:
    said = str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(json.dumps([said, say("word " * 1_000)]))
"""


def process(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own, which sees this code and nothing that other tests have loaded."""
    command = [sys.executable, "-c", SERVER + code, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)


def test_several_servers_over_one_quarantine_lose_nothing_and_write_nothing_twice(tmp_path):
    servers = [process(SAYS, str(tmp_path), str(who)) for who in range(2)]
    kept = [json.loads(each.communicate(timeout=600)[0]) for each in servers]
    assert [each[:40] for each in kept] == [[True] * 40] * 2
    assert sum(each[40] for each in kept) == 1
    found = [row["body"] for row in rows(tmp_path, "emails")]
    assert len(found) == len(set(found)) == 81


@pytest.fixture
def small(tmp_path) -> Quarantine:
    """A quarantine of three rows a day and a client, four rows and 2,000 bytes in all."""
    settings = Settings(quarantine=tmp_path, feedback_a_client=3, feedback_rows=4, feedback_bytes=20_000)
    return Quarantine(settings)


def bodies(quarantine: Quarantine) -> list[str]:
    return [each.row["body"] for each in quarantine.waiting()]


def say(quarantine: Quarantine, body: str, client: str = "client") -> bool:
    return quarantine.add("emails", ROW | {"body": body}, client, "m/1")


def test_a_row_that_a_crash_cut_goes_and_a_whole_one_without_its_line_end_stays(small):
    assert say(small, "b")
    with small.path.open("a") as torn:
        torn.write('{"label": "spam", "subj')
    assert say(small, "c")
    small.path.write_text(small.path.read_text().rstrip())
    assert say(small, "d")
    assert bodies(small) == ["b", "c", "d"]


def test_a_disk_that_is_full_is_said_and_leaves_no_half_row(small):
    assert say(small, "b")
    said = process(OVERFLOWS, str(small.folder)).communicate(timeout=600)[0]
    assert json.loads(said) == ["feedback can't be kept: File too large", True]
    assert [body[:6] for body in bodies(small)] == ["b", "word w"]


def dated(quarantine: Quarantine, *hours: float) -> None:
    """Have the rows be so many hours old."""
    lines = [*map(json.loads, quarantine.path.read_text().splitlines())]
    now = datetime.now(UTC)
    for row, each in zip(lines, hours, strict=True):
        row["time"] = (now - timedelta(hours=each)).isoformat(timespec="milliseconds")
    later = quarantine.path.stat().st_mtime_ns + 10**9  # a clock may not tell two writes of a moment apart
    quarantine.path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    os.utime(quarantine.path, ns=(later, later))


def test_rows_of_yesterday_count_no_more_and_those_of_a_wrong_clock_keep_nobody_out(small):
    assert all(say(small, body) for body in "abc")
    with pytest.raises(Busy) as full:
        say(small, "d")
    assert full.value.retry_after > 86_000
    dated(small, 25, 23, 1)
    assert say(small, "d")
    with pytest.raises(Busy) as full:
        say(small, "e")
    assert 3_500 < full.value.retry_after <= 3_601
    dated(small, -24, -24, -24, -24)
    with pytest.raises(Unavailable):
        say(small, "e")


def test_what_waits_is_bounded_in_rows_and_bytes_and_one_client_fills_a_tenth_of_them(small):
    assert all(say(small, "c" * 1_500, client) for client in "xyz")
    with pytest.raises(Busy, match=r"^2000 bytes of your feedback wait"):
        say(small, "d" * 1_500, "z")
    assert say(small, "d", "z")
    with pytest.raises(Unavailable, match=r"^too much feedback waits already; `threestage feedback`") as full:
        say(small, "e", "w")
    assert (full.value.status, full.value.code) == (503, "feedback_full")
    large = Quarantine(small.settings.model_copy(update={"feedback_rows": 100, "feedback_bytes": 5_500}))
    with pytest.raises(Unavailable):
        say(large, "e" * 400, "w")


def test_what_was_dropped_is_gone_and_counts_for_the_day(small):
    assert all(say(small, body) for body in "abc")
    first, second, _ = [each.id for each in small.waiting()]
    assert small.decide([first, second, first], "dropped") == (2, [])
    assert small.decide([first], "dropped") == (0, []), "what was done is not done again"
    assert bodies(small) == ["c"]
    assert '"body": "a"' not in small.path.read_text()
    with pytest.raises(Busy):
        say(small, "d")
    with pytest.raises(UserError, match=r"^no feedback 'cafe' waits"):
        small.decide(["cafe"], "dropped")
    dated(small, 25, 25, 25)
    assert say(small, "d")
    assert small.decide([each.id for each in small.waiting()], "dropped") == (2, [])
    assert len(small.path.read_text().splitlines()) == 1, "after a day nothing is left of what was dropped"


def test_of_many_first_clients_at_once_each_has_its_code_and_another_server_gives_the_same(tmp_path):
    request = Request({"type": "http", "headers": [], "client": ("10.0.0.1", 1)})
    servers = [Quarantine(Settings(quarantine=tmp_path / "feedback")) for _ in range(8)]
    start = Barrier(8)

    def code(quarantine: Quarantine) -> str:
        start.wait()
        return quarantine.client_of(request)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(code, servers))) == 1
    assert [path.name for path in (tmp_path / "feedback").iterdir()] == [".salt"]
    assert (tmp_path / "feedback/.salt").stat().st_mode & 0o777 == 0o600


def test_where_nothing_can_be_written_that_is_said(registry):
    with tracked(registry), running(Settings(quarantine=Path("/proc/self/nothing"))) as address:
        answer = post(address, ANSWER)
    assert (answer.status_code, error(answer)["code"]) == (503, "feedback_not_kept")


def test_a_client_can_not_write_an_address_of_its_own_choice(registry, tmp_path):
    settings = Settings(quarantine=tmp_path / "feedback", feedback_a_client=1)
    with tracked(registry), running(settings) as address:
        said = [
            httpx.post(f"{address}/feedback", json=ANSWER | {"answer": text}, headers=headers, timeout=120).status_code
            for text, headers in (
                ("a", {}),
                ("b", {"X-Forwarded-For": "10.0.0.7"}),
                ("c", {"Forwarded": "for=10.0.0.8"}),
            )
        ]
    assert said == [200, 429, 429]


def test_a_key_tells_clients_apart_only_where_the_server_knows_it(tmp_path):
    quarantine = Quarantine(Settings(quarantine=tmp_path))

    def client(key: str, keys: tuple[str, ...]) -> str:
        headers = [(b"authorization", f"Bearer {key}".encode())]
        return quarantine.client_of(Request({"type": "http", "headers": headers, "client": ("10.0.0.1", 1)}), keys)

    assert client("first key", KEYS) != client("second key", KEYS)
    assert client("first key", KEYS) == client(" first key ", KEYS)
    assert client("a", ()) == client("b", ()) == client("third key", KEYS)
