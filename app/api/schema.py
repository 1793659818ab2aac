"""Requests and answers of /v1: the part of OpenAI's schema that these models support.

Names and meaning are those of OpenAI's reference of /chat/completions and /completions. Every name that a request may
have is here, in nested objects too: those that change an answer, those that change nothing (`user`), and those that are
accepted only with a value that asks for nothing (`tools: null`). Any other name is an error. `top_k` is an
addition that other servers of open models have, too; `text_penalty` is our own.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from app.errors import RequestError
from llm.chat import Message
from llm.generation.sampling import Sampling

UNSUPPORTED: dict[str, tuple[Any, ...]] = {  # of all three kinds of request, with the values that ask for nothing
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "reasoning_effort": (None, "none"),
    "verbosity": (None, "medium"),
    "suffix": (None, ""),
    "best_of": (None, 1),
    **dict.fromkeys(("previous_response_id", "conversation", "reasoning", "prompt", "max_tool_calls"), (None,)),
    "background": (None, False),
    "include": (None, []),
    "truncation": (None, "disabled"),
}
UNSUPPORTED_OF_MESSAGES: dict[str, tuple[Any, ...]] = {  # which OpenAI's answers have, and clients send back
    **dict.fromkeys(("refusal", "audio", "function_call"), (None,)),
    **dict.fromkeys(("annotations", "tool_calls"), (None, [])),
}
MOST_STOP = 256
"""Characters of a stop string: each new piece of text is compared with all its beginnings."""
LONGEST_NAME = 100
"""Characters of an unknown name that its error repeats."""
LONGEST_MESSAGE = 1000
"""Characters of an error, which may repeat what the client sent."""
LEAST_TOP_P = 1e-6
"""Below it only the likeliest token is left; float32 would round it to 0, which leaves nothing."""


def nucleus(top_p: float | None, top_k: int | None = None) -> tuple[float | None, int | None]:
    """The `top_p` and `top_k` to sample with: a tiny `top_p` asks for the likeliest token alone."""
    if top_p is not None and top_p < LEAST_TOP_P:
        return None, 1
    return top_p, top_k


class Closed(BaseModel):
    """A part of a request: types are strict, numbers are finite, and an unknown name is an error."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Names of what is not done here, with the values that ask for nothing."""

    @model_validator(mode="before")
    @classmethod
    def _has_known_names(cls, value: Any) -> Any:
        """The parts that mean something. Only the first unknown name is an error: 4 MB have room for 500,000."""
        if not isinstance(value, dict):
            return value
        names = {field.alias or name for name, field in cls.model_fields.items()}
        for name in value:
            if name in names or (name in cls.unsupported and value[name] in cls.unsupported[name]):
                continue
            reason = "{part} is not supported" if name in cls.unsupported else "{part} is not known"
            part = name[:LONGEST_NAME].encode(errors="replace").decode()
            raise PydanticCustomError("unknown_part", reason, {"part": part})
        return {name: part for name, part in value.items() if name in names}


FIRST_ERROR = Field(fail_fast=True)
"""Reports only the first wrong item of a list: reporting all in a megabyte took seconds and 2 GB."""


class TextPart(Closed):
    """A piece of a message."""

    type: Literal["text"]
    text: str
    unsupported: ClassVar = dict.fromkeys(("image_url", "input_audio", "file"), ())


class ConversationTurn(Closed):
    """What messages of both APIs have."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Any

    def turn(self) -> Message:
        """The turn that the model reads."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return Message(role, self.content)
        return Message(role, "".join(part.text for part in self.content))


class ChatMessage(ConversationTurn):
    """A turn of a conversation."""

    content: str | Annotated[list[TextPart], FIRST_ERROR]
    name: str | None = None
    """The speaker's name, if several share a role; the models do not see it."""
    unsupported: ClassVar = UNSUPPORTED_OF_MESSAGES


class Bookkeeping(Closed):
    """Fields that are accepted and ignored: the server stores nothing, charges nothing and calls no tools."""

    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    parallel_tool_calls: bool | None = None


