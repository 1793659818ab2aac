"""The command line, in this process and as a user's shell starts it."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from dvc.repo import Repo
from projects import ROOT, environment
from typer.testing import CliRunner, Result

from app.command import _loaded, cli
from app.mail_files import _is_message
from app.talk import answer
from llm.applications.assistant import Assistant
from llm.chat import Chat, Message, turn_ends
from llm.config import GPTConfig
from llm.formats.model_folder import save_model
from llm.generation.sampling import Sampling
from llm.tokenizer import train_bpe
from llm.training.checkpoint import Checkpoints
from tasks.stages.graph import reproduce
from tests.app.conftest import TEXT, register, tracked, wait_until

pytestmark = pytest.mark.slow

MAIL = "From: a@b.example\nSubject: Meeting\nTo: c@d.example\n\nthe cat sat on the mat\n"
LONG = 2000  # tokens, of a model that takes its time


@pytest.fixture
def threestage(registry, tmp_path, monkeypatch):
    """Run the command line in this process, over the shared registry, from an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, stdin: str | bytes = "") -> Result:
        with tracked(registry):
            return CliRunner().invoke(cli, arguments, input=stdin)

    return call


def shell(line: str, folder: Path, registry: Path, **more) -> subprocess.Popen:
    """A line of bash, in which `threestage` is the real command."""
    variables = environment(MLFLOW_TRACKING_URI=f"sqlite:///{registry / 'mlflow.db'}", PYTHONPATH=str(ROOT))
    begin = f'set -o pipefail; threestage() {{ "{sys.executable}" -m app.command "$@"; }}; '
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(["bash", "-c", begin + line], cwd=folder, env=variables, text=True, **(pipes | more))


def error_of(result: Result, code: int = 1) -> str:
    """The one line that was said."""
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.strip()


def rows_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


# ---- what any command does


def test_help_is_there_for_every_command_and_fits_a_terminal(threestage):
    said = threestage("--help").stdout
    commands = re.findall(r"^  ([a-z]+)  ", said.partition("Commands:")[2], re.MULTILINE)
    assert commands == ["run", "status", "chat", "classify", "serve"]
    for command in commands:
        help_ = threestage(command, "--help")
        assert help_.exit_code == 0
        assert max(map(len, help_.stdout.splitlines())) <= 80


def test_help_names_the_exit_codes(threestage):
    codes = threestage("--help").stdout.partition("Exit codes:")[2]
    assert re.findall(r"\b\d+\b", codes) == ["0", "1", "2", "3", "75", "130"]


def test_help_loads_no_library_that_takes_time():
    code = (
        "import sys; from app.command import cli; cli(['--help'], standalone_mode=False); "
        "print([m for m in ('torch', 'mlflow', 'pandas', 'dvc', 'prefect', 'fastapi', 'gradio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_the_distributions(threestage):
    assert re.fullmatch(r"threestage \d+\.\d+\.\d+\n", threestage("--version").stdout)


@pytest.mark.parametrize("wrong", [["chat", "--temperature", "3"], ["serve", "--port", "x"], ["classify"], ["nothing"]])
def test_a_wrong_option_ends_with_2(threestage, wrong):
    assert threestage(*wrong).exit_code == 2


def test_completion_can_be_installed(threestage):
    assert "--install-completion" in threestage("--help").stdout


@pytest.mark.parametrize("command", ["run", "status"])
def test_outside_a_project_that_is_said(threestage, tmp_path, command):
    assert error_of(threestage(command)) == f"error: there is no dvc.yaml in {tmp_path}: go to the project's folder"


@pytest.mark.parametrize("command", [["chat", "hello"], ["classify", "mail.eml"]])
def test_without_a_registry_that_is_said_and_none_is_made(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    said = error_of(CliRunner().invoke(cli, command))
    assert said.startswith(f"error: {tmp_path / 'mlflow.db'}: there is no registry")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["chat", "hello"], ["classify", "mail.eml"]])
def test_an_unknown_model_is_said_with_those_that_are_there(threestage, command):
    said = error_of(threestage(*command, "--model", "oracle"))
    assert said == "error: model 'oracle' is not registered; those are: assistant, classifier, foundation"


def test_run_hands_over_to_the_flows(tmp_path, registry):
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows/__main__.py").write_text("import sys; print(sys.argv[1:]); sys.exit(75)")
    (tmp_path / "flows/__init__.py").touch()
    done = shell("threestage run --verbose", tmp_path, registry)
    assert done.communicate()[0] == "['--verbose']\n"
    assert done.returncode == 75


# ---- status


