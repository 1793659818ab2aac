"""/v1: chat, completions and models, for OpenAI's clients."""

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from app.api.limits import until_gone
from app.api.schema import ChatRequest, CompletionRequest, Error, Model, Models, error_json
from app.errors import NotFound, RequestError
from app.generation import (
    Choice,
    Generation,
    Piece,
    Reply,
    ScoredToken,
    chat_prompt,
    check_size,
    ends,
    schema_constraint,
    whole,
)
from app.guard import ask_guard
from app.loaded_version import LoadedVersion
from app.metrics import FIRST_TOKEN, TOKENS
from app.names import RegisteredVersion
from app.versions import Versions
from llm.objectives import CHAT, COMPLETE
from llm.tokenizer import token_bytes

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

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=ERRORS)


@router.get("/models", summary="List models")
async def models(request: Request) -> Models:
    """Every model by its name, and every version by its own."""
    versions: Versions = request.app.state.versions
    registered = await run_in_threadpool(versions.registry.versions)
    listed = []
    for name in dict.fromkeys(version.name.model for version in registered):
        own = [version for version in registered if version.name.model == name]
        listed += [_model(name, version) for version in own if version.is_default]
        listed += [_model(f"{name}@{alias}", version) for version in own for alias in version.aliases]
        listed += [_model(str(version.name), version) for version in own]
    return Models(data=listed)


@router.get("/models/{name:path}", summary="Look up a model")
async def model(request: Request, name: str) -> Model:
    """The version that a name means."""
    versions: Versions = request.app.state.versions
    meant = await run_in_threadpool(versions.registry.find, name)
    for version in versions.registry.cached:
        if version.name == meant:
            return _model(name, version)
    raise NotFound(f"model {name!r} is not registered any more", "model")


def _model(name: str, version: RegisteredVersion) -> Model:
    return Model(
        id=name,
        created=version.created,
        version=str(version.name),
        aliases=list(version.aliases),
        capabilities=list(version.capabilities),
        description=version.description,
    )


