"""A conversation as a model reads it: its turns in the form of a chat template.

A chat model was trained on one form of conversation, and is at its best in that one. Published models bring theirs as a
template in Jinja, the form that transformers made common (a variable `messages`, each with `role` and `content`). A
template comes from a stranger, so it runs in Jinja's sandbox. TEMPLATE is our own, for a model that brings none.

Markers such as `<|im_start|>` are special tokens where the template writes them, and plain characters where people do:
nobody can end their turn, or begin another's, by typing a marker.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import tiktoken
from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import field_validator

from llm.config import Config
from llm.errors import UserError
from llm.tokenizer import END_OF_TEXT, decode, end_of_text, stop_tokens

TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{ message.content + '\n\n' }}
{%- elif message.role == 'user' -%}
{{ '### Instruction:\n' + message.content + '\n\n' }}
{%- else -%}
{{ '### Response:\n' + message.content + eos_token + '\n\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '### Response:\n' }}
{%- endif -%}
"""
"""The form of the book (Raschka 2024, chapter 7, after Alpaca's), for several turns."""
LONGEST = 20_000  # characters of a template
MARK = re.compile("\ue000(\\d+)\ue001")  # stands for a turn's content while the template is filled in


class Message(NamedTuple):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: str


class Chat(Config):
    """The form in which people talk to a model."""

    template: str = TEMPLATE
    """A chat template in Jinja."""
    system: str = ""
    """What a conversation begins with, unless it brings a system prompt of its own."""

    @field_validator("template")
    @classmethod
    def _is_a_template(cls, template: str) -> str:
        if len(template) > LONGEST:
            raise ValueError(f"a template of {len(template)} characters; at most {LONGEST} are read")
        try:
            _compiled(template)
        except TemplateError as error:
            raise ValueError(f"no Jinja template: {error}") from None
        return template


class Part(NamedTuple):
    """A piece of a conversation as tokens."""

    tokens: list[int]
    learned: bool
    """Whether the assistant says it: its turns, each with the token that ends it."""


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    def refuse(reason: str) -> None:
        raise TemplateError(reason)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(template)


def _pieces(text: str) -> Iterator[tuple[str, int | None]]:
    """What the template wrote, and in between the numbers of the messages that go there."""
    parts = MARK.split(text)
    for place, part in enumerate(parts):
        if place % 2:
            yield "", int(part)
        elif part:
            yield part, None


def encode_chat(
    encoding: tiktoken.Encoding, chat: Chat, messages: Sequence[Message], *, to_answer: bool = False
) -> list[Part]:
    """A conversation as tokens; `to_answer` leaves it where the assistant is to speak.

    The default system prompt comes first where `messages` begin with none. Raises UserError for a template that can't
    say these turns, or leaves one out.
    """
    if chat.system and not (messages and messages[0].role == "system"):
        messages = [Message("system", chat.system), *messages]
    marked = [{"role": each.role, "content": f"\ue000{number}\ue001"} for number, each in enumerate(messages)]
    end = decode(encoding, [end_of_text(encoding)])
    special = {"bos_token": start_of_text(encoding), "eos_token": end}
    try:
        text = _compiled(chat.template).render(messages=marked, add_generation_prompt=to_answer, **special)
    except (TemplateError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"the chat template can't say {', '.join(each.role for each in messages)}: {error}") from None
    if [number for _, number in _pieces(text) if number is not None] != list(range(len(messages))):
        raise UserError(f"the chat template does not say {', '.join(each.role for each in messages)} once each")
    parts: list[Part] = []
    answered = False
    for written, number in _pieces(text):
        if number is not None:
            answered = messages[number].role == "assistant"
            parts.append(Part(encoding.encode_ordinary(messages[number].content), answered))
            continue
        tokens = encoding.encode(written, allowed_special="all")
        if answered and tokens and tokens[0] in stop_tokens(encoding):  # how the model learns to stop
            parts.append(Part(tokens[:1], True))
            tokens = tokens[1:]
        parts.append(Part(tokens, False))
        answered = False
    return parts


def start_of_text(encoding: tiktoken.Encoding) -> str:
    """What a template calls `bos_token`; nothing where the vocabulary begins no text."""
    known = ("<s>", "<|begin_of_text|>", "<|im_start|>", END_OF_TEXT)
    return next((name for name in known if name in encoding._special_tokens), "")


def prompt_tokens(encoding: tiktoken.Encoding, chat: Chat, messages: Sequence[Message]) -> list[int]:
    """A conversation as tokens, up to where the assistant is to speak. Raises UserError as `encode_chat`."""
    return [token for part in encode_chat(encoding, chat, messages, to_answer=True) for token in part.tokens]
