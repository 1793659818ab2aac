"""/v1: chat, completions and models, as OpenAI's clients ask for them."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from app.errors import NotFound, RequestError
from app.limits import until_gone
from app.metrics import FIRST_TOKEN, TOKENS
from app.schema import (
    AnswerMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    ChoiceLogprobs,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    Delta,
    Error,
    Model,
    Models,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from app.versions import BY_DEFAULT, Listed, Loaded, Versions
from app.writing import Piece, Told, Writing, chat_prompt, ends, whole
from llm.tokenizer import token_bytes

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": reason}
    for status, reason in {
        400: "The request can't be answered as it is",
        401: "No key, or a wrong one",
        404: "No such model",
        408: "The request came too slowly",
        413: "The request is too large",
        422: "The request has not the form that is asked for",
        429: "Too much waits already",
        503: "The model can't answer now",
        504: "The answer took too long",
    }.items()
}
EVENTS = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=ERRORS)


@router.get("/models", summary="What can be asked")
async def models(request: Request) -> Models:
    """Every model by its name and every version by its own."""
    versions: Versions = request.app.state.versions
    return Models(data=_models(await run_in_threadpool(versions.listed)))


@router.get("/models/{name:path}", summary="One of them")
async def model(request: Request, name: str) -> Model:
    """The version that a name means."""
    versions: Versions = request.app.state.versions
    named = await run_in_threadpool(versions.find, name)
    listed = next((each for each in versions.listed() if each.named == named), None)
    if listed is None:
        raise NotFound(f"model {name!r} is not registered any more", "model")
    return _model(name, listed)


def _model(name: str, listed: Listed) -> Model:
    return Model(
        id=name,
        created=listed.created,
        version=str(listed.named),
        aliases=list(listed.aliases),
        objective=listed.objective,
        description=listed.description,
    )


def _models(listed: Sequence[Listed]) -> list[Model]:
    found = []
    for name in dict.fromkeys(each.named.model for each in listed):
        own = [each for each in listed if each.named.model == name]
        default = next((each for alias in BY_DEFAULT for each in own if alias in each.aliases), None)
        found += [_model(name, default)] if default else []
        found += [_model(f"{name}@{alias}", each) for each in own for alias in each.aliases]
        found += [_model(str(each.named), each) for each in own]
    return found


async def asked(request: Request, name: str | None, objectives: Sequence[str]) -> Loaded:
    """The version that a request names, loaded; without a name the first model of these objectives."""
    versions: Versions = request.app.state.versions

    def load() -> Loaded:
        found = name or next(filter(None, map(versions.default, objectives)), None)
        if found is None:
            raise NotFound("no model is registered that could answer; `make run` makes them", "model")
        return versions.get(found)

    return await run_in_threadpool(load)


def _told(loaded: Loaded, told: Iterable[Told]) -> ChoiceLogprobs:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        content = token_bytes(loaded.encoding, token)
        return {"token": content.decode(errors="replace"), "logprob": logprob, "bytes": list(content)}

    return ChoiceLogprobs(
        content=[
            TokenLogprob(
                **entry(each.token, each.logprobs.token),
                top_logprobs=[TopLogprob(**entry(*likely)) for likely in each.logprobs.likeliest],
            )
            for each in told
        ]
    )


def _completion_told(loaded: Loaded, told: Sequence[Told], offset: int) -> CompletionLogprobs:
    chat = _told(loaded, told).content
    offsets = [offset + sum(len(each.token) for each in chat[:place]) for place in range(len(chat))]
    return CompletionLogprobs(
        tokens=[each.token for each in chat],
        token_logprobs=[each.logprob for each in chat],
        top_logprobs=[{likely.token: likely.logprob for likely in each.top_logprobs} for each in chat],
        text_offset=offsets,
    )


def _usage(writing: Writing) -> Usage:
    made = writing.completion_tokens
    return Usage(prompt_tokens=writing.prompt_tokens, completion_tokens=made, total_tokens=writing.prompt_tokens + made)


def _events(
    writing: Writing,
    loaded: Loaded,
    began: float,
    first: Sequence[BaseModel],
    chunk: Callable[[Piece], BaseModel],
    last: Callable[[Usage], BaseModel] | None,
) -> StreamingResponse:
    """Pieces as server-sent events; what goes wrong on the way is the last of them."""

    async def events() -> AsyncIterator[str]:
        try:
            for each in first:
                yield _event(each)
            waiting = True
            async for piece in writing:
                if waiting:
                    FIRST_TOKEN.labels(loaded.registered_name).observe(time.monotonic() - began)
                    waiting = False
                yield _event(chunk(piece))
            if last:
                yield _event(last(_usage(writing)))
            yield "data: [DONE]\n\n"
        except RequestError as error:
            yield f"data: {json.dumps(error_content(error))}\n\n"
        finally:
            writing.close()
            TOKENS.labels(loaded.registered_name).inc(writing.completion_tokens)

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _event(content: BaseModel) -> str:
    return f"data: {content.model_dump_json(exclude_none=True)}\n\n"


def error_content(error: RequestError) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if error.status < 429 else "server_error"
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


@router.post("/chat/completions", summary="Go on with a conversation", responses=EVENTS)
async def chat_completions(request: Request, body: ChatRequest) -> ChatCompletion:
    """The assistant's next turn, whole or (`stream`) as server-sent events."""
    began, settings = time.monotonic(), request.app.state.settings
    loaded = await asked(request, body.model, ("assistant",))
    prompt = await run_in_threadpool(chat_prompt, loaded, [each.turn() for each in body.messages])
    writing = Writing(
        loaded,
        [prompt],
        sampling=body.sampling,
        stop_tokens=ends(loaded, chat=True),
        max_new_tokens=body.max_completion_tokens or body.max_tokens,
        stop=body.stops,
        n=body.n or 1,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        seconds=settings.request_seconds,
    )
    about = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": loaded.registered_name}
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)

        def chunk(piece: Piece) -> ChatCompletionChunk:
            told = _told(loaded, piece.told) if piece.told else None
            delta = Delta(content=piece.text or None)
            choice = ChatChunkChoice(index=piece.choice, delta=delta, logprobs=told, finish_reason=piece.finish)
            return ChatCompletionChunk(**about, choices=[choice])

        begin = [
            ChatCompletionChunk(**about, choices=[ChatChunkChoice(index=n, delta=Delta(role="assistant", content=""))])
            for n in range(body.n or 1)
        ]
        end = (lambda used: ChatCompletionChunk(**about, choices=[], usage=used)) if usage else None
        return _events(writing, loaded, began, begin, chunk, end)
    choices = await until_gone(request, whole(writing), writing.close)
    TOKENS.labels(loaded.registered_name).inc(writing.completion_tokens)
    return ChatCompletion(
        **about,
        usage=_usage(writing),
        choices=[
            ChatChoice(
                index=number,
                message=AnswerMessage(content=each.text),
                logprobs=_told(loaded, each.told) if body.logprobs else None,
                finish_reason=each.finish,
            )
            for number, each in enumerate(choices)
        ],
    )


