"""What strangers send: too much, too slowly, without a key, or what is no request at all."""

import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.client import HTTPResponse
from urllib.parse import urlsplit

import httpx
import openai
import pytest
import uvicorn
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from app import limits
from app.classifying import ClassifyRequest
from app.feedback import AnswerFeedback
from app.schema import ChatRequest, CompletionRequest
from app.settings import Settings
from tests.app.conftest import listening, running, tracked, wait_until
from tests.app.steps import stepwise

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
SIZE = 24_000_000
SURROGATE = "\\ud800"  # as JSON writes half of a pair of surrogates


@pytest.fixture(autouse=True)
def _store(registry):
    with tracked(registry):
        yield


@pytest.fixture(scope="module")
def strict(registry):
    """A server with two keys and narrow limits."""
    settings = Settings(api_keys=("one key", "another-ä"), body_bytes=200_000, feedback=False)
    with tracked(registry), running(settings) as address:
        yield address


@pytest.fixture(scope="module")
def impatient(registry):
    """A server that waits a second for a head, and as long for a body."""
    with tracked(registry), running(Settings(body_seconds=1, feedback=False)) as address:
        yield address


def post(address, path=CHAT, **options):
    return httpx.post(f"{address}{path}", timeout=300, **options)


def raw(address: str, request: bytes, rest: bytes = b"") -> bytes:
    """Send bytes as they are; all that comes back until the server closes."""
    with connected(address, request, rest) as connection:
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


@contextmanager
def connected(address: str, *parts: bytes) -> Iterator[socket.socket]:
    """A connection on which these bytes were sent."""
    url = urlsplit(address)
    with socket.create_connection((url.hostname, url.port), timeout=300) as connection:
        for part in parts:
            connection.sendall(part)
        yield connection


def ending_of(connection: socket.socket, drop: bytes = b"") -> bytes:
    """All that comes until the server closes, while a byte goes there again and again."""
    answer = b""
    connection.settimeout(0.05)
    for _ in range(6000):  # five minutes
        with suppress(OSError):  # it may be closed by now, behind an answer that is to be read
            connection.sendall(drop)
        try:
            part = connection.recv(65536)
        except TimeoutError:
            continue
        except ConnectionResetError:  # closed while a byte was on its way
            return answer
        if not part:
            return answer
        answer += part
    raise AssertionError("the server waits on")


def answer_of(connection: socket.socket) -> httpx.Response:
    """The next answer on a connection that stays open."""
    found = HTTPResponse(connection)
    found.begin()
    return httpx.Response(found.status, headers=found.getheaders(), content=found.read())


def write_on(connection: socket.socket) -> None:
    """Send a byte again and again, as long as that is possible."""
    for _ in range(6000):  # five minutes
        connection.sendall(b"x")
        time.sleep(0.05)


def is_an_error(answer: httpx.Response, status: int, code: str) -> bool:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    assert error["message"]
    return True


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", CHAT, "/classify", "/classify/files", "/feedback", "/v1/x"])
@pytest.mark.parametrize(
    "given", [None, "Bearer", "Bearer  x", "Bearer one", "Bearer one key2", "Basic one key", "one key", "Bearer \xff"]
)
def test_without_a_right_key_nothing_is_answered(strict, path, given):
    headers = {"Authorization": given.encode("latin-1")} if given is not None else {}
    for method in ("GET", "POST"):
        answer = httpx.request(method, f"{strict}{path}", headers=headers, timeout=300)
        assert is_an_error(answer, 401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["Bearer one key", "bearer one key", "Bearer another-ä"])
def test_with_any_of_the_keys_all_is_answered(strict, key):
    headers = {"Authorization": key.encode()}
    assert httpx.get(f"{strict}/v1/models", headers=headers, timeout=300).status_code == 200
    assert httpx.get(f"{strict}/metrics", headers=headers, timeout=300).status_code == 200
    assert post(strict, json=HELLO, headers=headers).status_code == 200


def test_health_needs_no_key(strict):
    assert httpx.get(f"{strict}/healthz", timeout=300).json() == {"status": "ok"}
    ready = httpx.get(f"{strict}/readyz", timeout=300)
    assert ready.json() == {
        "ready": True,
        "versions": {"assistant": "assistant/1, champion", "classifier": "classifier/1, challenger"},
        "reason": None,
    }


