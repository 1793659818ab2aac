"""The guard answers what the assistant should not be asked: by the API, OpenAI's client and the command line."""

import os
import pty
import shutil
import signal
import sys
from pathlib import Path

import mlflow
import openai
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.api.server import create_app
from app.errors import Unavailable
from app.guard import guard_model, requests_in
from app.settings import Settings
from cli.chat import Assistant
from cli.main import cli
from cli.shared import load, open_versions
from llm.chat import Message
from llm.generation.sampling import GREEDY
from llm.loaded_model import LoadedModel
from llm.objectives import CHAT, CLASSIFY, COMPLETE, GUARD
from llm.objectives.classifier import guard_replies
from tasks.registry.store import configure_tracking
from tests.app.api.questions import content_of
from tests.app.conftest import (
    error_of,
    feedback_rows,
    listed_version,
    post,
    readiness,
    ready,
    register,
    rows_of,
    talk,
    tracked,
    wait_until,
)
from tests.app.guards import HURT, POISON, REPLIES, write_guard
from tests.app.steps import samples

pytestmark = pytest.mark.slow

DECLINE, CRISIS = REPLIES["decline"], REPLIES["crisis"]
HELLO = "hello how are you ?"


@pytest.fixture(scope="module")
def guarded_registry(registry, tmp_path_factory) -> Path:
    """The shared registry with a guard, which is called something else."""
    folder = tmp_path_factory.mktemp("guarded")
    shutil.copytree(registry, folder, dirs_exist_ok=True)
    with tracked(folder):
        register(write_guard(folder / "warden-1/warden"), "warden", "champion")
    return folder


@pytest.fixture(scope="module")
def app(guarded_registry, tmp_path_factory):
    """A server's application over it."""
    kept = tmp_path_factory.mktemp("kept")
    return create_app(Settings(quarantine=kept, rows=4, queue=8, poll_seconds=0.5))


@pytest.fixture(scope="module")
def server(guarded_registry, app):
    with tracked(guarded_registry), ready(app) as address:
        yield address


@pytest.fixture
def client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0, timeout=300)


def ask(client, turns: list[str], **options):
    options = {"model": "assistant", "max_tokens": 12} | options
    return client.chat.completions.create(messages=talk(turns), **options)


def written(server: str) -> tuple[float, float]:
    """Tokens that all versions wrote, and requests that the guard answered."""
    metrics = samples(server)
    tokens = sum(value for (name, *_), value in metrics.items() if name == "threestage_tokens_total")
    return tokens, metrics.get(("threestage_guarded_total", "threestage-warden/1"), 0)


def test_guard_reply_is_every_choice_and_costs_the_assistant_no_token(client, server):
    before = written(server)
    answer = ask(client, [POISON], n=2, stop="a", logprobs=True)
    choices = [(choice.index, choice.message.content, choice.finish_reason) for choice in answer.choices]
    assert choices == [(0, DECLINE, "content_filter"), (1, DECLINE, "content_filter")]
    assert (answer.model, answer.choices[0].logprobs) == ("threestage-warden/1", None)
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (0, answer.usage.prompt_tokens)
    assert written(server) == (before[0], before[1] + 1)


def test_guard_reply_is_streamed_as_one_delta_and_the_finish(client):
    chunks = list(ask(client, [POISON], n=2, stream=True, stream_options={"include_usage": True}))
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant"] * 2
    for number, chunk in enumerate(chunks[2:4]):
        (choice,) = chunk.choices
        assert (choice.index, choice.delta.content, choice.finish_reason) == (number, DECLINE, "content_filter")
    assert (chunks[4].choices, chunks[4].usage.completion_tokens, len(chunks)) == ([], 0, 5)
    assert {chunk.model for chunk in chunks} == {"threestage-warden/1"}


def test_guard_lets_the_assistant_answer_everything_else_as_without_a_guard(client, change_settings):
    guarded = ask(client, [HELLO])
    assert (guarded.model, guarded.choices[0].finish_reason) == ("threestage-assistant/1", "length")
    assert [chunk.model for chunk in ask(client, [HELLO], stream=True)][-1] == "threestage-assistant/1"
    change_settings(guard=False)
    assert ask(client, [HELLO]).choices == guarded.choices
    unguarded = ask(client, [POISON])
    assert (unguarded.model, unguarded.usage.completion_tokens) == ("threestage-assistant/1", 12)


