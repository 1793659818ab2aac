"""Text for one client: the prompt as tokens, and the choices as pieces of text while they are generated."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from app.async_engine import Stream
from app.errors import RequestError, Timeout
from app.versions import LoadedVersion
from llm.chat import Message, prompt_tokens, turn_ends
from llm.errors import UserError
from llm.generation.request import Event, Logprobs, Request
from llm.generation.sampling import Constraint, Sampling
from llm.generation.text import TextStream
from llm.tokenizer import decode, letterless_tokens, stop_tokens

NEW_TOKENS = 512
"""Tokens of an answer by default, if the context has room for them."""


class ScoredToken(NamedTuple):
    """A token of an answer, or of a prompt that comes with it, and its log-probabilities."""

    token: int
    logprobs: Logprobs | None
    """None for the first token of a prompt, before which there is nothing."""


class Piece(NamedTuple):
    """The next text of a choice, or its end."""

    choice: int
    text: str
    tokens: list[ScoredToken]
    """The tokens since the last piece, if log-probabilities were asked for."""
    finish: str | None = None
    """`stop`, `length`, or `content_filter` if the guard answered."""


def check_conversation(loaded: LoadedVersion, messages: Sequence[Message]) -> None:
    """Raise RequestError for a conversation without a question, and as `check_size`."""
    check_size(loaded, sum(len(message.content) for message in messages), "messages")
    if not messages or messages[-1].role != "user":
        raise RequestError("the last message is not the user's", "messages")
    if not messages[-1].content.strip():
        raise RequestError("the last message has no text", "messages")


def chat_prompt(loaded: LoadedVersion, messages: Sequence[Message]) -> list[int]:
    """A conversation as tokens, in the model's own template. Raises RequestError as `check_conversation`, and for one
    that the template can't say."""
    check_conversation(loaded, messages)
    try:
        return prompt_tokens(loaded.encoding, loaded.model.chat, messages)
    except UserError as error:
        raise RequestError(str(error), "messages") from None


def check_size(loaded: LoadedVersion, size: int, param: str) -> None:
    """Raise RequestError for a text with more characters than the context has room for: to encode it takes seconds."""
    if size <= loaded.engine.context_length:
        return
    most = loaded.engine.context_length * max(map(len, loaded.encoding.token_byte_values()))
    if size > most:
        reason = f"the prompt has {size} characters, and the context of {loaded.engine.context_length} tokens has room"
        raise RequestError(f"{reason} for {most} at most", param, "context_length_exceeded")


def ends(loaded: LoadedVersion, *, chat: bool) -> frozenset[int]:
    """The tokens that end an answer."""
    if chat:
        return turn_ends(loaded.encoding, loaded.model.chat)
    return stop_tokens(loaded.encoding)


def schema_constraint(
    loaded: LoadedVersion, schema: Mapping[str, Any] | None, stop_tokens: frozenset[int], param: str
) -> Callable[[], Constraint] | None:
    """What keeps an answer within a JSON schema; None without one. Raises RequestError for one that can't be."""
    if schema is None:
        return None
    from llm.generation.grammar import json_text

    try:
        return json_text(loaded.encoding, schema, ends=stop_tokens, rows=loaded.model.config.vocabulary_size)
    except UserError as error:
        raise RequestError(str(error), param) from None


def with_default_penalty(loaded: LoadedVersion, sampling: Sampling) -> Sampling:
    """A request's options, with the model's own penalty where the request names none."""
    chat = getattr(loaded.model, "chat", None)
    return sampling if chat is None else sampling.with_default_penalty(chat.text_penalty)


