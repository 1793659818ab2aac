"""What /v1's three ways to ask share: a guarded conversation, a generation, and its answer whole or as events."""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from app.api.limits import until_gone
from app.api.schema import ChatRequest, CompletionRequest, Error
from app.generation import Choice, Generation, Piece, Reply, chat_prompt, ends, schema_constraint, whole
from app.guard import ask_guard
from app.metrics import FIRST_TOKEN, TOKENS
from app.versions import LoadedVersion
from llm.objectives import CHAT

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": reason}
    for status, reason in {
        400: "The request is wrong",
        401: "No key, or a wrong one",
        404: "No such model",
        413: "The request is too large",
        422: "The request has a wrong form (400 below /v1, as OpenAI has it)",
        429: "Too many requests wait already",
        500: "The model failed",
        503: "The model can't answer now",
        504: "The answer took too long",
    }.items()
}
EVENTS = {200: {"content": {"text/event-stream": {}}}}
"""The response type of a stream; OpenAPI 3.1 can't describe its events."""


class Answer:
    """The answer to a request while it is generated."""

    def __init__(self, loaded: LoadedVersion, generation: Generation | Reply, began: float) -> None:
        self.loaded = loaded
        """The version that answers: the guard, if it does."""
        self.generation = generation
        self.began = began
        self.created = int(time.time())

    async def whole(self, request: Request) -> list[Choice]:
        """All choices, once the last is finished. Raises Gone if the client leaves before."""
        try:
            return await until_gone(request, whole(self.generation))
        finally:
            self.close()

    async def pieces(self) -> AsyncIterator[Piece]:
        """The choices while they are generated."""
        waiting = True
        async for piece in self.generation:
            if waiting:
                FIRST_TOKEN.labels(self.loaded.registered_name).observe(time.monotonic() - self.began)
                waiting = False
            yield piece

    def events(self, events: AsyncIterator[str]) -> "EventStream":
        """A response of server-sent events, which are made of the pieces."""
        return EventStream(events, self.close)

    def close(self) -> None:
        """Give the places back, and count the tokens."""
        self.generation.close()
        TOKENS.labels(self.loaded.registered_name).inc(self.generation.completion_tokens)


async def answer_conversation(request: Request, body: ChatRequest, names: Mapping[str, str]) -> Answer:
    """The assistant's next turn, or the guard's; `names` are the request's own for what an error is about."""
    began = time.monotonic()
    loaded = await request.app.state.versions.wait_for(body.model, CHAT)
    guarded = await ask_guard(request.app.state, [loaded], [message.turn() for message in body.messages])
    prompt = await run_in_threadpool(chat_prompt, loaded, guarded.messages)
    stop_tokens = ends(loaded, chat=True)
    schema = body.response_format.schema_followed if body.response_format else None
    constraint = await run_in_threadpool(
        partial(schema_constraint, loaded, schema, stop_tokens, param=names["response_format"])
    )
    if guarded.by is not None:
        return Answer(guarded.by, Reply(guarded.reply or "", body.n or 1, len(prompt)), began)
    generation = start_generation(
        request=request,
        body=body,
        loaded=loaded,
        prompts=[prompt],
        began=began,
        stop_tokens=stop_tokens,
        constraint=constraint,
        max_new_tokens=body.max_completion_tokens or body.max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        param=names["messages"],
    )
    return Answer(loaded, generation, began)


def start_generation(
    *,
    request: Request,
    body: ChatRequest | CompletionRequest,
    loaded: LoadedVersion,
    prompts: Sequence[list[int]],
    began: float,
    **options: Any,
) -> Generation:
    """A generation with the request's options, in what is left of its time since it `began`."""
    return Generation(
        loaded,
        prompts,
        sampling=body.sampling,
        stop=body.stops,
        n=body.n or 1,
        seconds=request.app.state.settings.request_seconds - (time.monotonic() - began),
        **options,
    )


class EventStream(StreamingResponse):
    """Server-sent events; `close` is called at their end, also if the client leaves before the first one."""

    def __init__(self, events: AsyncIterator[str], close: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()
