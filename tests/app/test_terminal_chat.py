"""Talks with the assistant, through a pipe and on a terminal."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_models import TEXT

from app.command import _loaded
from app.terminal_chat import answer
from llm.chat import Chat, Message, turn_ends
from llm.config import GPTConfig
from llm.formats.model_folder import save_model
from llm.generation.sampling import Sampling
from llm.objectives.assistant import Assistant
from llm.tokenizer import train_bpe
from tests.app.conftest import error_of, register, rows_of, shell, tracked

pytestmark = pytest.mark.slow

LONG = 2000  # tokens, of a model that takes its time


# ---- questions and their answers


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
    assert said == "error: foundation/1 can't chat; models that can: assistant"


def test_a_seed_makes_a_draw_the_same(threestage):
    said = [
        threestage("chat", "hello", "--temperature", "2", "--seed", seed, "--max-tokens", "20").stdout
        for seed in ("1", "1", "2")
    ]
    assert said[0] == said[1] != said[2]


def test_a_pipe_that_is_no_text_is_said(threestage):
    assert error_of(threestage("chat", stdin=b"hello \xff\n")).startswith("error: stdin, line 1: no UTF-8 text")


# ---- signals, a terminal


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
    _, errors = chat.communicate(timeout=120)
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