@router.post("/completions", summary="Go on with texts", responses=EVENTS)
async def completions(request: Request, body: CompletionRequest) -> Completion:
    """What comes after a text, whole or (`stream`) as server-sent events."""
    began, settings = time.monotonic(), request.app.state.settings
    loaded = await asked(request, body.model, ("language_model", "assistant"))
    prompts = await run_in_threadpool(_prompts, loaded, body.prompt)
    writing = Writing(
        loaded,
        prompts,
        sampling=body.sampling,
        stop_tokens=ends(loaded, chat=False),
        max_new_tokens=body.max_tokens or 16,
        stop=body.stops,
        n=body.n or 1,
        logprobs=body.logprobs,
        seconds=settings.request_seconds,
    )
    about = {"id": f"cmpl-{uuid4().hex}", "created": int(time.time()), "model": loaded.registered_name}
    if body.stream:
        offsets = [0] * (len(prompts) * (body.n or 1))

        def chunk(piece: Piece) -> Completion:
            told = _completion_told(loaded, piece.told, offsets[piece.choice]) if piece.told else None
            offsets[piece.choice] += sum(map(len, told.tokens)) if told else 0
            choice = CompletionChoice(
                index=piece.choice, text=piece.text, logprobs=told, finish_reason=piece.finish
            )
            return Completion(**about, choices=[choice])

        usage = bool(body.stream_options and body.stream_options.include_usage)
        end = (lambda used: Completion(**about, choices=[], usage=used)) if usage else None
        return _events(writing, loaded, began, [], chunk, end)
    choices = await until_gone(request, whole(writing), writing.close)
    TOKENS.labels(loaded.registered_name).inc(writing.completion_tokens)
    return Completion(
        **about,
        usage=_usage(writing),
        choices=[
            CompletionChoice(
                index=number,
                text=each.text,
                logprobs=None if body.logprobs is None else _completion_told(loaded, each.told, 0),
                finish_reason=each.finish,
            )
            for number, each in enumerate(choices)
        ],
    )


def _prompts(loaded: Loaded, prompt: str | list[str] | list[int] | list[list[int]]) -> list[list[int]]:
    """Each prompt as tokens."""
    if isinstance(prompt, str):
        prompts: list[Any] = [prompt]
    else:
        prompts = [prompt] if isinstance(prompt[0], int) else list(prompt)
    tokens = [loaded.encoding.encode_ordinary(each) if isinstance(each, str) else each for each in prompts]
    if not all(tokens):
        raise RequestError("the prompt is empty", "prompt")
    return tokens
