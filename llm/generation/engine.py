"""Many texts at once from one model, each of which comes and goes when it likes.

A decoding step reads all weights, for one text or for many: so texts share steps. A static batch would wait for its
longest text; continuous batching (Orca, Yu et al. 2022) lets a text join or leave between any two steps. Each text owns
a row of one cache of keys and values. Running texts lie in the first rows without gaps: when one leaves, it changes
places with the last one, and a step is one forward pass over rows 0 … n - 1.

A prompt that begins as another text does, one that runs or was among the last that left, takes over the keys and
values of what they share (RadixAttention, Zheng et al. 2024, keeps more texts). So the next turn of a
conversation costs its own tokens and not all of them.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from llm.dataset import pad
from llm.errors import UserError
from llm.generation.sampling import GREEDY, Sampler, Sampling, choose
from llm.model.gpt import GPT
from llm.model.key_value_cache import KeyValueCache

PREFILL_TOKENS = 2048
"""Most prompt tokens, padding included, that a step reads; a longer prompt is read alone. Running texts wait for it."""
KEPT = 4
"""Rows beside the running ones that texts which have left may take: each takes as much memory as its longest text."""
SCORED = 256
"""Scored tokens whose logits are in memory at once."""

Reason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Request:
    """A prompt and how it goes on: at most `max_new_tokens`, or until one of `stop_tokens`, which is left out."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = GREEDY
    stop_tokens: frozenset[int] = frozenset()
    logprobs: int | None = None
    """How many of the likeliest tokens each event tells the log-probability of, beside its own; None tells none."""
    scored: Sequence[int] = ()
    """A continuation that is there already, such as the right answer: how likely it is where another one is made."""
    prompt_scored: int = 0
    """How many of the prompt's last tokens are scored, too."""

    @property
    def room(self) -> int:
        """Tokens that it may take of the context."""
        return len(self.prompt) + max(self.max_new_tokens, len(self.scored))


def check_request(request: Request, vocabulary_size: int, context_length: int) -> None:
    """Raise UserError for an empty prompt, an unknown token, no new tokens, or a text longer than the context."""
    prompt, new = request.prompt, request.max_new_tokens
    if not prompt:
        raise UserError("the prompt is empty")
    tokens = (*prompt, *request.scored)
    if worst := [token for token in (min(tokens), max(tokens)) if not 0 <= token < vocabulary_size]:
        raise UserError(f"token {worst[0]} is not one of the model's {vocabulary_size}")
    if new < 1:
        raise UserError(f"max_new_tokens {new} is less than 1")
    if not 0 <= request.prompt_scored < len(prompt):
        raise UserError(f"prompt_scored {request.prompt_scored} is not below the prompt's {len(prompt)} tokens")
    if request.room > context_length:
        more = f"{new} new" if new >= len(request.scored) else f"{len(request.scored)} scored"
        raise UserError(f"{len(prompt)} prompt tokens and {more} ones do not fit the context of {context_length}")


class Logprobs(NamedTuple):
    """Natural logarithms of probabilities as the model gives them, before temperature, penalties and cuts."""

    token: float
    """Of the token that was made."""
    likeliest: list[tuple[int, float]]
    """The likeliest tokens with theirs, the likeliest first."""


class Event(NamedTuple):
    """What a step did to a request: made a token, ended it, or both."""

    handle: int
    token: int | None
    ended: Reason | None = None
    logprobs: Logprobs | None = None
    scored: Sequence[float] | None = None
    """With the first event of a request that scores a text: the log-probability of each of its tokens."""


@dataclass
class _CachedTokens:
    """The tokens whose keys and values are in a row of the cache, from the first position on."""

    tokens: list[int]
    step: int = -1
    """When a text last came or left."""

    def shared(self, request: Request) -> int:
        """How many tokens of its prompt's beginning, but for those whose hidden states predict the next token."""
        prompt = request.prompt
        most = min(len(self.tokens), max(0, len(prompt) - 1 - request.prompt_scored))
        return next((n for n in range(most) if self.tokens[n] != prompt[n]), most)