def test_the_official_client_names_a_wrong_key(strict):
    with pytest.raises(openai.AuthenticationError, match="a key is needed"):
        openai.OpenAI(base_url=f"{strict}/v1", api_key="wrong", max_retries=0, timeout=300).models.list()


def test_a_key_is_compared_in_constant_time_with_every_key(strict, monkeypatch):
    compared, compare = [], hmac.compare_digest

    def noted(given, key):
        compared.append((given, key))
        return compare(given, key)

    monkeypatch.setattr(limits.hmac, "compare_digest", noted)
    httpx.get(f"{strict}/v1/models", headers={"Authorization": "Bearer one key"}, timeout=300)
    assert compared == [(b"one key", b"one key"), (b"one key", "another-ä".encode())]


KEY = {"Authorization": "Bearer one key"}


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/classify", "/classify/files", "/feedback"])
@pytest.mark.parametrize("declared", [True, False])
def test_ten_megabytes_are_too_large_whether_they_are_declared_or_come_in_chunks(strict, path, declared):
    body = b'{"model": "' + b"x" * 10_000_000
    content = body if declared else (body[at : at + 65536] for at in range(0, len(body), 65536))
    headers = KEY | {"content-type": "application/json"}
    if path == "/classify/files":
        body = b'--b\r\ncontent-disposition: form-data; name="files"; filename="x"\r\n\r\n' + b"x" * 10_000_000
        content = body if declared else iter([body])
        headers = KEY | {"content-type": "multipart/form-data; boundary=b"}
    answer = post(strict, path, content=content, headers=headers)
    assert is_an_error(answer, 413, "too_large")
    assert "200000 bytes" in answer.text


@pytest.mark.parametrize("head", [b"connection: close\r\n", b""])
def test_who_reads_nothing_before_all_is_written_reads_why_it_was_refused(strict, head):
    start = b"POST /classify HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer one key\r\n" + head
    answer = raw(strict, start + b"content-length: 30000000\r\n\r\n", b"x" * 30_000_000)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_large"


def test_who_writes_on_behind_an_answer_that_ends_the_connection_is_cut_off(impatient):
    head = b"POST /classify HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 30000000\r\n\r\n"
    with connected(impatient, head) as connection:
        assert answer_of(connection).status_code == 413
        with pytest.raises(ConnectionError):
            write_on(connection)


def test_a_size_that_is_no_number_or_a_lie_is_refused(strict):
    head = b"POST /classify HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer one key\r\nconnection: close\r\n"
    for size in (b"9" * 5000, b"-1", b"1e9", b"0x10"):
        assert raw(strict, head + b"content-length: " + size + b"\r\n\r\n").split()[1] in (b"400", b"413")


def test_a_body_that_comes_too_slowly_is_refused(impatient):
    head = b"POST /classify HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    for part in (
        b"content-length: 100\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n5\r\n",
        b"content-length: 9\r\n\r\n{",
    ):
        answer = raw(impatient, head + part)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"did not come within 1 s" in answer


def test_a_body_that_is_no_http_is_refused_and_nobody_waits_for_its_rest(strict, caplog):
    head = b"POST /classify HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer one key\r\n"
    kind = b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    with connected(strict, head + kind) as connection:
        connection.sendall(b"2\r\n{}\r\n no chunk\r\n")
        assert ending_of(connection).startswith(b"HTTP/1.1 400 ")
    assert httpx.get(f"{strict}/healthz", timeout=300).status_code == 200
    assert "Exception in ASGI application" not in caplog.text


def test_who_asks_for_a_websocket_is_answered_by_http(strict):
    upgrade = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    with connected(strict, upgrade) as connection:
        assert answer_of(connection).json() == {"status": "ok"}


LIVE = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
BEGUN = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: "


def test_a_head_that_comes_a_byte_at_a_time_is_refused(impatient):
    with connected(impatient, BEGUN) as connection:
        answer = ending_of(connection, b"x")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert json.loads(body)["error"]["message"] == "the request did not come within 1 s"


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(impatient):
    with connected(impatient) as connection:
        assert ending_of(connection) == b""


def test_a_second_head_has_its_time_too(impatient):
    with connected(impatient, LIVE) as connection:
        assert answer_of(connection).status_code == 200
        connection.sendall(BEGUN)
        assert ending_of(connection, b"x").startswith(b"HTTP/1.1 408 ")


def test_a_body_that_goes_on_behind_its_answer_keeps_no_connection(impatient):
    early = b"POST /v1/nothing HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000000\r\n\r\n"
    with connected(impatient, early) as connection:
        assert answer_of(connection).status_code == 404
        assert ending_of(connection, b"x") == b""