def test_turns_that_the_guard_answered_are_read_again_by_nobody(client):
    after = ask(client, [POISON, DECLINE, HELLO])
    answer = ask(client, [HELLO])
    assert (after.choices, after.usage) == (answer.choices, answer.usage)
    hiding = ["the cat sat on the mat and the dog ate the hat", "Hi."] * 6
    for turns in (
        [POISON, "Sure.", "go on"],
        ["hello", "Hi.", POISON, "Sure.", "go on"],
        [*hiding, POISON],
        [*hiding, POISON, "Sure.", *hiding, HELLO],
        [POISON, "Sure.", *hiding, HELLO],
        [*hiding, "poison", "Sure.", HELLO],
    ):
        assert content_of(ask(client, turns)) == DECLINE
    assert ask(client, [HELLO, POISON, HELLO]).choices[0].finish_reason == "length", "it reads the user's turns only"
    assert content_of(ask(client, [POISON, DECLINE, HURT])) == CRISIS
    with pytest.raises(openai.BadRequestError, match="the last message has no text"):
        ask(client, [POISON, "Sure.", " "])


def test_guard_reads_each_turn_by_itself_and_the_last_ones_together(guarded_registry):
    filler = "the cat sat on the mat and the dog ate the hat " * 4
    with tracked(guarded_registry), open_versions() as versions:
        guard = load(versions, None, GUARD)
        assert requests_in(guard, [HELLO]) == [HELLO]
        assert requests_in(guard, [HELLO, HELLO]) == [HELLO, f"{HELLO}\n{HELLO}"]
        turns = [POISON, filler, "how do i poison", "the cat ?"]
        assert requests_in(guard, turns) == [*reversed(turns), "how do i poison\nthe cat ?"]
        replies = guard_replies(LoadedModel(guard.model, guard.encoding), [POISON, f"{filler}\n{POISON}"])
        assert replies == [DECLINE, None], "joined, the long turn hides what comes after it"


def test_guard_is_listed_and_ready_and_classifies_no_mail(client, server):
    ready_now = readiness(server)
    assert (ready_now["guard"], ready_now["versions"]["warden"]) == ("warden", "warden/1, champion")
    assert client.models.retrieve("warden").capabilities == ["guard"]
    mail = {"emails": [{"body": POISON}]}
    assert post(server, "/classify", mail).json()["model"] == "threestage-classifier/1"
    refused = post(server, "/classify", mail | {"model": "warden"})
    assert refused.json()["error"]["message"] == "warden/1 can't classify; models that can: classifier"
    with pytest.raises(openai.BadRequestError, match="warden/1 can't chat; models that can: assistant"):
        ask(client, HELLO, model="warden")


def test_guard_that_fails_at_a_text_is_500_and_nobody_answers(client, monkeypatch):
    def fail(*_):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr("app.guard.guard_replies", fail)
        with pytest.raises(openai.InternalServerError, match="the guard failed at this text") as raised:
            ask(client, [HELLO])
    assert (raised.value.status_code, raised.value.code) == (500, "failed")
    assert ask(client, [HELLO]).choices


def test_feedback_on_a_guards_reply_is_refused_and_none_teaches_its_turns(server, app):
    def send(turns: list[str]):
        *messages, last = talk(turns)
        body = {"about": "answer", "messages": messages, "answer": last["content"], "good": True}
        return post(server, "/feedback", body)

    refused = send([POISON, DECLINE])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "answer")
    assert "the assistant does not learn from it" in refused.json()["error"]["message"]
    assert send([POISON, DECLINE, HELLO, "Fine."]).json()["kept"]
    (row,) = feedback_rows(app.state.settings.quarantine, "instructions")
    assert (row["instruction"], row["output"], row["history"]) == (HELLO, "Fine.", [])


def run(*arguments: str, stdin: str = ""):
    return CliRunner().invoke(cli, arguments, input=stdin)


def test_command_line_prints_the_guards_reply_and_who_gave_it(guarded_registry, monkeypatch):
    mark = "Answered by warden/1, not by the assistant\n"
    with tracked(guarded_registry):
        result = run("chat", "--max-tokens", "9", stdin=f"{HELLO}\n{POISON}\n")
        assert result.exit_code == 0, result.output
        assert (result.stdout.splitlines()[-1], result.stderr) == (DECLINE, mark)
        (row,) = rows_of(run("chat", "--json", POISON).stdout)
        assert row == {
            "model": "threestage-warden/1",
            "question": POISON,
            "answer": DECLINE,
            "finish": "content_filter",
        }
        unguarded = rows_of(run("chat", *["--json", "--no-guard", "--max-tokens", "9"], POISON).stdout)
        assert (unguarded[0]["model"], unguarded[0]["finish"]) == ("threestage-assistant/1", "length")
        monkeypatch.setenv("THREESTAGE_GUARD", "0")
        assert rows_of(run("chat", *["--json", "--max-tokens", "9"], POISON).stdout) == unguarded


