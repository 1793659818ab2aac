"""What docs/serving.md says to type gives what it says."""

import json
import re
import subprocess

import pytest
from projects import ROOT

from app.api.v1 import ERRORS
from app.settings import Settings

TEXT = (ROOT / "docs/serving.md").read_text()
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


HOLDS = {  # what the answer of each path has
    "/healthz": lambda found: found == {"status": "ok"},
    "/readyz": lambda found: found["ready"] and found["versions"]["assistant"] == "assistant/1, champion",
    "/v1/models": lambda found: {"assistant", "classifier@challenger"} <= {each["id"] for each in found["data"]},
    "/v1/models/assistant": lambda found: found["version"] == "assistant/1",
    "/openapi.json": lambda found: "/v1/chat/completions" in found["paths"],
    "/v1/chat/completions": lambda found: found["choices"][0]["message"]["content"],
    "/v1/completions": lambda found: found["model"] == "threestage-foundation/1" and found["choices"][0]["text"],
    "/classify": lambda found: found["verdicts"][0]["label"] in found["labels"] and found["verdicts"][0]["moved_by"],
    "/classify/files": lambda found: found["verdicts"][0]["name"] == "lunch.eml" and found["verdicts"][0]["label"],
    "/feedback": lambda found: found["kept"] and found["dataset"] in ("emails", "instructions"),
}


def test_there_is_a_line_for_every_path_of_the_server():
    said = {re.search(rf"{ADDRESS}(/\S+)", line)[1] for line in curl_lines()}
    assert said == {*HOLDS, "/metrics"}
    assert len(curl_lines()) >= 14


@pytest.mark.parametrize("line", curl_lines())
def test_a_curl_line_is_answered(server, line):
    path = re.search(rf"{ADDRESS}(/\S+)", line)[1]
    command = line.replace("curl ", SAY, 1).replace(ADDRESS, server)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    body, _, said = done.stdout.rpartition("\n")
    status, kind = said.split(" ", 1)
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
        assert "".join(each["choices"][0]["delta"].get("content", "") for each in pieces)
    else:
        assert kind == "application/json"
        assert HOLDS[path](json.loads(body)), body


def test_the_python_example_prints_the_same_answer_whole_and_in_pieces(server, capsys):
    (code,) = blocks("python")
    exec(compile(code.replace(ADDRESS, server), "docs/serving.md", "exec"), {})
    whole, _, pieces = capsys.readouterr().out.partition("\n")
    said = (whole + "\n" + pieces).rstrip("\n")
    half = len(said) // 2
    assert said[:half].strip() == said[half:].strip() != ""


def test_the_table_has_every_status_that_a_request_can_end_with():
    rows = re.findall(r"^\| (\d{3}) \|", TEXT, re.MULTILINE)
    assert rows == ["200", *map(str, sorted(ERRORS))]


def test_the_numbers_are_the_settings():
    by_default = Settings()
    assert f"writes {by_default.rows} texts at once" in TEXT
    assert f"{by_default.queue} requests may wait" in TEXT
    assert f"{by_default.context_length:,} tokens" in TEXT
    assert f"{by_default.body_bytes / 1e6:.0f} MB" in TEXT
    assert f"within {by_default.request_seconds:.0f}" in TEXT