@router.post("/chat/completions", summary="Continue a conversation", responses=EVENTS)
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """The assistant's next turn, or the guard's, whole or (`stream`) as server-sent events."""
    began = time.monotonic()
    loaded = await request.app.state.loader.get(body.model, CHAT)
    messages = [message.turn() for message in body.messages]
    guarded = await ask_guard(request.app.state, [loaded], messages)
    prompt = await run_in_threadpool(chat_prompt, loaded, guarded.messages)
    stop_tokens = ends(loaded, chat=True)
    schema = body.response_format.schema_followed if body.response_format else None
    constraint = await run_in_threadpool(
        partial(schema_constraint, loaded, schema, stop_tokens, param="response_format")
    )
    generation: Generation | Reply
    if guarded.reply is not None:
        loaded = guarded.by
        generation = Reply(guarded.reply, body.n or 1, len(prompt))
    else:
        generation = _start_generation(
            request=request,
            body=body,
            loaded=loaded,
            prompts=[prompt],
            began=began,
            stop_tokens=stop_tokens,
            constraint=constraint,
            max_new_tokens=body.max_completion_tokens or body.max_tokens,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        )

    answer = _Answer(loaded, generation, began, kind="chat.completion", prefix="chatcmpl")

    def piece_json(piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        logprobs = _logprobs(loaded, piece.tokens)
        return {"index": piece.choice, "delta": delta, "logprobs": logprobs, "finish_reason": piece.finish}

    def choice_json(choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {"message": message, "logprobs": _logprobs(loaded, choice.tokens), "finish_reason": choice.finish}

    if body.stream:
        begin = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        first = [{"index": number, **begin} for number in range(body.n or 1)]
        answer.head["object"] = "chat.completion.chunk"
        return answer.stream(body, piece_json, first)
    return await answer.whole(request, choice_json)


@router.post("/completions", summary="Continue texts", responses=EVENTS)
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Continue a text, whole or (`stream`) as server-sent events."""
    began = time.monotonic()
    loaded = await request.app.state.loader.get(body.model, COMPLETE)
    prompts = await run_in_threadpool(_prompts, loaded, body.prompt)
    generation = _start_generation(
        request=request,
        body=body,
        loaded=loaded,
        prompts=prompts,
        began=began,
        stop_tokens=ends(loaded, chat=False),
        max_new_tokens=body.max_tokens or 16,
        logprobs=body.logprobs,
        echo=bool(body.echo),
        param="prompt",
    )

    answer = _Answer(loaded, generation, began, kind="text_completion", prefix="cmpl")

    def piece_json(piece: Piece) -> dict[str, Any]:
        logprobs = _text_logprobs(loaded, piece.tokens)
        return {"index": piece.choice, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}

    def choice_json(choice: Choice) -> dict[str, Any]:
        logprobs = _text_logprobs(loaded, choice.tokens)
        return {"text": choice.text, "logprobs": logprobs, "finish_reason": choice.finish}

    if body.stream:
        return answer.stream(body, piece_json)
    return await answer.whole(request, choice_json)


def _start_generation(
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


def _prompts(loaded: LoadedVersion, prompt: str | list[str] | list[int] | list[list[int]]) -> list[list[int]]:
    """Each prompt as tokens."""
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        prompts: list[Any] = [prompt]
    else:
        prompts = list(prompt)
    texts = [text for text in prompts if isinstance(text, str)]
    check_size(loaded, max(map(len, texts), default=0), "prompt")
    tokens = list(map(loaded.encoding.encode_ordinary, prompts)) if texts else prompts  # they are all of one type
    if not all(tokens):
        raise RequestError("the prompt is empty", "prompt")
    return tokens


def _logprobs(loaded: LoadedVersion, tokens: Sequence[ScoredToken]) -> dict[str, Any] | None:
    """The tokens of a chat answer with the likeliest ones in their places; None without any."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        content = token_bytes(loaded.encoding, token)
        return {"token": content.decode(errors="replace"), "logprob": logprob, "bytes": list(content)}

    content = []
    for token, logprobs in tokens:
        if logprobs is None:
            continue
        likeliest = [entry(*candidate) for candidate in logprobs.likeliest]
        content.append(entry(token, logprobs.token) | {"top_logprobs": likeliest})
    return {"content": content, "refusal": None} if content else None


def _text_logprobs(loaded: LoadedVersion, tokens: Sequence[ScoredToken]) -> dict[str, Any] | None:
    """The tokens of a completion with the likeliest ones in their places, in its older form; None without any."""
    if not tokens:
        return None

    def text(token: int) -> str:
        return token_bytes(loaded.encoding, token).decode(errors="replace")

    texts = [text(token) for token, _ in tokens]
    offsets = [0, *accumulate(map(len, texts[:-1]))]
    scores = [logprobs and logprobs.token for _, logprobs in tokens]
    places = []
    for _, logprobs in tokens:
        places.append(logprobs and {text(token): score for token, score in logprobs.likeliest})
    return {"tokens": texts, "token_logprobs": scores, "top_logprobs": places, "text_offset": offsets}


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


class _Answer:
    """The answer to a request: whole, or as a stream of events."""

    def __init__(
        self, loaded: LoadedVersion, generation: Generation | Reply, began: float, *, kind: str, prefix: str
    ) -> None:
        self.version = loaded.registered_name
        self.generation = generation
        self.began = began
        identity = f"{prefix}-{uuid4().hex}"
        self.head = {"id": identity, "object": kind, "created": int(time.time()), "model": self.version}
        """The fields that start an answer and each of its chunks."""

    async def whole(self, request: Request, choice_json: Callable[[Choice], dict[str, Any]]) -> Response:
        """All choices as JSON, made in a thread: with log-probabilities it has megabytes, and all others would wait."""
        try:
            choices = await until_gone(request, whole(self.generation))
        finally:
            self.close()

        def write() -> Response:
            content = [{"index": number} | choice_json(choice) for number, choice in enumerate(choices)]
            return JSONResponse(self.head | {"choices": content, "usage": self._usage()})

        return await run_in_threadpool(write)

    def stream(
        self,
        body: ChatRequest | CompletionRequest,
        piece_json: Callable[[Piece], dict[str, Any]],
        first: Sequence[dict[str, Any]] = (),
    ) -> Response:
        """Pieces as server-sent events, after the `first` ones; an error on the way is the last of them."""
        return EventStream(self._events(body, piece_json, first), self.close)

    async def _events(
        self,
        body: ChatRequest | CompletionRequest,
        piece_json: Callable[[Piece], dict[str, Any]],
        first: Sequence[dict[str, Any]],
    ) -> AsyncIterator[str]:
        try:
            for choice in first:
                yield self._event(choices=[choice])
            waiting = True
            async for piece in self.generation:
                if waiting:
                    FIRST_TOKEN.labels(self.version).observe(time.monotonic() - self.began)
                    waiting = False
                yield self._event(choices=[piece_json(piece)])
            if body.stream_options and body.stream_options.include_usage:
                yield self._event(choices=[], usage=self._usage())
            yield "data: [DONE]\n\n"
        except RequestError as error:
            yield f"data: {error_json(error)}\n\n"

    def _event(self, **content: Any) -> str:
        return f"data: {json.dumps(self.head | content)}\n\n"

    def _usage(self) -> dict[str, int]:
        new = self.generation.completion_tokens
        prompt = self.generation.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}

    def close(self) -> None:
        """Give the places back, and count the tokens."""
        self.generation.close()
        TOKENS.labels(self.version).inc(self.generation.completion_tokens)
