"""Requests of strangers: too large, without a key, from a page of another site, or malformed."""

import json
import socket
from collections.abc import Iterator
from itertools import product
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.api.classify import ClassifyRequest
from app.api.feedback import AnswerFeedback
from app.api.limits import Sites
from app.api.schema import ChatRequest, CompletionRequest
from app.api.server import create_app
from app.clients import network_of
from app.settings import Settings
from cli.main import cli
from tests.app.conftest import error_of, get, post, readiness, running, tracked

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
SURROGATE = "\\ud800"  # as JSON writes half of a pair of surrogates


@pytest.fixture(scope="module")
def strict(registry):
    """A server with two keys and narrow limits."""
    settings = Settings(api_keys=("one key", "another-ä"), body_bytes=200_000, feedback=False)
    with tracked(registry), running(settings) as address:
        yield address


def send(address: str, path: str, content: str | bytes | Iterator[bytes], **headers: str) -> httpx.Response:
    """Post a body unchanged; it need not be JSON."""
    headers = {"content-type": "application/json"} | headers
    return httpx.post(f"{address}{path}", content=content, headers=headers, timeout=300)


def raw(address: str, request: bytes) -> bytes:
    """Send bytes as they are; all that comes back until the server closes."""
    url, answer = urlsplit(address), b""
    with socket.create_connection((url.hostname, url.port), timeout=300) as connection:
        connection.sendall(request)
        while part := connection.recv(65536):
            answer += part
    return answer


def is_an_error(answer: httpx.Response, status: int, code: str) -> bool:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    assert error["message"]
    return True


GUARDED = ["/v1/models", "/metrics", CHAT, "/classify", "/feedback", "/v1/x"]
WRONG = ["Bearer", "Bearer  x", "Bearer one", "Bearer one key2", "Basic one key", "one key", "Bearer \xff"]


def test_permission_is_refused_without_a_right_key(strict):
    answers = [post(strict, path, {}) for path in GUARDED]
    for key in WRONG:
        headers = {"Authorization": key.encode("latin-1")}
        answers.append(httpx.get(f"{strict}/v1/models", headers=headers, timeout=300))
    for answer in answers:
        assert is_an_error(answer, 401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["Bearer one key", "bearer one key", "Bearer another-ä"])
def test_permission_is_given_to_each_of_the_keys(strict, key):
    headers = {"Authorization": key.encode()}
    assert httpx.get(f"{strict}/v1/models", headers=headers, timeout=300).status_code == 200


def test_health_needs_no_key(strict):
    assert get(strict, "/healthz").json() == {"status": "ok"}
    assert readiness(strict) == {
        "ready": True,
        "versions": {"assistant": "assistant/1, champion", "classifier": "classifier/1, challenger"},
        "guard": None,
        "reason": None,
    }


@pytest.mark.parametrize("declared", [True, False])
def test_body_that_is_too_large_is_refused_declared_or_in_chunks(strict, declared):
    chunks = [b'{"model": "', *[b"x" * 65_536] * 150]
    content = b"".join(chunks) if declared else iter(chunks)
    answer = send(strict, CHAT, content, **{"content-type": "application/json", "Authorization": "Bearer one key"})
    assert is_an_error(answer, 413, "too_large")
    assert "200000 bytes" in answer.text


def test_head_that_is_too_large_is_refused(strict):
    assert raw(strict, b"GET /healthz HTTP/1.1\r\nx-large: " + b"x" * 100_000).startswith(b"HTTP/1.1 400 ")


