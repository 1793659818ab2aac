"""What a page of another site has a browser ask: by a name of its own for this address, or across sites."""

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli.command import cli
from app.limits import Sites
from tests.app.conftest import error_of, tracked

EVIL = "evil.example"
NAMED = "model.example"


def client(*allowed: str, keys: bool = False) -> TestClient:
    return TestClient(Sites(PlainTextResponse("yes"), allowed, any_name=keys))


def ask(at: TestClient, host: str, origin: str | None = None, method: str = "POST") -> httpx.Response:
    headers = {"host": host} | ({"origin": origin} if origin else {})
    return at.request(method, "/", headers={name: value.encode("latin-1") for name, value in headers.items()})


def is_refused(answer: httpx.Response, status: int, code: str) -> bool:
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code
    assert "--allowed-hosts" in answer.json()["error"]["message"]
    assert "access-control-allow-origin" not in answer.headers
    return True


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8000",
        "localhost:8000",
        "LOCALHOST",
        "[::1]:8000",
        "192.168.7.5",
        "Model.Example:1",
        "a.localhost",
    ],
)
def test_addresses_localhost_and_allowed_names_are_answered(host):
    assert ask(client(NAMED), host).text == "yes"


@pytest.mark.parametrize(
    "host",
    [EVIL, f"{EVIL}:8000", "localhost.evil.example", "127.0.0.1.evil.example", "2130706433", "[::1", "@", "\xff"],
)
def test_another_name_is_refused_where_there_are_no_keys_and_answered_where_there_are(host):
    assert is_refused(ask(client(NAMED), host), 421, "other_host")
    assert ask(client(keys=True), host).text == "yes"


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize(
    "origin", [f"http://{EVIL}", "https://127.0.0.1:9000", "null", "http://localhost:8000", "http://["]
)
def test_who_asks_across_sites_is_refused(method, keys, origin):
    assert is_refused(ask(client(NAMED, keys=keys), "127.0.0.1:8000", origin, method), 403, "other_site")


@pytest.mark.parametrize(
    ("host", "origin"),
    [("127.0.0.1:8000", "http://127.0.0.1:8000"), ("localhost:80", "http://LOCALHOST:80"),
     ("127.0.0.1:8000", f"https://{NAMED}"), (f"{NAMED}:443", f"https://{NAMED}")],
)  # fmt: skip
def test_the_servers_own_page_and_those_that_are_allowed_may_ask(host, origin):
    assert ask(client(NAMED), host, origin).text == "yes"


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/classify", "/feedback", "/openapi.json", "/nothing"])
def test_the_server_stands_behind_it_with_all_its_paths(server, path):
    assert is_refused(httpx.post(f"{server}{path}", headers={"host": EVIL}, timeout=300), 421, "other_host")
    assert is_refused(
        httpx.post(f"{server}{path}", headers={"origin": f"http://{EVIL}"}, timeout=300), 403, "other_site"
    )


@pytest.mark.parametrize("origin", [f"http://{EVIL}", "null", "file://"])
def test_who_brings_a_key_may_ask_from_anywhere(origin):
    headers = {"host": "127.0.0.1", "origin": origin}
    assert client(keys=True).post("/", headers=headers | {"authorization": "Bearer key"}).text == "yes"
    preflight = headers | {"access-control-request-headers": "authorization"}  # which a browser sends before, without
    assert is_refused(client(keys=True).options("/", headers=preflight), 403, "other_site")


@pytest.mark.parametrize("allowed", [NAMED, "https://Model.Example", f"{NAMED}:8443", f"{NAMED}."])
def test_a_name_is_allowed_however_it_is_written(allowed):
    assert ask(client(allowed), f"{NAMED}:8000").text == "yes"


@pytest.mark.parametrize("name", ["*", "*.example", "http://", "[::1"])
def test_what_is_no_name_is_refused_at_the_start(name, registry):
    command = ["serve", "--port", "0", "--allowed-hosts", name]
    with tracked(registry):
        assert "is no name of a host" in error_of(CliRunner().invoke(cli, command))