class StreamOptions(Closed):
    """Options of a stream."""

    include_usage: bool = False
    """Whether it ends with the numbers of tokens."""
    include_obfuscation: bool = False
    """Changes nothing."""


Stop = Annotated[str, Field(min_length=1, max_length=MOST_STOP)]


class _Request(Bookkeeping):
    """The fields of both kinds of request."""

    unsupported: ClassVar = UNSUPPORTED

    model: str | None = Field(default=None, max_length=200)
    """`assistant` is its champion, `assistant@challenger` an alias, `assistant/3` a version; null the first model that
    can answer."""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0, the default here, takes the likeliest token, as in the models' evaluation."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=1, le=1_000_000)
    text_penalty: float | None = Field(default=None, ge=0.01, le=100)
    """Divides the logits of words that the answer holds already; 1 changes nothing, null is the model's own default."""
    n: int | None = Field(default=1, ge=1, le=16)
    stop: Stop | Annotated[list[Stop], Field(max_length=16, fail_fast=True)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    prompt_cache_retention: str | None = None
    """Changes nothing."""

    @property
    def stops(self) -> list[str]:
        """The strings that end a text."""
        if isinstance(self.stop, str):
            return [self.stop]
        return self.stop or []

    @property
    def sampling(self) -> Sampling:
        """The options that choose tokens."""
        top_p, top_k = nucleus(self.top_p, self.top_k)
        return Sampling(
            temperature=self.temperature or 0.0,
            top_p=top_p,
            top_k=top_k,
            text_penalty=self.text_penalty,
            seed=None if self.seed is None else self.seed % 2**63,
        )


class JsonSchema(Closed):
    """A JSON schema that an answer follows, and its name."""

    name: str = Field(max_length=LONGEST_NAME)
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    description: str | None = None
    strict: bool | None = None
    """Changes nothing: every answer follows its schema."""


class ResponseFormat(Closed):
    """The form of an answer: text, any JSON object, or JSON within a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_a_schema_if_it_says_so(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("type json_schema and json_schema belong together")
        return self

    @property
    def schema_followed(self) -> Mapping[str, Any] | None:
        """The schema that the answer follows; None for text."""
        if self.type == "text":
            return None
        return (self.json_schema and self.json_schema.schema_) or {"type": "object"}


class ChatRequest(_Request):
    """A conversation to continue."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000, fail_fast=True)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _has_logprobs_if_it_has_their_number(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self


Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
T = TypeVar("T")
Prompts = Annotated[list[T], Field(min_length=1, max_length=16, fail_fast=True)]


class CompletionRequest(_Request):
    """Texts to continue."""

    prompt: str | Tokens | Prompts[str] | Prompts[Tokens]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """So many likeliest tokens in the place of each token."""
    echo: bool | None = False
    """Whether the prompt comes first, with its log-probabilities if `logprobs` is there; not in a stream."""

    @model_validator(mode="after")
    def _is_whole_if_it_echoes(self) -> Self:
        if self.echo and self.stream:
            raise ValueError("echo is not supported in a stream")
        return self


class Model(BaseModel):
    """A model, or a version of one."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "threestage"
    version: str
    """The version that answers by this name."""
    aliases: list[str]
    capabilities: list[str]
    """Its capabilities: chat, complete, classify or guard."""
    description: str


class Models(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetail(BaseModel):
    """Why a request has no answer."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Error(BaseModel):
    """The same, in OpenAI's form."""

    error: ErrorDetail


def error_json(error: RequestError, status: int | None = None) -> str:
    """An error as OpenAI's clients read it, in ASCII: it may repeat half a pair of surrogates, which is no UTF-8."""
    content = {
        "message": str(error)[:LONGEST_MESSAGE],
        "type": "invalid_request_error" if (status or error.status) < 429 else "server_error",
        "param": error.param and error.param[:LONGEST_MESSAGE],
        "code": error.code,
    }
    return json.dumps({"error": content})


def error_response(
    error: RequestError, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer to a request that has none; `status` is the error's own by default."""
    content = error_json(error, status)
    return Response(content, status or error.status, headers=headers, media_type="application/json")
