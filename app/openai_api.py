"""/v1: chat, completions and models, as OpenAI's clients ask for them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from app.errors import NotFound, RequestError, Unavailable
from app.generation import Choice, GeneratedToken, Generation, Piece, chat_prompt, check_size, ends, whole
from app.limits import network_of, until_gone
from app.metrics import FIRST_TOKEN, TOKENS
from app.registry import BY_DEFAULT, Listed
from app.schema import ChatRequest, CompletionRequest, Error, Model, Models
from app.versions import Loaded, Versions
from llm.tokenizer import token_bytes

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": reason}
    for status, reason in {
        400: "The request can't be answered as it is",
        401: "No key, or a wrong one",
        404: "No such model",
        413: "The request is too large",
        422: "The request has not the form that is asked for (400 below /v1, as OpenAI has it)",
        429: "Too much waits already",
        500: "The model failed",
        503: "The model can't answer now",
        504: "The answer took too long",
    }.items()
}
MOST_SAID = 1000
"""Characters of an error's message, which may hold what the client sent."""
EVENTS = {200: {"content": {"text/event-stream": {}}}}
"""Of a stream; OpenAPI 3.1 has no words for its events."""

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=ERRORS)


@router.get("/models", summary="What can be asked")
async def models(request: Request) -> Models:
    """Every model by its name and every version by its own."""
    versions: Versions = request.app.state.versions
    return Models(data=_models(await run_in_threadpool(versions.registry.listed)))


@router.get("/models/{name:path}", summary="One of them")
async def model(request: Request, name: str) -> Model:
    """The version that a name means."""
    versions: Versions = request.app.state.versions
    named = await run_in_threadpool(versions.registry.find, name)
    listed = next((each for each in versions.registry.listed() if each.named == named), None)
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


class Loader:
    """Has versions loaded in a thread of its own: those that answer requests are few, and loading takes long."""

    def __init__(self, versions: Versions) -> None:
        self._versions, self._thread = versions, ThreadPoolExecutor(1, "loader")

    async def get(self, name: str) -> Loaded:
        """As `Versions.get`. Raises Unavailable where it takes longer than a request may."""
        if loaded := await run_in_threadpool(self._versions.at_hand, name):
            return loaded
        loading = asyncio.get_running_loop().run_in_executor(self._thread, self._versions.get, name)
        try:
            async with asyncio.timeout(self._versions.settings.request_seconds):
                return await loading
        except TimeoutError:
            raise Unavailable(f"{name} is still being loaded", "model") from None


async def asked(request: Request, name: str | None, objectives: Sequence[str]) -> Loaded:
    """The version that a request names, loaded; without a name the first model of these objectives."""
    state = request.app.state

    def default() -> str:
        found = next(filter(None, map(state.versions.registry.default, objectives)), None)
        if found is None:
            raise NotFound("no model is registered that could answer; `make run` makes them", "model")
        return found

    return await state.loader.get(name or await run_in_threadpool(default))