class Generation:
    """The choices of one request while they are generated: iterate for pieces, `close` if nobody reads on."""

    def __init__(
        self,
        loaded: LoadedVersion,
        prompts: Sequence[list[int]],
        *,
        sampling: Sampling,
        stop_tokens: frozenset[int],
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        n: int = 1,
        logprobs: int | None = None,
        echo: bool = False,
        constraint: Callable[[], Constraint] | None = None,
        seconds: float = 300,
        param: str = "messages",
    ) -> None:
        """Begin; raises RequestError for a prompt that doesn't fit, and as `AsyncEngine.submit`.

        With `echo` each choice begins with its prompt. `seconds` are left for all of it; `param` is the request's name
        for its prompts.
        """
        context = loaded.engine.context_length
        longest = max(map(len, prompts), default=0)
        new = max_new_tokens if max_new_tokens is not None else max(1, min(NEW_TOKENS, context - longest))
        if longest + new > context:
            raise RequestError(
                f"the prompt has {longest} tokens; with {new} new ones it does not fit the context of {context}",
                param,
                "context_length_exceeded",
            )
        sampling = with_default_penalty(loaded, sampling)
        exempt = letterless_tokens(loaded.encoding)
        requests = [
            Request(
                prompt,
                new,
                sampling=_draw(sampling, number),
                stop_tokens=stop_tokens,
                logprobs=logprobs,
                prompt_scored=len(prompt) - 1 if echo and logprobs is not None else 0,
                exempt=exempt,
                constraint=constraint,
            )
            for prompt in prompts
            for number in range(n)
        ]
        self._echoed: list[Sequence[int]] = [request.prompt for request in requests] if echo else [()] * len(requests)
        self.prompt_tokens = sum(map(len, prompts))
        self.completion_tokens = 0
        self._encoding = loaded.encoding
        self._loaded = loaded  # which ends with its last reference
        self._texts = [TextStream(loaded.encoding, stop) for _ in requests]
        self._tokens: list[list[ScoredToken]] = [[] for _ in requests]
        self._deadline = time.monotonic() + seconds
        self._stream: Stream = loaded.engine.submit(requests)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        try:
            while True:
                seconds = self._deadline - time.monotonic()
                try:
                    async with asyncio.timeout(seconds):
                        choice, event = await anext(self._stream)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    seconds = 0
                if seconds <= 0:  # also if all is there already, and the client reads slowly
                    raise Timeout("the answer took longer than it may")
                if not self._texts[choice].stopped:
                    piece = self._piece(choice, event)
                    if piece.text or piece.finish or piece.tokens:
                        yield piece
        finally:
            self.close()

    def _piece(self, choice: int, event: Event) -> Piece:
        """What an event adds to a choice."""
        text = self._texts[choice]
        new = self._echo(choice, event)
        if event.token is not None:
            self.completion_tokens += 1
            if event.logprobs:
                self._tokens[choice].append(ScoredToken(event.token, event.logprobs))
            new += text.feed(event.token)
        finish = event.ended
        if text.stopped:
            self._stream.stop(choice)
            finish = "stop"
        elif event.ended:
            new += text.finish()
        tokens = self._tokens[choice]
        self._tokens[choice] = []
        return Piece(choice, new, tokens=tokens, finish=finish)

    def _echo(self, choice: int, event: Event) -> str:
        """The text of a prompt that comes with its choice, once; its tokens are kept if they are scored."""
        prompt = self._echoed[choice]
        if not prompt:
            return ""
        self._echoed[choice] = ()
        if event.scored is not None or event.logprobs is not None:
            scores = [None, *(event.scored or ())]
            self._tokens[choice] += [ScoredToken(token, score) for token, score in zip(prompt, scores, strict=True)]
        return decode(self._encoding, prompt)

    def close(self) -> None:
        """Give the places back."""
        self._stream.close()


def _draw(sampling: Sampling, number: int) -> Sampling:
    """Choices of one request differ, also if it has a seed."""
    if sampling.seed is None:
        return sampling
    return sampling.model_copy(update={"seed": (sampling.seed + number) % 2**63})


class Reply:
    """A sentence in the place of a `Generation`: all `n` choices are the same, and no model writes a token."""

    completion_tokens = 0

    def __init__(self, text: str, n: int, prompt_tokens: int) -> None:
        self.text = text
        self.n = n
        self.prompt_tokens = prompt_tokens

    async def __aiter__(self) -> AsyncIterator[Piece]:
        for choice in range(self.n):
            yield Piece(choice, self.text, tokens=[], finish="content_filter")

    def close(self) -> None:
        """It has no places to give back."""


class Choice(NamedTuple):
    """A finished choice."""

    text: str
    tokens: list[ScoredToken]
    finish: str


async def whole(generation: Generation | Reply) -> list[Choice]:
    """All choices, once the last is finished."""
    choices: dict[int, Choice] = {}
    async for piece in generation:
        choice = choices.get(piece.choice, Choice("", [], ""))
        text = choice.text + piece.text
        choices[piece.choice] = Choice(text, choice.tokens + piece.tokens, finish=piece.finish or "")
    return [choice for _, choice in sorted(choices.items())]
