"""A Modelfile: how Ollama runs a GGUF file, with our form of a conversation as a template of Go's.

Ollama does not read the chat template in the file. Its template is derived from ours here: a model's turns are written
with marks in place of what people say, and the text between the marks becomes string literals.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import tiktoken

from llm.chat import Chat, Message, end_of_turn, prompt_tokens, text_around
from llm.errors import UserError
from llm.tokenizer import decode

QUOTES = '"""'
SYSTEM, USER, ASSISTANT = Message("system", "A"), Message("user", "B"), Message("assistant", "C")


@dataclass(frozen=True)
class TurnForm:
    """The text that a template writes before and behind what one role says."""

    before: str
    behind: str

    def write(self, content: str) -> str:
        """A turn."""
        return f"{self.before}{content}{self.behind}"


def modelfile(file: str, encoding: tiktoken.Encoding, chat: Chat, *, context_length: int, licence: str) -> str:
    """The Modelfile of a GGUF file beside it, with greedy answers.

    Raises UserError for a chat template that can't be written turn by turn.
    """
    forms = turn_forms(encoding, chat)
    lines = [f"FROM ./{file}", f"TEMPLATE {_quoted(go_template(forms))}"]
    system = chat.system or _default_system(encoding, chat, forms)
    if system:
        lines.append(f"SYSTEM {_quoted(system)}")
    lines += [
        f"PARAMETER stop {_quoted(decode(encoding, [end_of_turn(encoding, chat)]))}",
        "PARAMETER temperature 0",
        f"PARAMETER num_ctx {context_length}",
        f"LICENSE {_quoted(licence)}",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    if QUOTES in text:
        raise UserError(f"a Modelfile can't hold a text with {QUOTES}: {text!r}")
    return f"{QUOTES}{text}{QUOTES}"


def _go_string(text: str) -> str:
    """A string literal of Go's, in ASCII: Ollama drops raw characters that can't be printed, such as U+200D."""
    literal = json.dumps(text, ensure_ascii=False)
    return re.sub(r"[^ -~]", lambda character: f"\\U{ord(character[0]):08x}", literal)


def go_template(forms: Mapping[str, TurnForm]) -> str:
    """A conversation up to where the assistant is to speak, in Go's text/template over Ollama's `.Messages`."""
    branches = []
    for role, form in forms.items():
        before, behind = _go_string(form.before), _go_string(form.behind)
        branches.append(f'if eq .Role "{role}" }}}}{{{{ {before} }}}}{{{{ .Content }}}}{{{{ {behind} }}}}')
    turn = "{{ " + "{{ else ".join(branches) + "{{ end }}"
    answer = _go_string(forms["assistant"].before)
    return "{{ range .Messages }}" + turn + "{{ end }}{{ " + answer + " }}"


def turn_forms(encoding: tiktoken.Encoding, chat: Chat) -> dict[str, TurnForm]:
    """The form of each role's turns; without the system's where the template has none.

    Raises UserError where turns in these forms are not what the template writes.
    """
    form_of = Chat(template=chat.template)  # its system prompt is written by itself
    opening = [SYSTEM]
    try:
        text_around(encoding, form_of, [SYSTEM, USER])
    except UserError:
        opening.clear()
    conversation = [*opening, USER, ASSISTANT, USER, ASSISTANT]
    texts = text_around(encoding, form_of, conversation)
    answer_behind = texts[-1]
    user_before = texts[-3].removeprefix(answer_behind)
    user_behind = text_around(encoding, form_of, [*opening, USER])[-1]
    forms = {
        "user": TurnForm(user_before, user_behind),
        "assistant": TurnForm(texts[-2].removeprefix(user_behind), answer_behind),
    }
    if opening:
        forms = {"system": TurnForm(texts[0], texts[1].removesuffix(user_before))} | forms
    for length in range(len(opening) + 1, len(conversation) + 1, 2):
        messages = conversation[:length]
        written = [forms[message.role].write(message.content) for message in messages]
        expected = prompt_tokens(encoding, form_of, messages)
        if "".join(written) + forms["assistant"].before != decode(encoding, expected):
            raise UserError(f"this chat template can't be written turn by turn, as Ollama does: {chat.template!r}")
    return forms


def _default_system(encoding: tiktoken.Encoding, chat: Chat, forms: Mapping[str, TurnForm]) -> str:
    """The system prompt that a template writes by itself where a conversation has none."""
    opening = text_around(encoding, chat, [USER])[0].removesuffix(forms["user"].before)
    if not opening:
        return ""
    if "system" not in forms:
        raise UserError(f"the chat template begins a conversation with {opening!r}, but has no system turn")
    return opening.removeprefix(forms["system"].before).removesuffix(forms["system"].behind)
