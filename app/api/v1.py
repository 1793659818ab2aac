"""/v1: chat, completions and models, for OpenAI's clients."""

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from app.api.limits import until_gone
from app.api.schema import ChatRequest, CompletionRequest, Error, Model, Models, error_json
from app.clients import network_of
from app.errors import NotFound, RequestError
from app.generation import Choice, GeneratedToken, Generation, Piece, Reply, chat_prompt, check_size, ends, whole
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
    listed = await run_in_threadpool(versions.registry.versions)
    found = []
    for name in dict.fromkeys(each.name.model for each in listed):
        own = [each for each in listed if each.name.model == name]
        found += [_model(name, each) for each in own if each.is_default]
        found += [_model(f"{name}@{alias}", each) for each in own for alias in each.aliases]
        found += [_model(str(each.name), each) for each in own]
    return Models(data=found)


@router.get("/models/{name:path}", summary="Look up a model")
async def model(request: Request, name: str) -> Model:
    """The version that a name means."""
    versions: Versions = request.app.state.versions
    named = await run_in_threadpool(versions.registry.find, name)
    listed = next((each for each in versions.registry.cached if each.name == named), None)
    if listed is None:
        raise NotFound(f"model {name!r} is not registered any more", "model")
    return _model(name, listed)


def _model(name: str, listed: RegisteredVersion) -> Model:
    return Model(
        id=name,
        created=listed.created,
        version=str(listed.name),
        aliases=list(listed.aliases),
        capabilities=list(listed.capabilities),
        description=listed.description,
    )


@router.post("/chat/completions", summary="Continue a conversation", responses=EVENTS)
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """The assistant's next turn, or the guard's, whole or (`stream`) as server-sent events."""
    began = time.monotonic()
    loaded = await request.app.state.loader.get(body.model, CHAT)
    messages = [message.turn() for message in body.messages]
    guarded = await ask_guard(request.app.state, [loaded], messages, network_of(request))
    prompt = await run_in_threadpool(chat_prompt, loaded, guarded.messages)
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
            stop_tokens=ends(loaded, chat=True),
            max_new_tokens=body.max_completion_tokens or body.max_tokens,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        )

    def piece_of(piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        more = {"logprobs": _logprobs(loaded, piece.tokens), "finish_reason": piece.finish}
        return {"index": piece.choice, "delta": delta, **more}

    def chosen(choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {"message": message, "logprobs": _logprobs(loaded, choice.tokens), "finish_reason": choice.finish}

    about = _about("chat.completion", "chatcmpl", loaded)
    if body.stream:
        begin = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        first = [{"index": number, **begin} for number in range(body.n or 1)]
        about["object"] = "chat.completion.chunk"
        return _stream(body, generation, loaded, began, about, piece_of, first)
    return await _answer(request, generation, loaded, about, chosen)


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
        param="prompt",
    )

    def piece_of(piece: Piece) -> dict[str, Any]:
        return {"index": piece.choice, "text": piece.text, "logprobs": None, "finish_reason": piece.finish}

    def chosen(choice: Choice) -> dict[str, Any]:
        return {"text": choice.text, "logprobs": None, "finish_reason": choice.finish}

    about = _about("text_completion", "cmpl", loaded)
    if body.stream:
        return _stream(body, generation, loaded, began, about, piece_of)
    return await _answer(request, generation, loaded, about, chosen)


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
        network=network_of(request),
        **options,
    )


def _prompts(loaded: LoadedVersion, prompt: str | list[str] | list[int] | list[list[int]]) -> list[list[int]]:
    """Each prompt as tokens."""
    if isinstance(prompt, str):
        prompts: list[Any] = [prompt]
    else:
        prompts = [prompt] if isinstance(prompt[0], int) else list(prompt)
    check_size(loaded, max((len(each) for each in prompts if isinstance(each, str)), default=0), "prompt")
    tokens = [loaded.encoding.encode_ordinary(each) if isinstance(each, str) else each for each in prompts]
    if not all(tokens):
        raise RequestError("the prompt is empty", "prompt")
    return tokens


def _about(kind: str, prefix: str, loaded: LoadedVersion) -> dict[str, Any]:
    """The fields that start an answer and each of its chunks."""
    identity = f"{prefix}-{uuid4().hex}"
    return {"id": identity, "object": kind, "created": int(time.time()), "model": loaded.registered_name}


def _logprobs(loaded: LoadedVersion, tokens: Sequence[GeneratedToken]) -> dict[str, Any] | None:
    """The tokens of a chat answer with the likeliest ones in their places; None without any."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        content = token_bytes(loaded.encoding, token)
        return {"token": content.decode(errors="replace"), "logprob": logprob, "bytes": list(content)}

    content = [
        entry(token, logprobs.token) | {"top_logprobs": [entry(*likely) for likely in logprobs.likeliest]}
        for token, logprobs in tokens
    ]
    return {"content": content, "refusal": None} if content else None


def _usage(generation: Generation | Reply) -> dict[str, int]:
    made, prompt = generation.completion_tokens, generation.prompt_tokens
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


async def _answer(
    request: Request,
    generation: Generation | Reply,
    loaded: LoadedVersion,
    about: dict[str, Any],
    choice: Callable[[Choice], dict[str, Any]],
) -> Response:
    """All choices as JSON, made in a thread: with log-probabilities it has megabytes, and all others would wait."""
    try:
        choices = await until_gone(request, whole(generation))
    finally:
        generation.close()
        TOKENS.labels(loaded.registered_name).inc(generation.completion_tokens)

    def write() -> Response:
        made = [{"index": number} | choice(each) for number, each in enumerate(choices)]
        return JSONResponse(about | {"choices": made, "usage": _usage(generation)})

    return await run_in_threadpool(write)


def _stream(
    body: ChatRequest | CompletionRequest,
    generation: Generation | Reply,
    loaded: LoadedVersion,
    began: float,
    about: dict[str, Any],
    choice: Callable[[Piece], dict[str, Any]],
    first: Sequence[dict[str, Any]] = (),
) -> Response:
    """Pieces as server-sent events; an error on the way is the last of them."""

    def event(**content: Any) -> str:
        return f"data: {json.dumps(about | content)}\n\n"

    async def events() -> AsyncIterator[str]:
        try:
            for each in first:
                yield event(choices=[each])
            waiting = True
            async for piece in generation:
                if waiting:
                    FIRST_TOKEN.labels(loaded.registered_name).observe(time.monotonic() - began)
                    waiting = False
                yield event(choices=[choice(piece)])
            if body.stream_options and body.stream_options.include_usage:
                yield event(choices=[], usage=_usage(generation))
            yield "data: [DONE]\n\n"
        except RequestError as error:
            yield f"data: {error_json(error)}\n\n"

    class Stream(StreamingResponse):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await super().__call__(scope, receive, send)
            finally:  # also if the client leaves, before the first event too
                generation.close()
                TOKENS.labels(loaded.registered_name).inc(generation.completion_tokens)

    return Stream(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
