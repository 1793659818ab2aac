"""Text from a model: whole, many at once, or a piece with each token."""

import codecs
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, NamedTuple

import tiktoken

from llm.errors import UserError
from llm.generation.engine import PREFILL_TOKENS, Engine
from llm.generation.reading import reading_of
from llm.generation.request import Request, check_request
from llm.generation.sampling import GREEDY, LIVELY, Sampling
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.tokenizer import decode, letterless_tokens, stop_tokens, token_bytes

MOST_AT_ONCE = 32
"""Rows of the batch; more prompts wait until others have ended."""
PADDED_PREFILL_TOKENS = 2048
"""Tokens of prompts a step where torch reads them: it is fastest with many at once, and here nobody waits."""


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_tokens: Iterable[int] = (),
    exempt: Container[int] = frozenset(),
) -> list[list[int]]:
    """Continue prompts of tokens; a text ends before any of `stop_tokens`, or after `max_new_tokens`.

    A seed counts for each prompt by itself: equal prompts give equal texts. `exempt` is as in `Request`. Raises
    UserError as `Engine.submit` does.
    """
    stop_tokens = frozenset(stop_tokens)
    requests = [
        Request(prompt, max_new_tokens, sampling=sampling, stop_tokens=stop_tokens, exempt=exempt) for prompt in prompts
    ]
    return [text.tokens for text in run(model, requests)]


def generate_text(
    loaded: LoadedModel[GPT], prompt: str, *, max_new_tokens: int = 60, sampling: Sampling = LIVELY
) -> str:
    """Continue a text until the model ends it: the continuation alone. Raises UserError as `Engine.submit` does."""
    model, encoding = loaded
    (tokens,) = generate(
        model,
        [encoding.encode_ordinary(prompt)],
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_tokens=stop_tokens(encoding),
        exempt=letterless_tokens(encoding),
    )
    return decode(encoding, tokens)


def options(default: Sampling) -> dict[str, tuple[type, Any]]:
    """The options of a served text: type and default of each."""
    types = {"top_k": int, "seed": int}
    fields = {name: (types.get(name, float), value) for name, value in default.model_dump().items()}
    return {"max_new_tokens": (int, 64)} | fields | {"seed": (int, 1)}


def request_maker(loaded: LoadedModel[GPT], default: Sampling, **chosen: Any) -> Callable[[list[int]], Request]:
    """A function that makes a request of a prompt's tokens, with the options chosen; the text goes on until the model
    ends it.

    Raises ValueError for an unknown option or value; the function raises UserError for a prompt that doesn't fit.
    """
    model, encoding = loaded
    values = {name: value for name, (_, value) in options(default).items()} | chosen
    max_new_tokens = values.pop("max_new_tokens")
    sampling = Sampling(**values)
    stops = stop_tokens(encoding)
    exempt = letterless_tokens(encoding)

    def make(prompt: list[int]) -> Request:
        request = Request(prompt, max_new_tokens, sampling=sampling, stop_tokens=stops, exempt=exempt)
        check_request(request, model.config.vocabulary_size, model.config.context_length)
        return request

    return make


def write_all(loaded: LoadedModel[GPT], requests: Sequence[Request]) -> list[str]:
    """The text of each request, many at once."""
    return [decode(loaded.encoding, text.tokens) for text in run(loaded.model, requests)]


class Written(NamedTuple):
    """The outcome of a request."""

    tokens: list[int]
    scored: list[float]
    """The log-probability, in nats, of each token that it scores."""


def run(model: GPT, requests: Sequence[Request], rows: int = MOST_AT_ONCE) -> list[Written]:
    """The outcome of each request, at most `rows` at a time. Raises UserError as `Engine.submit` does."""
    if not requests:
        return []
    prefill_tokens = PREFILL_TOKENS if reading_of(model).takes_lists else PADDED_PREFILL_TOKENS
    context_length = max(request.room for request in requests)
    engine = Engine(model, min(len(requests), rows), context_length, prefill_tokens=prefill_tokens)
    texts = {engine.submit(request): Written([], []) for request in requests}
    while engine.busy:
        for event in engine.step():
            text = texts[event.handle]
            text.scored.extend(logprobs.token for logprobs in event.scored or ())
            if event.token is not None:
                text.tokens.append(event.token)
    return list(texts.values())


class TextStream:
    """Tokens in, text out: never half a character, and nothing from a stop string on.

    Bytes that are no UTF-8 come out as U+FFFD, as in `Encoding.decode`. A text ends at the stop string that is complete
    first. Raises UserError for an empty stop string.
    """

    def __init__(self, encoding: tiktoken.Encoding, stop: Sequence[str] = ()) -> None:
        if "" in stop:
            raise UserError("a stop string is empty")
        self.stopped = False
        """Whether a stop string came; the text is then complete."""
        self._encoding = encoding
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, token: int) -> str:
        """The text that this token makes certain; empty where a character or a possible stop string is unfinished."""
        return self._advance(self._decoder.decode(token_bytes(self._encoding, token)))

    def finish(self) -> str:
        """The text that was held back, when no further token comes."""
        text = self._advance(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _advance(self, text: str) -> str:
        """Add text; return what is certain of all that was held back."""
        if self.stopped:
            return ""
        self._held += text
        end = self._stop_position()
        if end is not None:
            self.stopped = True
            certain = self._held[:end]
            self._held = ""
            return certain
        end = len(self._held) - self._unfinished_stop()
        certain = self._held[:end]
        self._held = self._held[end:]
        return certain

    def _stop_position(self) -> int | None:
        """Where the stop string begins that is complete first, the longest of several; None without one."""
        places = []
        for stop in self._stop:
            start = self._held.find(stop)
            if start >= 0:
                places.append((start + len(stop), start))
        return min(places)[1] if places else None

    def _unfinished_stop(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = max(map(len, self._stop), default=1) - 1
        for size in range(min(len(self._held), longest), 0, -1):
            ending = self._held[-size:]
            if any(stop.startswith(ending) for stop in self._stop):
                return size
        return 0