MALFORMED = {
    "many unknown parts": ("{" + "".join(f'"{n}": 1, ' for n in range(100_000)) + '"about": "email"}').encode(),
    "cut": b'{"messages": [',
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "nested extra": b'{"metadata": ' + b"[" * 400 + b"]" * 400 + b', "messages": 1, "prompt": {}, "emails": 1}',
    "null": b"null",
    "no text": b"\xff\xfe{}",
    "half a pair as label": f'{{"about": "{SURROGATE}", "emails": "{SURROGATE}"}}'.encode(),
    "infinite": b'{"temperature": Infinity, "messages": NaN, "emails": -Infinity, "about": 1e999}',
    "long number": b'{"seed": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_invalid_request_is_refused_with_a_short_reason(server, body):
    for path in (CHAT, "/v1/completions", "/classify", "/feedback"):
        answer = send(server, path, body)
        assert answer.status_code in ((400,) if path.startswith("/v1") else (400, 422))
        assert answer.json()["error"]["message"]
        assert len(answer.content) < 3000


def test_invalid_parts_by_the_thousand_are_reported_as_fast_as_one(server):
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
        with pytest.raises(ValidationError) as raised:
            model.model_validate(body)
        assert raised.value.error_count() < 10


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.0/24"),
        ("::ffff:192.0.2.1", "192.0.2.0/24"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_clients_of_one_network_are_one(host, network):
    scope = {"type": "http", "client": (host, 1)}
    assert network_of(Request(scope)) == network
    assert network_of(Request({"type": "http"})) is None


ODD = {"half": "\\ud800", "two halves": "\\udfff\\ud800", "nul": "\\u0000", "no characters": "\\ufeff\\uffff"}
WITH_ODD = {  # a path, a body that is fine but for its strings, its status, and that with half a pair
    "message": (CHAT, {"messages": [{"role": "user", "content": "a%sb"}], "max_tokens": 2}, 200, 200),
    "role": (CHAT, {"messages": [{"role": "%s", "content": "x"}]}, 400, 400),
    "stop": (CHAT, HELLO | {"stop": ["%s"]}, 200, 400),
    "model": (CHAT, HELLO | {"model": "%s"}, 404, 400),
    "unknown": (CHAT, HELLO | {"%s": "%s"}, 400, 400),
    "prompt": ("/v1/completions", {"prompt": "a%sb", "max_tokens": 2}, 200, 200),
    "raw": ("/classify", {"emails": [{"message": "Subject: %s\n\n%s x"}], "explain": 3}, 200, 200),
    "extra": ("/classify", {"emails": [{"%s": "x"}]}, 422, 422),
}


@pytest.mark.parametrize(("path", "body", "status", "of_half"), WITH_ODD.values(), ids=WITH_ODD)
def test_unicode_surrogates_and_nul_are_text_or_refused(server, path, body, status, of_half):
    for odd, stream in product(ODD, ({}, {"stream": True}) if path.startswith("/v1") else ({},)):
        content = json.dumps(body | stream).replace("%s", ODD[odd])
        answer = send(server, path, content)
        assert answer.status_code == (of_half if "hal" in odd else status), answer.text
        assert "server_error" not in answer.text


@pytest.mark.parametrize(
    "part",
    [
        {"temperature": 1e-300},
        {"temperature": 2, "top_p": 5e-324},
        {"seed": 2**63 - 1, "temperature": 1, "n": 4},
    ],
    ids=str,
)
def test_numbers_at_their_bounds_are_accepted(server, part):
    assert post(server, CHAT, HELLO | part).status_code == 200


def test_unknown_paths_are_404_in_the_same_form(server):
    host = urlsplit(server).netloc
    for path in ("/", "/v1/../v1/chat", "/%00", "/v1/models/%ff%00"):
        answer = raw(server, f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404 "), path
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert error["type"] == "invalid_request_error"
        assert error["code"] in ("not_found", "model_not_found")


def test_unknown_path_below_v1_lists_the_known_ones(server):
    message = post(server, "/v1/embeddings", {}).json()["error"]["message"]
    assert message == "Not Found: below /v1 there are chat/completions, completions, responses and models"


def test_wrong_method_is_405(server):
    for path, method in ((CHAT, "GET"), ("/healthz", "POST"), ("/classify", "DELETE"), ("/v1/models", "PUT")):
        answer = httpx.request(method, f"{server}{path}", timeout=300)
        assert answer.status_code == 405
        assert answer.headers["allow"]
        assert answer.json()["error"]["message"] == "Method Not Allowed"


def test_endless_word_keeps_nobody_else_waiting(server):
    """Made into tokens it would take seconds; the largest request that a server takes has 4 MB."""
    word = "x" * 3_900_000
    for path, body in (
        (CHAT, {"messages": [{"role": "user", "content": word}]}),
        ("/v1/completions", {"prompt": word}),
    ):
        answer = post(server, path, body)
        assert is_an_error(answer, 400, "context_length_exceeded")
        assert "3900000 characters" in answer.text
    mails = {"emails": [{"body": word}, {"body": "the cat"}]}
    too_long = "3900002 characters; at most 50000 are explained"
    for options, reason in (({}, None), ({"explain": 2}, too_long)):
        verdicts = post(server, "/classify", mails | options).json()["verdicts"]
        assert [verdict["error"] for verdict in verdicts] == [reason, None]


@pytest.mark.parametrize(("count", "reason"), [(511, None), (512, "has 512 tokens"), (513, "has 3078 characters")])
def test_text_that_can_not_fit_is_refused_before_tokenization(server, count, reason):
    """The longest token of this vocabulary is ` hello`, and the context has 512."""
    answer = post(server, "/v1/completions", {"prompt": " hello" * count, "max_tokens": 1})
    assert answer.status_code == (400 if reason else 200)
    assert reason is None or reason in answer.json()["error"]["message"]


def test_body_without_the_json_header_is_refused(server):
    answer = send(server, CHAT, json.dumps(HELLO), **{"content-type": "text/plain"})
    assert is_an_error(answer, 400, "invalid_request")
    assert "send the header Content-Type: application/json" in answer.text


# ---- a page of another site: by a name of its own for this address, or across sites

EVIL, NAMED = "evil.example", "model.example"


def behind(*allowed: str, keys: bool = False) -> TestClient:
    return TestClient(Sites(PlainTextResponse("yes"), allowed, any_name=keys))


def ask(client: TestClient, host: str, **headers: str) -> httpx.Response:
    headers = {"host": host} | headers
    return client.post("/", headers={name: value.encode("latin-1") for name, value in headers.items()})


def is_refused(answer: httpx.Response, status: int, code: str) -> bool:
    assert "--allowed-hosts" in answer.json()["error"]["message"]
    assert "access-control-allow-origin" not in answer.headers
    return is_an_error(answer, status, code)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000", "192.168.7.5", "Model.Example:1", "a.localhost"],
)
def test_addresses_localhost_and_allowed_names_are_answered(host):
    for allowed in (NAMED, "https://Model.Example", f"{NAMED}:8443", f"{NAMED}."):
        assert ask(behind(allowed), host).text == "yes"


@pytest.mark.parametrize(
    "host", [EVIL, f"{EVIL}:8000", "localhost.evil.example", "127.0.0.1.evil.example", "2130706433", "[::1", "\xff"]
)
def test_host_names_of_others_are_refused_without_keys_and_answered_with_keys(host):
    assert is_refused(ask(behind(NAMED), host), 421, "other_host")
    assert ask(behind(keys=True), host).text == "yes"


@pytest.mark.parametrize(
    "origin", [f"http://{EVIL}", "https://127.0.0.1:9000", "null", "http://localhost:8000", "http://["]
)
def test_cross_site_request_is_refused_without_a_key(origin):
    for keys in (True, False):
        assert is_refused(ask(behind(NAMED, keys=keys), "127.0.0.1:8000", origin=origin), 403, "other_site")
    assert ask(behind(keys=True), "127.0.0.1", origin=origin, authorization="Bearer key").text == "yes"


@pytest.mark.parametrize(
    ("host", "origin"),
    [("127.0.0.1:8000", "http://127.0.0.1:8000"), ("localhost:80", "http://LOCALHOST:80"),
     ("127.0.0.1:8000", f"https://{NAMED}"), (f"{NAMED}:443", f"https://{NAMED}")],
)  # fmt: skip
def test_cross_site_rule_lets_the_own_page_and_allowed_sites_ask(host, origin):
    assert ask(behind(NAMED), host, origin=origin).text == "yes"


def test_cross_site_requests_are_refused_on_every_path():
    client = TestClient(create_app(Settings()), "http://127.0.0.1")
    for path in ("/healthz", "/v1/models", "/classify", "/feedback", "/openapi.json", "/nothing"):
        assert is_refused(client.post(path, headers={"host": EVIL}), 421, "other_host")
        assert is_refused(client.post(path, headers={"origin": f"http://{EVIL}"}), 403, "other_site")


@pytest.mark.parametrize("name", ["*", "*.example", "http://", "[::1"])
def test_invalid_allowed_host_is_refused_at_the_start(name, registry):
    command = ["serve", "--port", "0", "--allowed-hosts", name]
    with tracked(registry):
        assert "is no name of a host" in error_of(CliRunner().invoke(cli, command))
