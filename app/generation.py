"""Text from a version for one client: its prompt as tokens, its choices as pieces of text while they are made."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Literal, NamedTuple

import tiktoken

from app.async_engine import Stream
from app.errors import RequestError, Timeout
from app.versions import Loaded
from llm.chat import Message, prompt_tokens, turn_ends
from llm.errors import UserError
from llm.generation.engine import Logprobs, Request
from llm.generation.sampling import Sampling
from llm.generation.text import TextStream
from llm.objectives.assistant import Assistant
from llm.tokenizer import stop_tokens

NEW_TOKENS = 512
"""Tokens of an answer where nobody says how many, and the context has room for them."""


class GeneratedToken(NamedTuple):
    """A token and its log-probabilities."""

    token: int
    logprobs: Logprobs


class Piece(NamedTuple):
    """What came to a choice: text that is certain, or its end."""

    choice: int
    text: str
    tokens: list[GeneratedToken]
    """The tokens since the last piece, where they were asked for."""
    finish: Literal["stop", "length"] | None = None


def chat_prompt(loaded: Loaded, messages: Sequence[Message]) -> list[int]:
    """A conversation as tokens, in the model's own template. Raises RequestError for a model that knows no turns."""
    if not isinstance(loaded.model, Assistant):
        other = "/v1/completions" if loaded.engine else "/classify"
        raise RequestError(f"{loaded.named} is no chat model; ask {other}", "model", "not_a_chat_model")
    check_size(loaded, sum(len(each.content) for each in messages), "messages")
    if not messages or messages[-1].role != "user":
        raise RequestError("the last message is not the user's", "messages")
    if not messages[-1].content.strip():
        raise RequestError("the last message has no text", "messages")
    try:
        return prompt_tokens(loaded.encoding, loaded.model.chat, messages)
    except UserError as error:
        raise RequestError(str(error), "messages") from None


def check_size(loaded: Loaded, size: int, param: str) -> None:
    """Raise RequestError for a text of more characters than tokens that fill the context can have.

    Tokens of a text of millions take seconds to make.
    """
    if loaded.engine is None or size <= loaded.engine.context_length:
        return
    most = loaded.engine.context_length * max(map(len, loaded.encoding.token_byte_values()))
    if size > most:
        reason = f"the prompt has {size} characters, and the context of {loaded.engine.context_length} tokens has room"
        raise RequestError(f"{reason} for {most} at most", param, "context_length_exceeded")


def ends(loaded: Loaded, *, chat: bool) -> frozenset[int]:
    """The tokens that end an answer."""
    return turn_ends(loaded.encoding, loaded.model.chat) if chat else stop_tokens(loaded.encoding)


class Generation:
    """The choices of one client's request while they are written: iterate for pieces, `close` where nobody reads on."""

    def __init__(
        self,
        loaded: Loaded,
        prompts: Sequence[list[int]],
        *,
        sampling: Sampling,
        stop_tokens: frozenset[int],
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        n: int = 1,
        logprobs: int | None = None,
        seconds: float = 300,
        param: str = "messages",
        network: str | None = None,
    ) -> None:
        """Begin; raises RequestError for a prompt that doesn't fit or a model that writes no text, and Busy.

        `seconds` are left for it all; `param` is what the request calls its prompts, `network` where it comes from.
        """
        if loaded.engine is None:
            raise RequestError(f"{loaded.named} writes no text; ask /classify", "model", "not_a_language_model")
        context, longest = loaded.engine.context_length, max(map(len, prompts), default=0)
        new = max_new_tokens if max_new_tokens is not None else max(1, min(NEW_TOKENS, context - longest))
        if longest + new > context:
            raise RequestError(
                f"the prompt has {longest} tokens; with {new} new ones it does not fit the context of {context}",
                param,
                "context_length_exceeded",
            )
        requests = [
            Request(prompt, new, _draw(sampling, number), stop_tokens, logprobs)
            for prompt in prompts
            for number in range(n)
        ]
        self.encoding: tiktoken.Encoding = loaded.encoding
        self.prompt_tokens, self.completion_tokens = sum(map(len, prompts)), 0
        self._texts = [TextStream(loaded.encoding, stop) for _ in requests]
        self._tokens: list[list[GeneratedToken]] = [[] for _ in requests]
        self._deadline = time.monotonic() + seconds
        try:
            self._stream: Stream = loaded.engine.submit(requests, network)
        except RequestError:
            raise
        except UserError as error:
            raise RequestError(str(error)) from None

    async def __aiter__(self) -> AsyncIterator[Piece]:
        try:
            while True:
                left = self._deadline - time.monotonic()
                try:
                    async with asyncio.timeout(left):
                        choice, event = await anext(self._stream)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    left = 0
                if left <= 0:  # also where all is there already, as the client reads slowly
                    raise Timeout("the answer took longer than it may")
                text = self._texts[choice]
                if text.stopped:
                    continue
                said = ""
                if event.token is not None:
                    self.completion_tokens += 1
                    if event.logprobs:
                        self._tokens[choice].append(GeneratedToken(event.token, event.logprobs))
                    said = text.feed(event.token)
                if text.stopped:
                    self._stream.stop(choice)
                finish = "stop" if text.stopped else event.ended
                if event.ended and not text.stopped:
                    said += text.finish()
                if said or finish or self._tokens[choice]:
                    tokens, self._tokens[choice] = self._tokens[choice], []
                    yield Piece(choice, said, tokens, finish)
        finally:
            self.close()

    def close(self) -> None:
        """Nobody reads on: give the places back."""
        self._stream.close()


def _draw(sampling: Sampling, number: int) -> Sampling:
    """Choices of one request differ, also where it has a seed."""
    return sampling if sampling.seed is None else sampling.model_copy(update={"seed": (sampling.seed + number) % 2**63})


class Choice(NamedTuple):
    """A choice that is done."""

    text: str
    tokens: list[GeneratedToken]
    finish: str


async def whole(generation: Generation) -> list[Choice]:
    """All choices, when the last is done."""
    pieces: dict[int, list[Piece]] = {}
    async for piece in generation:
        pieces.setdefault(piece.choice, []).append(piece)
    return [
        Choice(
            "".join(each.text for each in found), [token for each in found for token in each.tokens], found[-1].finish
        )
        for _, found in sorted(pieces.items())
    ]