STAGES = """
stages:
  clean: {cmd: "cat raw > clean", deps: [raw], params: [rate], outs: [clean]}
  train: {cmd: "cat clean > model", deps: [clean], outs: [model]}
"""


@pytest.fixture
def pipeline(tmp_path, monkeypatch) -> Path:
    """A DVC project in which nothing ever ran."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(STAGES)
    Path("params.yaml").write_text("rate: 1\n")
    Path("raw").write_text("text")
    Repo.init(no_scm=True).close()
    return tmp_path


def status() -> dict:
    result = CliRunner().invoke(cli, ["status", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_status_where_nothing_ever_ran(pipeline):
    never = {"clean": ["it never ran"], "train": ["it never ran"]}
    assert status() == {"stale": never, "versions": [], "interrupted": []}
    said = CliRunner().invoke(cli, ["status"]).stdout.splitlines()
    assert said[1:] == ["  clean  it never ran", "  train  it never ran", "the registry is empty"]
    assert not Path("mlflow.db").exists(), "to look makes nothing"


def test_status_says_why_a_stage_is_stale(pipeline, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for stage in ("clean", "train"):
        reproduce(stage, {})
    assert status()["stale"] == {}
    assert "no stage is stale" in CliRunner().invoke(cli, ["status"]).stdout
    Path("params.yaml").write_text("rate: 2\n")
    Path("model").unlink()
    assert status()["stale"] == {"clean": ["rate modified"], "train": ["model is missing"]}


def test_status_names_versions_with_their_aliases(pipeline, registry):
    with tracked(registry):
        found, said = status()["versions"], CliRunner().invoke(cli, ["status"]).stdout
    assert [(row["model"], row["version"], row["aliases"]) for row in found] == [
        ("assistant", "2", ["challenger"]),
        ("assistant", "1", ["champion"]),
        ("classifier", "1", ["challenger"]),
        ("foundation", "1", ["challenger"]),
    ]
    assert re.search(r"^  assistant/1  \d{4}-\d\d-\d\d \d\d:\d\d\S*  champion$", said, re.MULTILINE)


def test_status_names_interrupted_trainings(pipeline):
    folder = Path(".threestage/stages/train/abc")
    Checkpoints(folder).save(40, {"model": {"weight": torch.ones(2)}}, {})
    assert status()["interrupted"] == [{"stage": "train", "step": 40, "folder": str(folder)}]
    assert "interrupted: train at step 40" in CliRunner().invoke(cli, ["status"]).stdout


def test_a_registry_that_does_not_answer_is_said_in_a_line(pipeline, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "nobody answers" in error_of(CliRunner().invoke(cli, ["status"]))


# ---- chat


def test_a_question_is_answered_and_the_next_time_in_the_same_way(threestage):
    first = threestage("chat", "hello", "there", "--max-tokens", "9")
    assert (first.exit_code, first.stderr) == (0, "")
    assert len(first.stdout.strip()) > 5
    assert threestage("chat", "hello there", "--max-tokens", "9").stdout == first.stdout


def test_the_lines_of_a_pipe_are_questions_of_their_own(threestage):
    found = rows_of(threestage("chat", "--json", "--max-tokens", "9", stdin="hello\n\n how are you ?\nhello\n").stdout)
    assert [row["question"] for row in found] == ["hello", "how are you ?", "hello"]
    assert found[0] == found[2], "no answer knows of the ones before"
    assert {row["model"] for row in found} == {"threestage-assistant/1"}
    assert {row["finish"] for row in found} == {"length"}
    assert found[0]["answer"] != found[1]["answer"]


def test_an_alias_and_a_version_are_asked_by_their_names(threestage):
    asked = ["chat", "hello", "--json", "--max-tokens", "9", "--model"]
    (challenger,), (second,) = (
        rows_of(threestage(*asked, name).stdout) for name in ("assistant@challenger", "assistant/2")
    )
    assert challenger == second
    assert second["model"] == "threestage-assistant/2"


def test_a_question_that_is_too_long_has_its_reason_and_leaves_the_others_alone(threestage):
    result = threestage("chat", "--json", "--max-tokens", "9", stdin=f"{'cat ' * 900}\nhello\n")
    long, short = rows_of(result.stdout)
    assert "the context of 512" in long["error"]
    assert short["answer"]
    assert error_of(result, 3) == f"error: {long['error']}"


def test_a_talk_that_grows_too_long_loses_its_first_turns_but_never_what_it_is_told_before(
    registry, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    told = Message("system", "hello")
    turns = [Message(role, f"{number} the cat sat") for number in range(60) for role in ("user", "assistant")]
    with tracked(registry), _loaded("assistant") as loaded:
        for times in (1, 20):  # too many tokens, and more characters than are looked at
            talk = [told, *turns * times, Message("user", "hello")]
            came = answer(loaded, talk, 1, Sampling(), 9, show=False, stops=False)
            assert came.finish == "length"
            assert talk[0] == told
            assert 10 < len(talk) < len(turns)
            assert talk[1:-1] == (turns * times)[-len(talk) + 2 :]
            assert talk[1].role == "user"


def test_a_model_that_knows_no_talk_is_said(threestage):
    said = error_of(threestage("chat", "hello", "--model", "foundation"), 3)
    assert said == "error: foundation/1 is no chat model; ask /v1/completions"


def test_a_seed_makes_a_draw_the_same(threestage):
    said = [
        threestage("chat", "hello", "--temperature", "2", "--seed", seed, "--max-tokens", "20").stdout
        for seed in ("1", "1", "2")
    ]
    assert said[0] == said[1] != said[2]


def test_a_pipe_that_is_no_text_is_said(threestage):
    assert error_of(threestage("chat", stdin=b"hello \xff\n")).startswith("error: stdin, line 1: no UTF-8 text")


# ---- classify


def test_files_are_classified_each_as_what_it_is(threestage, tmp_path):
    (tmp_path / "mail.eml").write_text(MAIL)
    (tmp_path / "mail.txt").write_text(MAIL)
    (tmp_path / "same.jsonl").write_text(
        json.dumps({"subject": "Meeting", "body": "the cat sat on the mat"}) + "\n\n" + json.dumps({"message": MAIL})
    )
    result = threestage("classify", "--json", "mail.eml", "mail.txt", "same.jsonl", "-", stdin=MAIL)
    assert (result.exit_code, result.stderr) == (0, "")
    found = rows_of(result.stdout)
    places = [("mail.eml", None), ("mail.txt", None), ("same.jsonl", 1), ("same.jsonl", 3), ("-", None)]
    assert [(row["file"], row.get("line")) for row in found] == places
    assert len({row["probability"] for row in found}) == 1, "all are the same mail"
    assert found[0]["label"] in ("ham", "spam")
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1)


def test_for_people_a_verdict_is_a_line_and_words_that_moved_it_stand_below(threestage, tmp_path):
    (tmp_path / "mail.eml").write_text(MAIL)
    said = threestage("classify", "--explain", "2", "mail.eml").stdout.splitlines()
    assert re.fullmatch(r"(ham|spam)\t[01]\.\d{3}\tmail\.eml", said[0])
    assert len(said) == 3
    assert all(re.fullmatch(r"\t[+-]\d+\.\d\d\t'.+'", line) for line in said[1:])


def test_what_is_no_mail_has_its_reason_and_leaves_the_others_alone(threestage, tmp_path):
    (tmp_path / "mail.eml").write_text(MAIL)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "rows.jsonl").write_text('{"subject": 7}\n{"text": "hello"}\n{"body": \n')
    names = ["missing.eml", "empty.txt", "rows.jsonl", ".", "mail.eml"]
    result = threestage("classify", "--json", *names)
    assert result.exit_code == 3
    found = rows_of(result.stdout)
    assert [row.get("error", "").partition(" (")[0] for row in found] == [
        "No such file or directory",
        "there is no text to classify",
        "subject: 7 is not text",
        "none of subject, body, message in it",
        "no JSON",
        "Is a directory",
        "",
    ]
    said = threestage("classify", *names).stderr.splitlines()
    assert len(said) == 6
    assert said[3] == "error: rows.jsonl, line 2: none of subject, body, message in it"


def test_a_model_that_is_no_classifier_is_said(threestage):
    said = error_of(threestage("classify", "-", "--model", "assistant", stdin="hello"))
    assert said == "error: assistant/1 is no classifier; --model names one"


@pytest.mark.parametrize(
    ("text", "is_message"),
    [
        (MAIL, True),
        (MAIL.replace("\n", "\r\n"), True),
        ("From a@b.example Mon Jan  5 10:00:00 2026\n" + MAIL, True),
        ("Received: from x\n\tby y; Mon\nSubject: hi\n\nbody", True),
        ("subject: hi\n\nbody", True),
        ("Subject: hi", True),
        ("From here on all is well.\n\nYours", False),
        ("Note: buy milk\n\nThanks", False),
        ("https://example.org\nlook", False),
        ("To: everybody\nplease read this\n\nThanks", False),
        ("Dear Sir: hello", False),
        ("", False),
    ],
)
def test_a_text_is_a_message_where_it_begins_with_headers(text, is_message):
    assert _is_message(text) is is_message


# ---- pipes, signals, a terminal


def test_a_reader_who_has_had_enough_is_no_error(tmp_path, registry):
    row = json.dumps({"body": "the cat sat on the mat"})
    (tmp_path / "many.jsonl").write_text(f"{row}\n" * 1500)
    done = shell("threestage classify --json many.jsonl | head -1", tmp_path, registry)
    said, errors = done.communicate()
    assert (done.returncode, errors) == (0, "")
    assert json.loads(said)["line"] == 1


@pytest.fixture(scope="session")
def slow_registry(tmp_path_factory) -> Path:
    """A store whose assistant answers every question with 2,000 tokens, and takes seconds for them."""
    folder = tmp_path_factory.mktemp("slow")
    encoding, chat = train_bpe(TEXT, 320), Chat()
    torch.manual_seed(1)
    shape = {"context_length": 4096, "n_layer": 8, "n_head": 4, "n_embd": 256}
    model = Assistant(GPTConfig(**shape, vocabulary_size=encoding.n_vocab), chat)
    with torch.no_grad():
        for token in turn_ends(encoding, chat):  # its logit is 0, and another's is above
            model.embedding.token.weight[token] = 0
    (folder / "assistant").mkdir()
    save_model(folder / "assistant", model, encoding, "assistant")
    with tracked(folder):
        register(folder / "assistant", "assistant", "champion")
    return folder


def read_until(read, ending: str) -> str:
    """What comes up to an ending."""
    found = ""
    while not found.endswith(ending):
        piece = read(1)
        assert piece, f"it ended before {ending!r}: {found!r}"
        found += piece
    return found


def test_ctrl_c_ends_an_answer_with_130_and_nothing_but_a_line(tmp_path, slow_registry):
    chat = shell(f"exec {sys.executable} -m app.command chat hello --max-tokens {LONG}", tmp_path, slow_registry)
    assert chat.stdout.read(1)
    chat.send_signal(signal.SIGINT)
    _, errors = chat.communicate()
    assert (chat.returncode, errors) == (130, "interrupted\n")


@pytest.fixture
def terminal(tmp_path, slow_registry) -> Iterator[tuple[subprocess.Popen, object, object]]:
    """A talk on a terminal: its process, what reads from it and what types."""
    ours, theirs = pty.openpty()
    line = f"exec {sys.executable} -m app.command chat --max-tokens {LONG}"
    ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    chat = shell(line, tmp_path, slow_registry, **ends)
    os.close(theirs)

    def read(count: int) -> str:
        try:
            return os.read(ours, count).decode(errors="replace")
        except OSError:  # nobody has the other end any more
            return ""

    yield chat, read, lambda text: os.write(ours, text.encode())
    chat.kill()
    chat.wait()
    os.close(ours)


def test_on_a_terminal_ctrl_c_stops_the_answer_and_an_empty_line_the_talk(terminal):
    chat, read, type_ = terminal
    assert "threestage-assistant/1; an empty line ends" in read_until(read, "> ")
    for _ in range(2):
        type_("hello\n")
        read_until(read, "hello\r\n")
        assert read(1)  # the answer has begun
        chat.send_signal(signal.SIGINT)
        assert read_until(read, "> ").endswith(" [stopped]\r\n> ")
    type_("\n")
    rest = ""
    while piece := read(100):
        rest += piece
    assert chat.wait() == 0
    assert "error" not in rest


# ---- serve


def test_the_server_answers_who_has_a_key_until_it_is_told_to_end(tmp_path, registry):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, key = f"http://127.0.0.1:{port}", {"Authorization": "Bearer two"}
    line = f"THREESTAGE_API_KEYS='one, two' exec {sys.executable} -m app.command serve --no-page --port {port}"
    server = shell(line, tmp_path, registry)
    try:
        wait_until(lambda: is_ready(address), 300)
        assert httpx.get(f"{address}/v1/models", timeout=60).status_code == 401
        found = httpx.get(f"{address}/v1/models", headers=key, timeout=60).json()["data"]
        assert "assistant@champion" in [each["id"] for each in found]
        second = shell(f"threestage serve --no-page --port {port}", tmp_path, registry)
        assert second.communicate()[1].startswith(f"error: 127.0.0.1:{port}: Address already in use")
        assert second.returncode == 1
    finally:
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate()
    assert server.returncode == 130, errors
    assert errors.endswith("interrupted\n")
    assert "threestage-assistant/1 is loaded" in errors
    assert "terminate called" not in errors


def is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz", timeout=60).status_code == 200
    except httpx.TransportError:
        return False