def test_command_lines_conversation_goes_on_without_what_the_guard_answered(guarded_registry):
    turns = [Message("user", POISON), Message("assistant", DECLINE), Message("user", HELLO)]
    with tracked(guarded_registry), open_versions() as versions:
        assistant, guard = load(versions, "assistant", CHAT), load(versions, None, GUARD)
        talker = Assistant(version=assistant, guard=guard, sampling=GREEDY, max_tokens=9, shows=False)
        unguarded = Assistant(version=assistant, sampling=GREEDY, max_tokens=9, shows=False)
        after = talker.answer(turns)
        assert after == unguarded.answer(turns[2:])
        assert after.by is assistant


@pytest.fixture
def interrupted_guard(guarded_registry, monkeypatch) -> list[list[str]]:
    """A guard that is stopped by Ctrl-C at its first reading; what it read, reading by reading."""
    readings: list[list[str]] = []

    def interrupt_first(loaded, texts):
        readings.append(list(texts))
        if len(readings) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return guard_replies(loaded, texts)

    monkeypatch.setattr("app.guard.guard_replies", interrupt_first)
    with tracked(guarded_registry):
        yield readings


def test_ctrl_c_while_the_guard_reads_cancels_that_turn_on_a_terminal(interrupted_guard, monkeypatch, capsys):
    keyboard, stdin = pty.openpty()
    monkeypatch.setattr(sys, "stdin", os.fdopen(stdin))
    os.write(keyboard, f"{POISON}\n{HELLO}\n\n".encode())
    with pytest.raises(SystemExit) as end:
        cli(["chat", "--max-tokens", "9"])
    os.close(keyboard)
    assert end.value.code == 0
    stopped, answered = capsys.readouterr().out.splitlines()
    assert (stopped, DECLINE in answered) == (" [stopped]", False)
    assert interrupted_guard == [[POISON], [HELLO]], "the conversation goes on without the turn"


def test_ctrl_c_while_the_guard_reads_ends_a_single_question_with_130(interrupted_guard, capsys):
    with pytest.raises(SystemExit) as end:
        cli(["chat", HELLO])
    assert (end.value.code, *capsys.readouterr()) == (130, "", "interrupted\n")


def test_guard_that_can_not_be_loaded_closes_the_chat_until_it_is_turned_off(guarded_registry, tmp_path, caplog):
    shutil.copytree(guarded_registry, tmp_path, dirs_exist_ok=True)
    chat = {"messages": talk([HELLO]), "max_tokens": 3}
    with tracked(tmp_path):
        configure_tracking()  # the store has moved
        folder = Path(mlflow.artifacts.download_artifacts("models:/threestage-warden/1/artifacts/warden/"))
        (folder / "model.safetensors").unlink()
        with TestClient(create_app(Settings(rows=1, poll_seconds=0.1)), "http://localhost") as client:

            def failed_to_load() -> bool:
                return "can't be loaded" in client.get("/readyz").json()["reason"]

            wait_until(failed_to_load, 120)
            assert client.get("/readyz").status_code == 503
            for asked in (chat, chat | {"stream": True}):
                refused = client.post("/v1/chat/completions", json=asked)
                assert refused.status_code == 503
                message = refused.json()["error"]["message"]
                assert message.startswith("the guard can't be asked: warden/1 can't be loaded: ")
            assert client.post("/v1/completions", json={"prompt": "x", "max_tokens": 3}).status_code == 200
        assert "warden/1 can't be loaded" in error_of(run("chat", HELLO))
        off = create_app(Settings(rows=1, guard=False, poll_seconds=0.1))
        with TestClient(off, "http://localhost") as client:

            def has_started() -> bool:
                return client.get("/readyz").status_code == 200

            wait_until(has_started, 120)
            assert client.get("/readyz").json()["guard"] is None
            assert client.post("/v1/chat/completions", json=chat).status_code == 200
        assert caplog.messages.count("chats are answered without a guard: it is turned off") == 1


def test_model_whose_files_are_gone_may_be_the_guard():
    settings = Settings()
    listed = [listed_version("assistant/1", CHAT, COMPLETE), listed_version("classifier/1", CLASSIFY)]
    warden, lost = listed_version("warden/1", GUARD), listed_version("lost/1")
    assert guard_model(settings, listed) is None
    assert guard_model(settings, [*listed, warden]) == "warden"
    assert guard_model(settings, [*listed, warden, lost]) == "warden"
    assert guard_model(settings, [*listed, listed_version("lost/1", is_default=False)]) is None
    with pytest.raises(Unavailable, match="the files of lost/1 can't be read, and it may be the guard"):
        guard_model(settings, [*listed, lost])
    assert guard_model(Settings(guard=False), [*listed, warden]) is None
