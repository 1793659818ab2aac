"""What the pages about the server say to type gives what they say."""

import json
import re
import subprocess

import pytest
from projects import ROOT

from app.api.openai import ERRORS
from app.settings import Settings

PAGES = ("serving.md", "operating.md", "feedback.md")
TEXT = "".join((ROOT / "docs" / page).read_text() for page in PAGES)
ADDRESS = "http://127.0.0.1:8000"
SAY = r"curl --silent --show-error --write-out '\n%{http_code} %{content_type}' "


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def curl_lines() -> list[str]:
    """Each command with curl in it, over as many lines as it has."""
    lines = "".join(blocks("sh")).replace("\\\n", " ").replace("|\n", "| ").splitlines()
    return [re.sub(" +", " ", line) for line in lines if "curl " in line]


def events(body: str) -> list[dict]:
    lines = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


PARTS = {
    "/healthz": "status",
    "/readyz": "ready",
    "/metrics": None,
    "/openapi.json": "paths",
    "/v1/models": "data",
    "/v1/models/assistant": "version",
    "/v1/chat/completions": "choices",
    "/v1/completions": "choices",
    "/classify": "verdicts",
    "/feedback": "kept",
}
"""A part of each path's answer."""


def test_docs_have_a_curl_line_for_every_path():
    assert {re.search(rf"{ADDRESS}(/\S+)", line)[1] for line in curl_lines()} == PARTS.keys()
    assert len(curl_lines()) >= 14


@pytest.mark.parametrize("line", curl_lines())
def test_docs_curl_line_is_answered(server, line):
    path = re.search(rf"{ADDRESS}(/\S+)", line)[1]
    command = line.replace("curl ", SAY, 1).replace(ADDRESS, server)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    body, _, status_line = done.stdout.rpartition("\n")
    status, kind = status_line.split(" ", 1)
    assert status == "200", body
    if path == "/metrics":
        assert kind.startswith("text/plain")
        names = set(re.findall(r"`(threestage_\w+)`", TEXT))
        assert names
        assert names <= set(re.findall(r"^# TYPE (\w+) ", body, re.MULTILINE))
    elif '"stream": true' in line:
        assert kind.startswith("text/event-stream")
        pieces = events(body)
        assert pieces[0]["model"] == "threestage-assistant/1"
        assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces)
    else:
        assert kind == "application/json"
        answer = json.loads(body)
        assert answer[PARTS[path]]
        assert not any(verdict["error"] for verdict in answer.get("verdicts", []))


def test_docs_python_example_prints_the_same_answer_whole_and_in_pieces(server, capsys):
    code, _ = blocks("python")  # the other is of an answer within a schema
    exec(compile(code.replace(ADDRESS, server), "docs/serving.md", "exec"), {})
    whole, _, pieces = capsys.readouterr().out.partition("\n")
    printed = (whole + "\n" + pieces).rstrip("\n")
    half = len(printed) // 2
    assert printed[:half].strip() == printed[half:].strip() != ""


def test_docs_table_has_every_status():
    rows = re.findall(r"^\| (\d{3}) \|", TEXT, re.MULTILINE)
    assert rows == ["200", *map(str, sorted(ERRORS))]


def test_docs_have_the_numbers_of_the_settings():
    settings = Settings()
    assert f"writes {settings.rows} texts at once" in TEXT
    assert f"{settings.queue} requests may wait" in TEXT
    assert f"{settings.context_length:,} tokens" in TEXT
    assert f"{settings.body_bytes / 1e6:.0f} MB" in TEXT
    assert f"within {settings.request_seconds:.0f}" in TEXT
