"""A conversation as a model reads it: its turns in the form of a chat template.

A chat model was trained on one form of conversation, and is at its best in that one. Published models bring theirs as a
template in Jinja, the form that transformers made common (a variable `messages`, each with `role` and `content`). A
template comes from a stranger, so it runs in Jinja's sandbox. TEMPLATE is our own, for a model that brings none.

Markers such as `<|im_start|>` are special tokens where the template writes them, and plain characters where people do:
nobody can end their turn, or begin another's, by typing a marker.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import tiktoken
from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field, field_validator

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
    text_penalty: float = Field(default=1.0, ge=0.01, le=100)
    """Words that an answer holds already grow less likely by this factor (`Sampling.text_penalty`), unless a request
    names another; 1 changes nothing."""

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
    """Whether the assistant learns to say it: its turns, each with what ends it."""


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    def refuse(reason: str) -> None:
        raise TemplateError(reason)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    return environment.from_string(template, {"raise_exception": refuse})


def _written(encoding: tiktoken.Encoding, chat: Chat, messages: Sequence[Message]) -> str:
    """A conversation as the template writes it, a mark where each turn's content goes; raises as `encode_chat`."""
    marked = [{"role": message.role, "content": _mark(number)} for number, message in enumerate(messages)]
    roles = ", ".join(message.role for message in messages)
    try:
        text = _compiled(chat.template).render(
            messages=marked,
            add_generation_prompt=False,
            bos_token=start_of_text(encoding),
            eos_token=decode(encoding, [end_of_text(encoding)]),
        )
    except (
        TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(f"the chat template can't say {roles}: {error}") from None
    if [int(number) for number in MARK.findall(text)] != list(range(len(messages))):
        raise UserError(f"the chat template does not say {roles} once each")
    return text


def _mark(number: int) -> str:
    return f"\ue000{number}\ue001"


def _is_asked_so(
    encoding: tiktoken.Encoding, chat: Chat, messages: Sequence[Message], *, number: int, text: str
) -> bool:
    """Whether the text before an answer is the one before it when it is asked for.

    Some templates write earlier turns otherwise than the last one: without the thoughts, say.
    """
    if messages[number].role != "assistant":
        return False
    if number == len(messages) - 1:
        return True
    before = text.partition(_mark(number))[0]
    return before == _written(encoding, chat, messages[: number + 1]).partition(_mark(number))[0]


def encode_chat(
    encoding: tiktoken.Encoding, chat: Chat, messages: Sequence[Message], *, to_answer: bool = False
) -> list[Part]:
    """A conversation as tokens; `to_answer` leaves it where the assistant is to speak.

    That place is where an answer would stand, and not what the template writes for `add_generation_prompt`: so what is
    asked is what was learned from, to the token. The assistant learns its turns, each up to and including the first
    special token behind it; where the template writes none behind the last one, the token that ends a text comes there.
    An earlier turn that the template writes as it would never be asked for is not learned.

    The default system prompt comes first where `messages` begin with none. Raises UserError for a template that can't
    say these turns, or leaves one out.
    """
    if chat.system and not (messages and messages[0].role == "system"):
        messages = [Message("system", chat.system), *messages]
    if to_answer:
        messages = [*messages, Message("assistant", "")]
    text = _written(encoding, chat, messages)
    pieces = MARK.split(text)  # the template's text before, between and behind the marks, and their numbers
    parts = [Part(encoding.encode(pieces[0], allowed_special="all"), False)]
    for number, (message, behind) in enumerate(zip(messages, pieces[2::2], strict=True)):
        last = number == len(messages) - 1
        if to_answer and last:
            break
        learned = not to_answer and _is_asked_so(encoding, chat, messages, number=number, text=text)
        tokens = encoding.encode(behind, allowed_special="all")
        length = _length_of_end(encoding, tokens) if learned else 0
        end = [end_of_text(encoding)] if learned and last and not length else tokens[:length]
        parts += [
            Part(encoding.encode_ordinary(message.content), learned),
            Part(end, learned),
            Part(tokens[length:], False),
        ]
    return [part for part in parts if part.tokens]


def _length_of_end(encoding: tiktoken.Encoding, tokens: Sequence[int]) -> int:
    """How many tokens behind an answer end it: up to and including the first special one, 0 without one."""
    special = set(encoding._special_tokens.values())
    for length, token in enumerate(tokens, 1):
        if token in special:
            return length
    return 0


def turn_ends(encoding: tiktoken.Encoding, chat: Chat) -> frozenset[int]:
    """Ids of the tokens at which the assistant's turn is over: those that end any text, and those of the template."""
    turns = [Message("user", ""), Message("assistant", "")]
    for messages in (turns * 2, turns):  # the last answer may end otherwise than those before; some say one alone
        try:
            parts = encode_chat(encoding, chat, messages)
        except UserError:  # raised again where a conversation is encoded
            continue
        last_tokens = {part.tokens[-1] for part in parts if part.learned}
        return stop_tokens(encoding) | (last_tokens & set(encoding._special_tokens.values()))
    return stop_tokens(encoding)


def start_of_text(encoding: tiktoken.Encoding) -> str:
    """What a template calls `bos_token`; nothing where the vocabulary begins no text."""
    for name in ("<s>", "<|begin_of_text|>", "<|im_start|>", END_OF_TEXT):
        if name in encoding._special_tokens:
            return name
    return ""


def prompt_tokens(encoding: tiktoken.Encoding, chat: Chat, messages: Sequence[Message]) -> list[int]:
    """A conversation as tokens, up to where the assistant is to speak: what stands before an answer that is learned.

    Raises UserError as `encode_chat`.
    """
    return [token for part in encode_chat(encoding, chat, messages, to_answer=True) for token in part.tokens]
