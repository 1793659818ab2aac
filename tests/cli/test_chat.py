"""Talks with the assistant, through a pipe and on a terminal."""

import io
import os
import pty
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from threading import Thread

import pytest

from cli.chat import Assistant
from cli.main import cli
from cli.shared import loaded_version
from llm.chat import Message
from llm.generation.sampling import Sampling
from llm.objectives import CHAT
from tests.app.conftest import error_of, rows_of, tracked, wait_until
from tests.app.steps import Steps, stepwise

pytestmark = pytest.mark.slow

HANGS = 600  # seconds


def test_question_is_answered_by_the_named_version_and_repeats_with_its_seed(threestage):
    result = threestage(*["chat", "hello", "there", "--max-tokens=9"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(result.stdout.strip()) > 5
    words = ["chat", "hello there", "--json", "--max-tokens", "9"]
    (champion,) = rows_of(threestage(*words).stdout)
    assert champion["answer"] == result.stdout.strip()
    assert (champion["model"], champion["finish"]) == ("threestage-assistant/1", "length")
    (challenger,) = rows_of(threestage(*words, "--model", "assistant@challenger").stdout)
    assert challenger["model"] == "threestage-assistant/2"
    drawn = [threestage("chat", "hello", *["--temperature=2", f"--seed={seed}"]).stdout for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_lines_of_a_pipe_are_questions_of_their_own(threestage):
    lines = f"hello\n\n how are you ?\n{'cat ' * 900}\nhello\n"
    result = threestage("chat", "--json", "--max-tokens=9", stdin=lines)
    first, second, long, again = rows_of(result.stdout)
    assert (first["question"], second["question"]) == ("hello", "how are you ?")
    assert first == again, "no answer depends on the ones before"
    assert first["answer"] != second["answer"]
    assert "the context of 512" in long["error"]
    assert error_of(result, 3) == f"error: {long['error']}"
    assert error_of(threestage("chat", stdin=b"hello \xff\n")).startswith("error: stdin, line 1: no UTF-8 text")


def test_conversation_that_is_too_long_loses_its_first_turns_but_not_the_system_prompt(registry):
    system = Message("system", "hello")
    turns = [Message(role, f"{number} the cat sat") for number in range(60) for role in ("user", "assistant")]
    with tracked(registry), loaded_version("assistant", CHAT) as loaded:
        for times in (1, 20):  # too many tokens, and too many characters to make tokens of
            talk = [system, *turns * times, Message("user", "hello")]
            assistant = Assistant(version=loaded, sampling=Sampling(), max_tokens=9, shows=False)
            assert assistant.answer(talk).finish == "length"
            assert talk[0] == system
            assert 10 < len(talk) < len(turns)
            assert talk[1:-1] == (turns * times)[-len(talk) + 2 :]
            assert talk[1].role == "user"


def test_penalty_of_a_model_holds_in_a_chat_unless_a_request_lifts_it(registry):
    with tracked(registry), loaded_version("assistant", CHAT) as loaded:

        def say(sampling: Sampling) -> str:
            assistant = Assistant(version=loaded, sampling=sampling, max_tokens=60, shows=False)
            return assistant.answer([Message("user", "hello")]).text

        free = say(Sampling())
        loaded.model.chat = loaded.model.chat.model_copy(update={"text_penalty": 2.0})
        assert say(Sampling()) == say(Sampling(text_penalty=2.0)) != free
        assert say(Sampling(text_penalty=1.0)) == free


@contextmanager
def a_person(registry: Path, acts: Callable[[Steps, io.StringIO], None]) -> Iterator[io.StringIO]:
    """Somebody who acts on what is printed while the command runs in this thread, over the shared registry."""
    printed = io.StringIO()
    with tracked(registry), stepwise() as steps, redirect_stdout(printed):

        def act() -> None:
            try:
                acts(steps, printed)
            finally:
                steps.open()

        person = Thread(target=act)
        person.start()
        try:
            yield printed
        finally:
            person.join()


def test_ctrl_c_ends_a_single_answer_with_130_and_one_line(registry, capsys):
    def interrupts(steps: Steps, printed: io.StringIO) -> None:
        def has_printed() -> bool:
            steps.let(1)  # a model makes steps while it is loaded, too
            return bool(printed.getvalue())

        wait_until(has_printed, HANGS)
        os.kill(os.getpid(), signal.SIGINT)

    with a_person(registry, interrupts), pytest.raises(SystemExit) as end:
        cli(["chat", "hello"])
    assert (end.value.code, capsys.readouterr().err) == (130, "interrupted\n")


def test_ctrl_c_on_a_terminal_stops_the_answer_and_an_empty_line_the_conversation(registry, capsys, monkeypatch):
    keyboard, stdin = pty.openpty()
    monkeypatch.setattr(sys, "stdin", os.fdopen(stdin))
    os.write(keyboard, b"hello\nhello\n\n")

    def stops_each_answer(steps: Steps, printed: io.StringIO) -> None:
        def has_begun() -> bool:
            steps.let(1)
            return bool(printed.getvalue().split("[stopped]\n")[-1])

        def has_stopped() -> bool:
            return printed.getvalue().endswith(" [stopped]\n")

        for _ in range(2):
            wait_until(has_begun, HANGS)
            os.kill(os.getpid(), signal.SIGINT)
            wait_until(has_stopped, HANGS)

    with a_person(registry, stops_each_answer) as printed, pytest.raises(SystemExit) as end:
        cli(["chat"])
    os.close(keyboard)
    assert end.value.code == 0
    assert printed.getvalue().endswith(" [stopped]\n")
    assert capsys.readouterr().err == "threestage-assistant/1; an empty line ends\n"
