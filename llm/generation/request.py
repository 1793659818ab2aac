"""The requests to an engine, prompts with their bounds, and its answers, an event a token."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from llm.errors import UserError
from llm.generation.sampling import GREEDY, Constraint, Sampling

Reason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Request:
    """A prompt and how it goes on: at most `max_new_tokens`, or until one of `stop_tokens`, which is left out."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = GREEDY
    stop_tokens: frozenset[int] = frozenset()
    logprobs: int | None = None
    """Number of likeliest tokens whose log-probability each event has next to its own token's, and each scored token
    next to its own; None leaves out all of the events."""
    scored: Sequence[int] = ()
    """A continuation to measure, such as the right answer: how likely it is. It does not change the new tokens."""
    prompt_scored: int = 0
    """How many of the prompt's last tokens are scored, too."""
    exempt: Container[int] = frozenset()
    """Tokens that `Sampling.text_penalty` leaves as they are: those without a letter."""
    constraint: Callable[[], Constraint] | None = None
    """Makes the rules of the text, such as llm/generation/grammar.py does."""

    @property
    def text(self) -> list[int]:
        """What is read before the first new token: all but the last token of what is scored, which predicts nothing."""
        return [*self.prompt, *self.scored[:-1]]

    @property
    def room(self) -> int:
        """Tokens that it may take of the context."""
        return len(self.prompt) + max(self.max_new_tokens, len(self.scored))


def check_request(request: Request, vocabulary_size: int, context_length: int) -> None:
    """Raise UserError for an empty prompt, an unknown token, no new tokens, or a text longer than the context."""
    prompt = request.prompt
    new = request.max_new_tokens
    if not prompt:
        raise UserError("the prompt is empty")
    tokens = (*prompt, *request.scored)
    for token in (min(tokens), max(tokens)):
        if not 0 <= token < vocabulary_size:
            raise UserError(f"token {token} is not one of the model's {vocabulary_size}")
    if new < 1:
        raise UserError(f"max_new_tokens {new} is less than 1")
    if not 0 <= request.prompt_scored < len(prompt):
        raise UserError(f"prompt_scored {request.prompt_scored} is not below the prompt's {len(prompt)} tokens")
    if request.room > context_length:
        added = f"{new} new" if new >= len(request.scored) else f"{len(request.scored)} scored"
        raise UserError(f"{len(prompt)} prompt tokens and {added} ones do not fit the context of {context_length}")


class Logprobs(NamedTuple):
    """Natural logarithms of probabilities as the model gives them, before temperature, penalties and cuts."""

    token: float
    """Of the token that was made."""
    likeliest: list[tuple[int, float]]
    """The likeliest tokens with theirs, the likeliest first."""


class Event(NamedTuple):
    """The result of one step for one request: a new token, its end, or both."""

    handle: int
    token: int | None
    ended: Reason | None = None
    logprobs: Logprobs | None = None
    scored: Sequence[Logprobs] | None = None
    """With the first event of a request that scores a text: those of each of its tokens."""
