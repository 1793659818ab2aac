import socket
import subprocess
import sys

import pytest

from llm.errors import UserError
from tasks.stages import server


def started(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code])


def test_a_server_that_ends_at_once_is_said_with_its_exit_code():
    with started("raise SystemExit(3)") as process, pytest.raises(UserError, match="ended with exit code 3"):
        server._wait_until_healthy(process, "http://127.0.0.1:9/api")


def test_a_server_that_never_answers_is_said_with_the_way_out(monkeypatch):
    monkeypatch.setattr(server, "STARTS_WITHIN", 0.3)
    with started("import time; time.sleep(60)") as process:
        reason = "the temporary Prefect server does not answer after 0.3 s; set PREFECT_API_URL to a standing one"
        with pytest.raises(UserError, match=reason):
            server._wait_until_healthy(process, "http://127.0.0.1:9/api")
        process.kill()


def test_a_configured_server_that_listens_and_never_answers_is_said_after_the_time_that_it_has(monkeypatch):
    assert server.ANSWERS_WITHIN < 10
    monkeypatch.setattr(server, "ANSWERS_WITHIN", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api/"
        with pytest.raises(UserError, match=f"^PREFECT_API_URL={url}: nobody answers"):
            server._check_answers(url)


def test_the_patience_is_enough_for_a_busy_machine():
    """A first start took over 60 s on two busy cores."""
    assert server.STARTS_WITHIN >= 180


@pytest.mark.parametrize(
    ("name", "key"),
    [("finetune@classifier", "finetune-classifier"), ("My_App ", "my-app"), ("fetch-corpus", "fetch-corpus")],
)
def test_any_name_makes_an_artifact_key_that_prefect_takes(name, key):
    assert server.artifact_key(name) == key
