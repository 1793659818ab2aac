"""/v1/responses, without state: each request brings its whole conversation, and nothing is kept."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, model_validator
from starlette.concurrency import run_in_threadpool

from app.api.limits import until_gone
from app.api.schema import (
    FIRST_ERROR,
    LONGEST_NAME,
    Bookkeeping,
    Closed,
    ConversationTurn,
    error_json,
    nucleus,
)
from app.api.v1 import ERRORS, EVENTS, EventStream
from app.errors import RequestError
from app.generation import Generation, Reply, chat_prompt, ends, schema_constraint, whole
from app.guard import ask_guard
from app.loaded_version import LoadedVersion
from app.metrics import FIRST_TOKEN, TOKENS
from llm.chat import Message
from llm.generation.sampling import Sampling
from llm.objectives import CHAT

UNSUPPORTED: dict[str, tuple[Any, ...]] = {  # with the values that ask for nothing
    "previous_response_id": (None,),
    "conversation": (None,),
    "background": (None, False),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "reasoning": (None,),
    "include": (None, []),
    "truncation": (None, "disabled"),
    "top_logprobs": (None, 0),
    "prompt": (None,),
    "max_tool_calls": (None,),
}


class InputText(Closed):
    """A piece of a message, of a person or of an earlier answer."""

    type: Literal["input_text", "output_text"]
    text: str
    unsupported: ClassVar = {"annotations": (None, []), "logprobs": (None, [])}


class InputMessage(ConversationTurn):
    """A turn of a conversation."""

    content: str | Annotated[list[InputText], FIRST_ERROR]
    type: Literal["message"] = "message"
    id: str | None = None
    status: str | None = None
    """These two are in answers, which clients send back; they change nothing."""
    unsupported: ClassVar = {"phase": (None,)}


class TextFormat(Closed):
    """The form of an answer: text, any JSON object, or JSON within a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = Field(default=None, max_length=LONGEST_NAME)
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    description: str | None = None
    strict: bool | None = None
    """Changes nothing: every answer follows its schema."""

    @model_validator(mode="after")
    def _has_a_schema_if_it_says_so(self) -> Self:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise ValueError("type json_schema and schema belong together")
        return self

    @property
    def schema_followed(self) -> Mapping[str, Any] | None:
        """The schema that the answer follows; None for text."""
        return None if self.type == "text" else self.schema_ or {"type": "object"}


class TextOptions(Closed):
    """Options of the answer's text."""

    format: TextFormat = TextFormat()
    unsupported: ClassVar = {"verbosity": (None, "medium")}


