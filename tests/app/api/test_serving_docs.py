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


def check_answer(path: str, answer: dict) -> None:
    """Check what the answer of each path has."""
    match path:
        case "/healthz":
            assert answer == {"status": "ok"}
        case "/readyz":
            assert answer["ready"]
            assert answer["versions"]["assistant"] == "assistant/1, champion"
        case "/v1/models":
            assert {"assistant", "classifier@challenger"} <= {model["id"] for model in answer["data"]}
        case "/v1/models/assistant":
            assert answer["version"] == "assistant/1"
        case "/openapi.json":
            assert "/v1/chat/completions" in answer["paths"]
        case "/v1/chat/completions":
            assert answer["choices"][0]["message"]["content"]
        case "/v1/completions":
            assert answer["model"] == "threestage-foundation/1"
            assert answer["choices"][0]["text"]
        case "/classify":
            assert answer["verdicts"][0]["label"] in answer["labels"]
            assert answer["verdicts"][0]["moved_by"]
        case "/classify/files":
            assert answer["verdicts"][0]["name"] == "lunch.eml"
            assert answer["verdicts"][0]["label"]
        case "/feedback":
            assert answer["kept"]
            assert answer["dataset"] in ("emails", "instructions")
        case _:
            pytest.fail(f"{path} is not a path of the server")


PATHS = {
    *("/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/models", "/v1/models/assistant"),
    *("/v1/chat/completions", "/v1/completions", "/classify", "/classify/files", "/feedback"),
}


def test_docs_have_a_curl_line_for_every_path():
    assert {re.search(rf"{ADDRESS}(/\S+)", line)[1] for line in curl_lines()} == PATHS
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
        check_answer(path, json.loads(body))


def test_docs_python_example_prints_the_same_answer_whole_and_in_pieces(server, capsys):
    (code,) = blocks("python")
    exec(compile(code.replace(ADDRESS, server), "docs/serving.md", "exec"), {})
    whole, _, pieces = capsys.readouterr().out.partition("\n")
    printed = (whole + "\n" + pieces).rstrip("\n")
    half = len(printed) // 2
    assert printed[:half].strip() == printed[half:].strip() != ""


def test_docs_table_has_every_status():
    rows = re.findall(r"^\| (\d{3}) \|", TEXT, re.MULTILINE)
    assert rows == ["200", *map(str, sorted(ERRORS))]


def test_docs_have_the_numbers_of_the_settings():
    by_default = Settings()
    assert f"writes {by_default.rows} texts at once" in TEXT
    assert f"{by_default.queue} requests may wait" in TEXT
    assert f"{by_default.context_length:,} tokens" in TEXT
    assert f"{by_default.body_bytes / 1e6:.0f} MB" in TEXT
    assert f"within {by_default.request_seconds:.0f}" in TEXT