def _logprobs(loaded: Loaded, tokens: Sequence[GeneratedToken]) -> dict[str, Any] | None:
    """The tokens of a chat answer with what was likely in their places; None without any."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        content = token_bytes(loaded.encoding, token)
        return {"token": content.decode(errors="replace"), "logprob": logprob, "bytes": list(content)}

    return (
        {
            "content": [
                entry(each.token, each.logprobs.token)
                | {"top_logprobs": [entry(*likely) for likely in each.logprobs.likeliest]}
                for each in tokens
            ],
            "refusal": None,
        }
        if tokens
        else None
    )


def _usage(generation: Generation) -> dict[str, int]:
    made, prompt = generation.completion_tokens, generation.prompt_tokens
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


class _EventStream(StreamingResponse):
    """Pieces as server-sent events; what goes wrong on the way is the last of them.

    The places go back where the client leaves, also before the first.
    """

    def __init__(
        self,
        generation: Generation,
        loaded: Loaded,
        began: float,
        about: dict[str, Any],
        first: Sequence[dict[str, Any]],
        choice: Callable[[Piece], dict[str, Any]],
        with_usage: bool,
    ) -> None:
        """`about` is in every event, `first` the choices of the first ones, `choice` makes that of a piece."""
        self.generation, self.loaded = generation, loaded

        async def events() -> AsyncIterator[str]:
            try:
                for each in first:
                    yield _event(about | {"choices": [each]})
                waiting = True
                async for piece in generation:
                    if waiting:
                        FIRST_TOKEN.labels(loaded.registered_name).observe(time.monotonic() - began)
                        waiting = False
                    yield _event(about | {"choices": [choice(piece)]})
                if with_usage:
                    yield _event(about | {"choices": [], "usage": _usage(generation)})
                yield "data: [DONE]\n\n"
            except RequestError as error:
                yield _event(error_content(error))

        super().__init__(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.generation.close()
            TOKENS.labels(self.loaded.registered_name).inc(self.generation.completion_tokens)


async def _answer(
    request: Request,
    generation: Generation,
    loaded: Loaded,
    about: dict[str, Any],
    choice: Callable[[Choice], dict[str, Any]],
) -> Response:
    """An answer with all choices as JSON, made in a thread: with log-probabilities it may have megabytes, in which all
    others would wait."""
    try:
        choices = await until_gone(request, whole(generation), generation.close)
    finally:
        TOKENS.labels(loaded.registered_name).inc(generation.completion_tokens)

    def write() -> Response:
        made = [{"index": number} | choice(each) for number, each in enumerate(choices)]
        return JSONResponse(about | {"choices": made, "usage": _usage(generation)})

    return await run_in_threadpool(write)


def error_content(error: RequestError) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if error.status < 429 else "server_error"
    return {"error": {"message": _short(str(error)), "type": kind, "param": _short(error.param), "code": error.code}}


def _short(text: str | None) -> str | None:
    """What may go out of a text that may hold what a client sent: no halves of surrogate pairs, and not all of it."""
    if text is None:
        return None
    short = text if len(text) <= MOST_SAID else f"{text[:MOST_SAID]}…"
    return short.encode(errors="replace").decode()


def _about(kind: str, prefix: str, loaded: Loaded) -> dict[str, Any]:
    """The fields that start an answer and each of its chunks."""
    return {
        "id": f"{prefix}-{uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": loaded.registered_name,
    }


@router.post("/chat/completions", summary="Go on with a conversation", responses=EVENTS)
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """The assistant's next turn, whole or (`stream`) as server-sent events."""
    began, settings = time.monotonic(), request.app.state.settings
    loaded = await asked(request, body.model, ("assistant",))
    prompt = await run_in_threadpool(chat_prompt, loaded, [each.turn() for each in body.messages])
    generation = Generation(
        loaded,
        [prompt],
        sampling=body.sampling,
        stop_tokens=ends(loaded, chat=True),
        max_new_tokens=body.max_completion_tokens or body.max_tokens,
        stop=body.stops,
        n=body.n or 1,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        seconds=settings.request_seconds - (time.monotonic() - began),
        network=network_of(request),
    )
    if body.stream:

        def piece_of(piece: Piece) -> dict[str, Any]:
            delta = {"content": piece.text} if piece.text else {}
            more = {"logprobs": _logprobs(loaded, piece.tokens), "finish_reason": piece.finish}
            return {"index": piece.choice, "delta": delta, **more}

        begin = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        first = [{"index": number, **begin} for number in range(body.n or 1)]
        about = _about("chat.completion.chunk", "chatcmpl", loaded)
        return _EventStream(generation, loaded, began, about, first, piece_of, body.tells_usage)

    def chosen(found: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": found.text, "refusal": None}
        return {"message": message, "logprobs": _logprobs(loaded, found.tokens), "finish_reason": found.finish}

    return await _answer(request, generation, loaded, _about("chat.completion", "chatcmpl", loaded), chosen)


@router.post("/completions", summary="Go on with texts", responses=EVENTS)
async def completions(request: Request, body: CompletionRequest) -> Response:
    """What comes after a text, whole or (`stream`) as server-sent events."""
    began, settings = time.monotonic(), request.app.state.settings
    loaded = await asked(request, body.model, ("language_model", "assistant"))
    prompts = await run_in_threadpool(_prompts, loaded, body.prompt)
    generation = Generation(
        loaded,
        prompts,
        sampling=body.sampling,
        stop_tokens=ends(loaded, chat=False),
        max_new_tokens=body.max_tokens or 16,
        stop=body.stops,
        n=body.n or 1,
        seconds=settings.request_seconds - (time.monotonic() - began),
        network=network_of(request),
        param="prompt",
    )
    about = _about("text_completion", "cmpl", loaded)
    if body.stream:

        def piece_of(piece: Piece) -> dict[str, Any]:
            return {"index": piece.choice, "text": piece.text, "logprobs": None, "finish_reason": piece.finish}

        return _EventStream(generation, loaded, began, about, [], piece_of, body.tells_usage)

    def chosen(found: Choice) -> dict[str, Any]:
        return {"text": found.text, "logprobs": None, "finish_reason": found.finish}

    return await _answer(request, generation, loaded, about, chosen)


def _prompts(loaded: Loaded, prompt: str | list[str] | list[int] | list[list[int]]) -> list[list[int]]:
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