@dataclass
class _Row:
    """A running text."""

    handle: int
    request: Request
    sampler: Sampler
    cached: _CachedTokens
    token: int = -1
    """The newest, not yet in the cache."""
    scored: Sequence[float] | None = None

    def take(self, token: int, logits_V: Tensor) -> Event:
        self.token = token
        scored, self.scored = self.scored, None
        if token in self.request.stop_tokens:
            return Event(self.handle, None, "stop", scored=scored)
        # the cache holds the prompt and all new tokens but this one
        made = len(self.cached.tokens) - len(self.request.prompt) + 1
        ended = "length" if made == self.request.max_new_tokens else None
        return Event(self.handle, token, ended, _logprobs(logits_V, token, self.request.logprobs), scored)


def _logprobs(logits_V: Tensor, token: int, likeliest: int | None) -> Logprobs | None:
    if likeliest is None:
        return None
    logprobs_V = logits_V.float().log_softmax(dim=-1)
    values, tokens = logprobs_V.topk(min(likeliest, len(logprobs_V)))
    return Logprobs(logprobs_V[token].item(), list(zip(tokens.tolist(), values.tolist(), strict=True)))


class Engine:
    """Generates for up to `rows` requests at once; others wait, first come, first served.

    `submit` and `cancel` only take note: all work happens in `step`. Use an engine from one thread at a time. The model
    must be in evaluation mode. `context_length` bounds a text to less than the model's, and so the memory of the cache:
    2 * n_layer * kv_heads * head_width numbers a token.
    """

    def __init__(self, model: GPT, rows: int, context_length: int | None = None) -> None:
        if rows < 1:
            raise ValueError(f"an engine of {rows} rows can run nothing")
        self.model, self.size = model, rows
        self.context_length = min(context_length or model.config.context_length, model.config.context_length)
        shape = model.config.model_copy(update={"context_length": self.context_length})
        # one more row, for those that change places
        self._cache = KeyValueCache(shape, rows + 1, model.device, model.cache_dtype)
        self._cached = [_CachedTokens([]) for _ in range(rows)]
        self.rows: list[_Row] = []
        self._step = 0
        self._queue: deque[tuple[int, Request]] = deque()
        self._cancelled: set[int] = set()
        self._pending: list[Event] = []
        self._handles = count()

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self.rows or self._queue)

    def submit(self, request: Request) -> int:
        """Put a request in the queue; the handle names it in events. Raises UserError as `check_request` does."""
        check_request(request, self.model.config.vocabulary_size, self.context_length)
        handle = next(self._handles)
        self._queue.append((handle, request))
        return handle

    def cancel(self, handle: int) -> None:
        """End a request at the next step; one that has ended already is left alone."""
        self._cancelled.add(handle)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Let requests join and make one token for each running one; says what happened, in no promised order.

        Where it raises no text has moved: requests that would have joined wait, and running ones may step again. Those
        that were cancelled have left, and the next step says so.
        """
        self._step += 1
        self._drop_cancelled()
        running, joining = self.rows, self._admit()
        parts_BC = []
        if running:
            parts_BC.append(self._decode(running))
        if joining:
            parts_BC.append(self._prefill(len(running), joining))
        if parts_BC:
            rows = running + joining
            logits_BV = self.model.logits(torch.cat(parts_BC))
            tokens = choose(logits_BV, [row.sampler for row in rows])
            for row in running:
                row.cached.tokens.append(row.token)
            for row in joining:
                self._queue.popleft()
                row.cached.tokens = list(row.request.prompt)
            self.rows = rows
            made = [row.take(token, logits_V) for row, token, logits_V in zip(rows, tokens, logits_BV, strict=True)]
            self._leave([place for place, event in enumerate(made) if event.ended])
            self._pending += made
        events, self._pending = self._pending, []
        return events

    def _drop_cancelled(self) -> None:
        if not self._cancelled:
            return
        places = [place for place, row in enumerate(self.rows) if row.handle in self._cancelled]
        waiting = [handle for handle, _ in self._queue if handle in self._cancelled]
        gone = [*(self.rows[place].handle for place in places), *waiting]
        self._pending += [Event(handle, None, "cancelled") for handle in gone]
        self._leave(places)
        self._queue = deque(item for item in self._queue if item[0] not in self._cancelled)
        self._cancelled.clear()

    def _admit(self) -> list[_Row]:
        """The first requests of the queue, as many as there are free rows and as one padded batch may hold."""
        joining: list[_Row] = []
        longest = 0
        for handle, request in islice(self._queue, self.size - len(self.rows)):
            longest = max(longest, len(request.prompt) + len(request.scored))
            if joining and longest * (len(joining) + 1) > PREFILL_TOKENS:
                break
            cached = self._assign_row(len(self.rows) + len(joining), request)
            sampler = Sampler(request.sampling, request.prompt, self.model.device)
            joining.append(_Row(handle, request, sampler, cached))
        return joining

    def _assign_row(self, place: int, request: Request) -> _CachedTokens:
        """Have a free row hold as much of a prompt's beginning as is known from others that run or have left.

        A text that has left is taken over where that is half of it; else the text that left first gives its row.
        """
        free = range(place, min(place + KEPT, self.size))
        donor = max([*range(len(self.rows)), *free], key=lambda number: self._cached[number].shared(request))
        count = self._cached[donor].shared(request)
        whole = donor in free and 2 * count >= len(self._cached[donor].tokens)
        given = donor if whole else min(free, key=lambda number: self._cached[number].step)
        if given != place:
            self._exchange(given, place)
            donor = {given: place, place: given}.get(donor, donor)
        if donor != place:
            self._cache.move(donor, place, count)
        self._cached[place] = _CachedTokens(list(request.prompt[:count]), self._step)
        return self._cached[place]

    def _exchange(self, one: int, other: int) -> None:
        """Two rows of the cache change places by the one behind all: copies in new memory take half as long again."""
        for source, target, row in ((one, self.size, one), (other, one, other), (self.size, other, one)):
            self._cache.move(source, target, len(self._cached[row].tokens))
        self._cached[one], self._cached[other] = self._cached[other], self._cached[one]

    def _prefill(self, first: int, joining: list[_Row]) -> Tensor:
        """Read what is new of prompts, and what is scored, into the rows from `first` on; the hidden states of each
        prompt's last token, BC."""
        device, starts = self.model.device, [len(row.cached.tokens) for row in joining]
        texts = [[*row.request.prompt, *row.request.scored[:-1]] for row in joining]
        tokens_BT, _ = pad([text[start:] for text, start in zip(texts, starts, strict=True)], 0)
        positions_BT = torch.tensor(starts)[:, None] + torch.arange(tokens_BT.shape[1])
        positions_BT.clamp_(max=self.context_length - 1)  # padding stays within the row, and no text holds that place
        cache = self._cache.rows(first, first + len(joining))
        x_BTC = self.model.hidden_states(tokens_BT.to(device), positions_BT.to(device), cache=cache)
        lasts = [len(row.request.prompt) - 1 - start for row, start in zip(joining, starts, strict=True)]
        for x_TC, row, last in zip(x_BTC, joining, lasts, strict=True):
            first_scored = len(row.request.prompt) - row.request.prompt_scored
            if tokens := [*row.request.prompt[first_scored:], *row.request.scored]:
                before = last - row.request.prompt_scored
                row.scored = self._score(x_TC[before : before + len(tokens)], tokens)
        return x_BTC[torch.arange(len(joining)), torch.tensor(lasts)]

    def _score(self, x_TC: Tensor, tokens: Sequence[int]) -> list[float]:
        """The log-probability of tokens, from the hidden states before them."""
        tokens_T, found = torch.tensor(tokens, device=x_TC.device), []
        for x_SC, tokens_S in zip(x_TC.split(SCORED), tokens_T.split(SCORED), strict=True):
            found += (-F.cross_entropy(self.model.logits(x_SC).float(), tokens_S, reduction="none")).tolist()
        return found

    def _decode(self, rows: list[_Row]) -> Tensor:
        """Read each row's newest token; its hidden states, BC."""
        device = self.model.device
        tokens_B1 = torch.tensor([[row.token] for row in rows], device=device)
        positions_B1 = torch.tensor([[len(row.cached.tokens)] for row in rows], device=device)
        return self.model.hidden_states(tokens_B1, positions_B1, cache=self._cache.rows(0, len(rows)))[:, 0]

    def _leave(self, places: list[int]) -> None:
        for place in reversed(places):
            last = self.rows.pop()
            self._cached[place].step = self._step
            if place < len(self.rows):
                self._exchange(place, len(self.rows))
                self.rows[place] = last
