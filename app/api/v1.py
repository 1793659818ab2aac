"""/v1: chat, completions and models, for OpenAI's clients."""

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import accumulate
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from app.api.openai import ERRORS, EVENTS, Answer, answer_conversation, start_generation
from app.api.schema import ChatRequest, CompletionRequest, Model, Models, error_json
from app.errors import RequestError
from app.generation import Choice, Piece, ScoredToken, check_size, ends
from app.registry import RegisteredVersion, find
from app.versions import LoadedVersion, Versions
from llm.objectives import COMPLETE
from llm.tokenizer import token_bytes

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=ERRORS)
NAMES = {"messages": "messages", "response_format": "response_format"}


@router.get("/models", summary="List models")
async def models(request: Request) -> Models:
    """Every model by its name, and every version by its own."""
    versions: Versions = request.app.state.versions
    listed = []
    for name in dict.fromkeys(version.name.model for version in versions.registered):
        own = [version for version in versions.registered if version.name.model == name]
        listed += [_model(name, version) for version in own if version.is_default]
        listed += [_model(f"{name}@{alias}", version) for version in own for alias in version.aliases]
        listed += [_model(str(version.name), version) for version in own]
    return Models(data=listed)


@router.get("/models/{name:path}", summary="Look up a model")
async def model(request: Request, name: str) -> Model:
    """The version that a name means."""
    return _model(name, find(request.app.state.versions.registered, name))


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
    answer = await answer_conversation(request, body, NAMES)
    loaded = answer.loaded

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
        head = _head(answer, "chat.completion.chunk", "chatcmpl")
        return answer.events(_events(answer, head, body, piece_json=piece_json, first=first))
    return await _whole(request, answer, _head(answer, "chat.completion", "chatcmpl"), choice_json=choice_json)


@router.post("/completions", summary="Continue texts", responses=EVENTS)
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Continue a text, whole or (`stream`) as server-sent events."""
    began = time.monotonic()
    loaded = await request.app.state.versions.wait_for(body.model, COMPLETE)
    prompts = await run_in_threadpool(_prompts, loaded, body.prompt)
    generation = start_generation(
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
    answer = Answer(loaded, generation, began)
    head = _head(answer, "text_completion", "cmpl")

    def piece_json(piece: Piece) -> dict[str, Any]:
        return {"index": piece.choice, **choice_json(piece)}

    def choice_json(choice: Choice | Piece) -> dict[str, Any]:
        logprobs = _text_logprobs(loaded, choice.tokens)
        return {"text": choice.text, "logprobs": logprobs, "finish_reason": choice.finish}

    if body.stream:
        return answer.events(_events(answer, head, body, piece_json=piece_json))
    return await _whole(request, answer, head, choice_json=choice_json)


def _head(answer: Answer, kind: str, prefix: str) -> dict[str, Any]:
    """The fields that start an answer and each of its chunks."""
    identity = f"{prefix}-{uuid4().hex}"
    return {"id": identity, "object": kind, "created": answer.created, "model": answer.loaded.registered_name}


async def _whole(
    request: Request, answer: Answer, head: dict[str, Any], *, choice_json: Callable[[Choice], dict[str, Any]]
) -> Response:
    """All choices as JSON, made in a thread: with log-probabilities it has megabytes, and all others would wait."""
    choices = await answer.whole(request)

    def write() -> Response:
        content = [{"index": number} | choice_json(choice) for number, choice in enumerate(choices)]
        return JSONResponse(head | {"choices": content, "usage": _usage(answer)})

    return await run_in_threadpool(write)


async def _events(
    answer: Answer,
    head: dict[str, Any],
    body: ChatRequest | CompletionRequest,
    *,
    piece_json: Callable[[Piece], dict[str, Any]],
    first: Sequence[dict[str, Any]] = (),
) -> AsyncIterator[str]:
    """Pieces as server-sent events, after the `first` ones; an error on the way is the last of them."""
    try:
        for choice in first:
            yield _event(head, choices=[choice])
        async for piece in answer.pieces():
            yield _event(head, choices=[piece_json(piece)])
        if body.stream_options and body.stream_options.include_usage:
            yield _event(head, choices=[], usage=_usage(answer))
        yield "data: [DONE]\n\n"
    except RequestError as error:
        yield f"data: {error_json(error)}\n\n"


def _event(head: dict[str, Any], **content: Any) -> str:
    return f"data: {json.dumps(head | content)}\n\n"


def _usage(answer: Answer) -> dict[str, int]:
    new = answer.generation.completion_tokens
    prompt = answer.generation.prompt_tokens
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


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