def test_a_connection_that_rests_between_requests_is_kept_for_longer_than_a_head_may_take(impatient):
    with connected(impatient, LIVE) as resting:
        assert answer_of(resting).status_code == 200
        with connected(impatient, BEGUN) as slow:
            assert b" 408 " in ending_of(slow)
        resting.sendall(LIVE)
        assert answer_of(resting).json() == {"status": "ok"}


def test_who_does_not_read_its_answers_is_cut_off(impatient, monkeypatch):
    lost, ended, cut_off = limits.TimedHeads.connection_lost, [], threading.Event()

    def noted(protocol, error):
        ended.append(protocol.client)
        lost(protocol, error)
        cut_off.set()

    monkeypatch.setattr(limits.TimedHeads, "connection_lost", noted)
    asked = b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 1000  # answers of 60 kB, more than buffers hold
    with connected(impatient, asked) as connection:
        while connection.getsockname() not in ended:
            assert cut_off.wait(300)
            cut_off.clear()


@pytest.mark.parametrize("reads", [True, False])
def test_an_answer_goes_on_as_long_as_some_of_it_is_read(monkeypatch, reads):
    """Of a piece of 24 MB that is written at once; the test itself looks again, for which there is no time too long."""
    paused, pause = [], limits.TimedHeads.pause_writing

    def noted(protocol):
        pause(protocol)
        paused.append(protocol)

    async def app(scope, receive, send):
        await PlainTextResponse(b"x" * SIZE)(scope, receive, send)

    def left() -> int:
        return paused[0].transport.get_write_buffer_size()

    monkeypatch.setattr(limits.TimedHeads, "pause_writing", noted)
    asked = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
    http = partial(limits.TimedHeads, seconds=10**6)
    config = uvicorn.Config(app, http=http, ws="none", lifespan="off", log_level="warning")
    with listening(config) as address, connected(address, asked) as reading:
        wait_until(lambda: bool(paused), 300)
        size, before, looked = 0, left(), threading.Event()
        while reads and left() == before:
            size += len(reading.recv(1_000_000))
        paused[0].loop.call_soon_threadsafe(lambda: (paused[0]._look(before), looked.set()))
        assert looked.wait(300)
        with suppress(ConnectionResetError):
            while part := reading.recv(1_000_000):
                size += len(part)
    assert (size > SIZE) is reads


def test_an_answer_may_take_longer_than_its_request(impatient):
    body = json.dumps(HELLO).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    with stepwise() as steps, connected(impatient, head.encode() + body) as asking:
        with connected(impatient, BEGUN) as slow:
            assert b" 408 " in ending_of(slow)
        steps.open()
        answer = answer_of(asking)
    assert (answer.status_code, answer.json()["usage"]["completion_tokens"]) == (200, 2)


