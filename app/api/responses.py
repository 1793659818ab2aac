"""/v1/responses, a chat in another form and without state: each request brings its whole conversation."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, ClassVar, Literal
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from app.api.openai import ERRORS, EVENTS, Answer, answer_conversation
from app.api.schema import (
    FIRST_ERROR,
    UNSUPPORTED,
    Bookkeeping,
    ChatMessage,
    ChatRequest,
    Closed,
    ConversationTurn,
    JsonSchema,
    ResponseFormat,
    error_json,
)
from app.errors import RequestError

NOTHING = (None, [])
STATUS = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is not complete, by how it ended."""

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=ERRORS)


class InputText(Closed):
    """A piece of a message, of a person or of an earlier answer."""

    type: Literal["input_text", "output_text"]
    text: str
    unsupported: ClassVar = {"annotations": NOTHING, "logprobs": NOTHING}


class InputMessage(ConversationTurn):
    """A turn of a conversation; what only answers have changes nothing."""

    content: str | Annotated[list[InputText], FIRST_ERROR]
    type: Literal["message"] = "message"
    id: str | None = None
    status: str | None = None
    unsupported: ClassVar = {"phase": NOTHING}


class TextFormat(JsonSchema):
    """The form of an answer: text, any JSON object, or JSON within a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str = ""


class TextOptions(Closed):
    """Options of the answer's text."""

    format: TextFormat | None = None
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
    top_p: float | None = Field(default=None, ge=0, le=1)
    text: TextOptions = TextOptions()
    stream: bool | None = False

    def as_chat(self) -> ChatRequest:
        """The same request to /v1/chat/completions. Raises RequestError for a schema without its type."""
        system = [ChatMessage(role="system", content=self.instructions)] if self.instructions else []
        turns: list[Any] = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else []
        for message in self.input if not isinstance(self.input, str) else ():
            turns.append({"role": message.role, "content": message.turn().content})
        form = self.text.format
        if form and (form.type == "json_schema") != (form.schema_ is not None):
            raise RequestError("type json_schema and schema belong together", "text.format")
        schema = JsonSchema(name="answer", schema=form.schema_) if form and form.schema_ is not None else None
        return ChatRequest.model_construct(
            model=self.model,
            messages=[*system, *map(ChatMessage.model_validate, turns)],
            max_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            response_format=form and ResponseFormat(type=form.type, json_schema=schema),
        )


@router.post("/responses", summary="Answer a conversation", responses=EVENTS)
async def responses(request: Request, body: ResponseRequest) -> Response:
    """The assistant's next turn, or the guard's, whole or (`stream`) as server-sent events. Nothing is stored."""
    names = {"messages": "input", "response_format": "text.format"}
    answer = await answer_conversation(request, body.as_chat(), names)
    head = {"id": f"resp_{uuid4().hex}", "object": "response", "created_at": answer.created}
    head |= {"model": answer.loaded.registered_name, "parallel_tool_calls": False, "tools": [], "tool_choice": "none"}
    if body.stream:
        return answer.events(_events(answer, head))
    (choice,) = await answer.whole(request)
    return JSONResponse(head | _ended(answer, choice.text, finish=choice.finish))


def _ended(answer: Answer, text: str, *, finish: str) -> dict[str, Any]:
    """What a response has at its end."""
    reason = STATUS.get(finish)
    status = "incomplete" if reason else "completed"
    prompt, new = answer.generation.prompt_tokens, answer.generation.completion_tokens
    return {
        "status": status,
        "incomplete_details": {"reason": reason} if reason else None,
        "output": [_message(status, [_part(text)])],
        "usage": {"input_tokens": prompt, "output_tokens": new, "total_tokens": prompt + new},
    }


def _message(status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": "msg_0", "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


async def _events(answer: Answer, head: dict[str, Any]) -> AsyncIterator[str]:
    count = 0

    def event(kind: str, **content: Any) -> str:
        nonlocal count
        count += 1
        return f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': count - 1, **content})}\n\n"

    at = {"output_index": 0, "content_index": 0, "item_id": "msg_0"}
    yield event("response.created", response=head | {"status": "in_progress", "output": []})
    yield event("response.output_item.added", output_index=0, item=_message("in_progress", []))
    yield event("response.content_part.added", **at, part=_part(""))
    text = finish = ""
    try:
        async for piece in answer.pieces():
            text += piece.text
            finish = piece.finish or finish
            if piece.text:
                yield event("response.output_text.delta", **at, delta=piece.text, logprobs=[])
    except RequestError as error:
        yield event("error", **json.loads(error_json(error))["error"] | {"type": "error"})
        return
    response = head | _ended(answer, text, finish=finish)
    yield event("response.output_text.done", **at, text=text, logprobs=[])
    yield event("response.content_part.done", **at, part=_part(text))
    yield event("response.output_item.done", output_index=0, item=response["output"][0])
    yield event(f"response.{response['status']}", response=response)