class ResponseRequest(Bookkeeping):
    """A conversation to continue."""

    unsupported: ClassVar = UNSUPPORTED

    model: str | None = Field(default=None, max_length=200)
    input: str | Annotated[list[InputMessage], Field(min_length=1, max_length=1000, fail_fast=True)]
    instructions: str | None = None
    """A system prompt before the conversation."""
    max_output_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0, the default here, takes the likeliest token, as in the models' evaluation."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    text: TextOptions = TextOptions()
    stream: bool | None = False

    @property
    def messages(self) -> list[Message]:
        """The turns that the model reads."""
        opening = [Message("system", self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return [*opening, Message("user", self.input)]
        return opening + [message.turn() for message in self.input]

    @property
    def sampling(self) -> Sampling:
        """The options that choose tokens."""
        top_p, top_k = nucleus(self.top_p)
        return Sampling(temperature=self.temperature or 0.0, top_p=top_p, top_k=top_k)


router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=ERRORS)


@router.post("/responses", summary="Answer a conversation", responses=EVENTS)
async def responses(request: Request, body: ResponseRequest) -> Response:
    """The assistant's next turn, or the guard's, whole or (`stream`) as server-sent events. Nothing is stored."""
    began = time.monotonic()
    loaded = await request.app.state.loader.get(body.model, CHAT)
    guarded = await ask_guard(request.app.state, [loaded], body.messages)
    prompt = await run_in_threadpool(chat_prompt, loaded, guarded.messages)
    stop_tokens = ends(loaded, chat=True)
    schema = body.text.format.schema_followed
    constraint = await run_in_threadpool(partial(schema_constraint, loaded, schema, stop_tokens, param="text.format"))
    generation: Generation | Reply
    if guarded.reply is not None:
        loaded = guarded.by
        generation = Reply(guarded.reply, 1, len(prompt))
    else:
        generation = Generation(
            loaded,
            [prompt],
            sampling=body.sampling,
            stop_tokens=stop_tokens,
            max_new_tokens=body.max_output_tokens,
            constraint=constraint,
            seconds=request.app.state.settings.request_seconds - (time.monotonic() - began),
            param="input",
        )
    answer = _Answer(loaded, body, generation, began=began)
    if body.stream:
        return answer.stream()
    try:
        (choice,) = await until_gone(request, whole(generation))
    finally:
        answer.close()
    return JSONResponse(answer.json(text=choice.text, finish=choice.finish))


class _Answer:
    """The answer to a request: whole, or as a stream of events."""

    def __init__(
        self, loaded: LoadedVersion, body: ResponseRequest, generation: Generation | Reply, *, began: float
    ) -> None:
        self.version = loaded.registered_name
        self.body = body
        self.generation = generation
        self.began = began
        self.created = int(time.time())
        self.id = f"resp_{uuid4().hex}"
        self.message_id = f"msg_{uuid4().hex}"
        self.events = 0

    def json(self, *, text: str | None = None, finish: str | None = None) -> dict[str, Any]:
        """The response; without a `finish` it is in progress."""
        is_cut = finish in ("length", "content_filter")
        reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finish or "")
        status = "in_progress" if finish is None else "incomplete" if is_cut else "completed"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": self.version,
            "output": [] if text is None else [self._message(text, status)],
            "instructions": self.body.instructions,
            "max_output_tokens": self.body.max_output_tokens,
            "metadata": self.body.metadata or {},
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": self.body.temperature or 0.0,
            "text": {"format": self.body.text.format.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": "none",
            "tools": [],
            "top_p": self.body.top_p,
            "usage": None if finish is None else self._usage(),
        }

    def _message(self, text: str, status: str) -> dict[str, Any]:
        content = [] if status == "in_progress" else [_part(text)]
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _usage(self) -> dict[str, Any]:
        prompt = self.generation.prompt_tokens
        new = self.generation.completion_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": new,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + new,
        }

    def stream(self) -> Response:
        """Server-sent events; an error on the way is the last of them."""
        return EventStream(self._events(), self.close)

    async def _events(self) -> AsyncIterator[str]:
        position = {"output_index": 0, "content_index": 0, "item_id": self.message_id}
        yield self._event("response.created", response=self.json())
        yield self._event("response.in_progress", response=self.json())
        message = self._message("", "in_progress")
        yield self._event("response.output_item.added", output_index=0, item=message)
        yield self._event("response.content_part.added", **position, part=_part(""))
        text = ""
        finish = ""
        try:
            async for piece in self.generation:
                if not text:
                    FIRST_TOKEN.labels(self.version).observe(time.monotonic() - self.began)
                if piece.text:
                    text += piece.text
                    yield self._event("response.output_text.delta", **position, delta=piece.text, logprobs=[])
                finish = piece.finish or finish
        except RequestError as error:
            detail = json.loads(error_json(error))["error"]
            yield self._event("error", message=detail["message"], code=detail["code"], param=detail["param"])
            return
        whole_answer = self.json(text=text, finish=finish)
        yield self._event("response.output_text.done", **position, text=text, logprobs=[])
        yield self._event("response.content_part.done", **position, part=_part(text))
        yield self._event("response.output_item.done", output_index=0, item=whole_answer["output"][0])
        yield self._event(f"response.{whole_answer['status']}", response=whole_answer)

    def _event(self, kind: str, **content: Any) -> str:
        event = {"type": kind, "sequence_number": self.events, **content}
        self.events += 1
        return f"event: {kind}\ndata: {json.dumps(event)}\n\n"

    def close(self) -> None:
        """Give the places back, and count the tokens."""
        self.generation.close()
        TOKENS.labels(self.version).inc(self.generation.completion_tokens)


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