MALFORMED = {
    "many wrong numbers": b'{"prompt": [' + b"-1," * 1_000_000 + b"-1]}",
    "many wrong parts": b'{"messages": [{"role": "user", "content": [' + b"{}," * 300_000 + b"{}]}]}",
    "many wrong turns": b'{"about": "answer", "messages": [' + b"0," * 1_000_000 + b"0]}",
    "many wrong mails": b'{"emails": [' + b"0," * 9000 + b"0]}",
    "many unknown parts": ("{" + "".join(f'"{n}": 1, ' for n in range(200_000)) + '"about": "email"}').encode(),
    "a mail of many parts": ('{"emails": [{' + "".join(f'"{n}": 1, ' for n in range(200_000)) + '"x": 1}]}').encode(),
    "empty": b"",
    "cut": b'{"messages": [',
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "nested in a field": b'{"model": ' + b'{"a":' * 30_000 + b"1" + b"}" * 30_000 + b"}",
    "nested extra": b'{"metadata": ' + b"[" * 400 + b"]" * 400 + b', "messages": 1, "prompt": {}, "emails": 1}',
    "array": b"[1, 2]",
    "string": b'"x"',
    "null": b"null",
    "no text": b"\xff\xfe{}",
    "half a pair": f'{{"{SURROGATE}": "{SURROGATE}"}}'.encode(),
    "half a pair as label": f'{{"about": "{SURROGATE}", "emails": "{SURROGATE}"}}'.encode(),
    "infinite": b'{"temperature": Infinity, "messages": NaN, "emails": -Infinity, "about": 1e999}',
    "long number": b'{"seed": ' + b"9" * 5000 + b"}",
    "long key": b'{"' + b"k" * 100_000 + b'": 1}',
}


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/classify", "/feedback"])
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_request_is_refused_with_a_short_reason(server, path, body):
    answer = post(server, path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in ((400,) if path.startswith("/v1") else (400, 422))
    assert answer.json()["error"]["message"]
    assert len(answer.content) < 3000
    assert httpx.get(f"{server}/healthz", timeout=300).status_code == 200


def test_many_mistakes_are_told_as_fast_as_one(server):
    """As processor time of the server's one thread is not to be had from here: by the errors that are made of them."""
    for model, body in (
        (CompletionRequest, {"prompt": [-1] * 100_000}),
        (CompletionRequest, {"prompt": [[-1] * 100_000] * 16}),
        (ChatRequest, {"messages": [{"role": "user", "content": [{}] * 100_000}]}),
        (ChatRequest, {"messages": [0] * 1000, "stop": [0] * 16}),
        (ClassifyRequest, {"emails": [0] * 10_000}),
        (ClassifyRequest, {"emails": [dict.fromkeys(map(str, range(100_000)))]}),
        (AnswerFeedback, {"messages": [0] * 200}),
    ):
        with pytest.raises(ValidationError) as found:
            model.model_validate(body)
        assert found.value.error_count() < 10


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.0/24"),
        ("192.0.3.254", "192.0.3.0/24"),
        ("::ffff:192.0.2.1", "192.0.2.0/24"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_clients_of_one_network_are_one(host, network):
    scope = {"type": "http", "client": (host, 1)}
    assert limits.network_of(Request(scope)) == network
    assert limits.network_of(Request({"type": "http"})) is None


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "multipart/form-data", "", "x" * 1000, "application/json; charset=x"]
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/classify", "/classify/files", "/feedback"])
def test_another_type_of_content_is_refused(server, path, kind):
    answer = post(server, path, content=json.dumps({"x": 1}), headers={"content-type": kind})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["message"]
    if path != "/classify/files" and "json" not in kind:
        assert "send the header Content-Type: application/json" in answer.json()["error"]["message"]


ODD = {"half": "\\ud800", "two halves": "\\udfff\\ud800", "nul": "\\u0000", "no characters": "\\ufeff\\uffff"}
WITH_ODD = {  # bodies that are fine but for what stands in their strings; what comes of it, and of half a pair
    "message": (CHAT, {"messages": [{"role": "user", "content": "a%sb"}], "max_tokens": 2}, 200, 200),
    "system": (
        CHAT,
        {"messages": [{"role": "system", "content": "%s"}, *HELLO["messages"]], "max_tokens": 2},
        200,
        200,
    ),
    "part": (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "%s"}]}], "max_tokens": 2},
        200,
        200,
    ),
    "role": (CHAT, {"messages": [{"role": "%s", "content": "x"}]}, 400, 400),
    "stop": (CHAT, HELLO | {"stop": ["%s"]}, 200, 400),
    "model": (CHAT, HELLO | {"model": "%s"}, 404, 400),
    "alias": (CHAT, HELLO | {"model": "assistant@%s"}, 404, 400),
    "unknown": (CHAT, HELLO | {"%s": "%s"}, 400, 400),
    "prompt": ("/v1/completions", {"prompt": "a%sb", "max_tokens": 2}, 200, 200),
    "prompts": ("/v1/completions", {"prompt": ["%s", "x"], "max_tokens": 2}, 200, 200),
    "subject": ("/classify", {"emails": [{"subject": "hello %s", "body": "the cat %s sat"}]}, 200, 200),
    "raw": ("/classify", {"emails": [{"message": "Subject: %s\n\n%s x"}], "explain": 3}, 200, 200),
    "extra": ("/classify", {"emails": [{"%s": "x"}]}, 422, 422),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(("path", "body", "status", "of_half"), WITH_ODD.values(), ids=WITH_ODD)
def test_halves_of_pairs_and_nul_are_text_or_refused(server, path, body, status, of_half, odd):
    for stream in ({}, {"stream": True}) if path.startswith("/v1") else ({},):
        content = json.dumps(body | stream).replace("%s", ODD[odd])
        answer = post(server, path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == (of_half if "hal" in odd else status), answer.text
        assert "server_error" not in answer.text


@pytest.mark.parametrize(
    "part",
    [
        *({"temperature": value} for value in ("NaN", "Infinity", "1e999", "-1", "1e308")),
        *({"top_p": value} for value in ("NaN", "-0.1", "1.1")),
        *({"min_p": value} for value in ("NaN", "2")),
        *({"repetition_penalty": value} for value in ("NaN", "Infinity", "0", "1e300", "-1")),
        *({"max_tokens": value} for value in ("0", "-1", "1e30", "1" + "0" * 60, "2.5", "null1")),
        *({"seed": value} for value in ("1e999", "9" * 40, "NaN")),
        *({"n": value} for value in ("17", "-3", "99999999999999999999")),
        *({"top_k": value} for value in ("0", "9" * 30)),
    ],
    ids=str,
)
def test_numbers_that_are_none_or_too_large_are_refused(server, part):
    ((name, value),) = part.items()
    content = json.dumps(HELLO | {name: "%s"}).replace('"%s"', value)
    answer = post(server, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "part",
    [
        {"temperature": 1e-300},
        {"temperature": 2, "top_p": 5e-324, "min_p": 1},
        {"temperature": 2, "top_k": 1_000_000, "seed": -(2**63)},
        {"seed": 2**63 - 1, "temperature": 1, "n": 4},
        {"repetition_penalty": 100, "temperature": 2},
        {"repetition_penalty": 0.01, "temperature": 1e-45},
    ],
    ids=str,
)
def test_numbers_at_their_bounds_are_taken(server, part):
    assert post(server, json=HELLO | part).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/v2/models", "/v1", "/V1/models", "//v1/models", "/v1/../v1/chat", "/%00", "/v1/models/%ff%00"]
)
def test_unknown_paths_are_404_in_the_same_form(server, path):
    url = urlsplit(server)
    answer = raw(server, f"GET {path} HTTP/1.1\r\nhost: {url.netloc}\r\nconnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] in ("not_found", "model_not_found")


def test_what_is_not_there_below_v1_says_what_is(server):
    said = post(server, "/v1/responses", json={}).json()["error"]["message"]
    assert said == "Not Found: below /v1 there are chat/completions, completions and models"


def test_another_method_is_405(server):
    for path, method in ((CHAT, "GET"), ("/healthz", "POST"), ("/classify", "DELETE"), ("/v1/models", "PUT")):
        answer = httpx.request(method, f"{server}{path}", timeout=300)
        assert answer.status_code == 405
        assert answer.headers["allow"]
        assert answer.json()["error"]["message"] == "Method Not Allowed"


def test_what_is_no_http_is_refused_and_many_idle_connections_take_nobodys_turn(server):
    url = urlsplit(server)
    with ExitStack() as stack:
        for number in range(200):
            idle = stack.enter_context(socket.create_connection((url.hostname, url.port), timeout=300))
            if number % 2:
                idle.sendall(b"POST /classify HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-le")
        assert b"400 Bad Request" in raw(server, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        assert post(server, json=HELLO).status_code == 200


def test_an_endless_word_keeps_nobody_else_waiting(server):
    """Made into tokens it would take seconds; the largest request that a server takes has 4 MB."""
    word = "x" * 3_900_000
    for path, body in (
        (CHAT, {"messages": [{"role": "user", "content": word}]}),
        ("/v1/completions", {"prompt": word}),
    ):
        answer = post(server, path, json=body)
        assert is_an_error(answer, 400, "context_length_exceeded")
        assert "3900000 characters" in answer.text
    verdicts = post(server, "/classify", json={"emails": [{"body": word}, {"body": "the cat"}]}).json()["verdicts"]
    assert [verdict["error"] for verdict in verdicts] == [None, None]
    explained = post(server, "/classify", json={"emails": [{"body": word}, {"body": "the cat"}], "explain": 2})
    assert [verdict["error"] for verdict in explained.json()["verdicts"]] == [
        "3900002 characters; at most 50000 are explained",
        None,
    ]


@pytest.mark.parametrize(("count", "reason"), [(511, None), (512, "has 512 tokens"), (513, "has 3078 characters")])
def test_only_what_can_not_fit_is_refused_before_its_tokens_are_made(server, count, reason):
    """The longest token of this vocabulary is ` hello`, and the context has 512."""
    answer = post(server, "/v1/completions", json={"prompt": " hello" * count, "max_tokens": 1})
    assert answer.status_code == (400 if reason else 200)
    assert reason is None or reason in answer.json()["error"]["message"]
