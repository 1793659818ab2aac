"""Many texts at once from one model, each of which comes and goes when it likes.

A decoding step reads all weights, for one text or for many: so texts share steps. A static batch would wait for its
longest text; continuous batching (Orca, Yu et al. 2022) lets a text join or leave between any two steps. Each text owns
a row of one cache of keys and values. Running texts lie in the first rows without gaps: when one leaves, it changes
places with the last one, and a step is one forward pass over rows 0 … n - 1.

A prompt that begins as another text does, one that runs or was among the last that left, takes over the keys and
values of what they share (RadixAttention, Zheng et al. 2024, keeps more texts). So the next turn of a
conversation costs its own tokens and not all of them.

A prompt is read in pieces beside the running texts, so that they never wait for a whole one: see pieces.py.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor
from torch.nn import functional as F

from llm.generation.pieces import Piece, read_pieces
from llm.generation.reading import reading_of
from llm.generation.request import Event, Logprobs, Request, check_request
from llm.generation.sampling import Sampler, choose
from llm.model.gpt import GPT
from llm.model.key_value_cache import KeyValueCache

PREFILL_TOKENS = 256
"""Most prompt tokens that a step reads beside a token of each running text, which waits for them."""
KEPT = 4
"""Rows beside the running ones that texts which have left may take: each takes as much memory as its longest text."""


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
    """A text: one whose prompt is read in pieces, then a running one."""

    handle: int
    request: Request
    sampler: Sampler
    cached: _CachedTokens
    token: int | None = None
    """The newest, not yet in the cache; None until the prompt is read."""
    last_C: Tensor | None = None
    """The hidden states of the prompt's last token, which predict the first new one."""
    scored: list[float] = field(default_factory=list)

    def piece(self, place: int, most: int) -> Piece:
        """What it reads next: its newest token, or at most so many of its prompt and what is scored."""
        start = len(self.cached.tokens)
        if self.token is not None:
            return Piece(place, start, [self.token])
        return Piece(place, start, self.request.text[start : start + most])

    def take(self, token: int, logits_V: Tensor) -> Event:
        self.token, self.last_C = token, None
        scored, self.scored = self.scored or None, []
        if token in self.request.stop_tokens:
            return Event(self.handle, None, "stop", scored=scored)
        # the cache holds the prompt and all new tokens but this one
        made = len(self.cached.tokens) - len(self.request.prompt) + 1
        ended = "length" if made == self.request.max_new_tokens else None
        return Event(self.handle, token, ended, _logprobs(logits_V, token, self.request.logprobs), scored)


@dataclass(frozen=True)
class _Progress:
    """What a row gains from a piece, before any row changes."""

    row: _Row
    piece: Piece
    scored: list[float]
    last_C: Tensor | None
    """The hidden states that predict its next token, where they are known."""

    @property
    def complete(self) -> bool:
        """Whether a new token follows."""
        return self.row.token is not None or self.piece.end == len(self.row.request.text)

    def commit(self) -> None:
        self.row.cached.tokens.extend(self.piece.tokens)
        self.row.scored.extend(self.scored)
        self.row.last_C = self.last_C
        if self.complete and self.row.token is None:  # new tokens take the places of what was scored
            del self.row.cached.tokens[len(self.row.request.prompt) :]


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
    2 * n_layer * kv_heads * head_width numbers a token. `prefill_tokens` bounds the prompt tokens that a step reads.
    """

    def __init__(
        self, model: GPT, rows: int, context_length: int | None = None, *, prefill_tokens: int = PREFILL_TOKENS
    ) -> None:
        if rows < 1 or prefill_tokens < 1:
            raise ValueError(f"an engine of {rows} rows that reads {prefill_tokens} prompt tokens a step runs nothing")
        self.model, self.size, self.prefill_tokens = model, rows, prefill_tokens
        self.context_length = min(context_length or model.config.context_length, model.config.context_length)
        shape = model.config.model_copy(update={"context_length": self.context_length})
        # one row more, for two that change places
        self._cache = KeyValueCache(shape, rows + 1, model.device, reading_of(model).cache_dtype)
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
        """Read a piece of each prompt that is next, and make one token for each running text.

        Says what happened, in no promised order. Where it raises no text has moved, and all may step again. Those that
        were cancelled have left, and the next step says so.
        """
        self._step += 1
        self._drop_cancelled()
        if pieces := self._plan():
            self._pending += self._read(pieces)
        events, self._pending = self._pending, []
        return events

    def _plan(self) -> list[Piece]:
        """The newest token of each running text, and up to `prefill_tokens` of prompts, in the order of arrival."""
        pieces, left = [], self.prefill_tokens
        for place in sorted(range(len(self.rows)), key=lambda place: self.rows[place].handle):
            row = self.rows[place]
            if row.token is not None:
                pieces.append(row.piece(place, 1))
            elif left:
                pieces.append(row.piece(place, left))
                left -= len(pieces[-1].tokens)
        while left and self._queue and len(self.rows) < self.size:
            self._admit()
            pieces.append(self.rows[-1].piece(len(self.rows) - 1, left))
            left -= len(pieces[-1].tokens)
        return sorted(pieces, key=lambda piece: piece.row)

    def _read(self, pieces: list[Piece]) -> list[Event]:
        """Read pieces, and make a token for each text that has read all; its events."""
        parts_TC = read_pieces(self.model, pieces, self._cache)
        progress = [self._progress(piece, x_TC) for piece, x_TC in zip(pieces, parts_TC, strict=True)]
        complete = [step for step in progress if step.complete]
        tokens, logits_BV = [], ()
        if complete:
            logits_BV = self.model.logits(torch.stack([step.last_C for step in complete]))
            tokens = choose(logits_BV, [step.row.sampler for step in complete])
        for step in progress:
            step.commit()
        events = [
            step.row.take(token, logits_V) for step, token, logits_V in zip(complete, tokens, logits_BV, strict=True)
        ]
        self._leave([step.piece.row for step, event in zip(complete, events, strict=True) if event.ended])
        return events

    def _progress(self, piece: Piece, x_TC: Tensor) -> _Progress:
        row = self.rows[piece.row]
        if row.token is not None:
            return _Progress(row, piece, [], x_TC[-1])
        request = row.request
        tokens, last = [*request.prompt, *request.scored], len(request.prompt) - 1
        last_C = x_TC[last - piece.start] if piece.start <= last < piece.end else row.last_C
        first = max(piece.start, last - request.prompt_scored)  # whose hidden states predict a token that is scored
        end = min(piece.end, len(tokens) - 1)
        scored = self._score(x_TC[first - piece.start : end - piece.start], tokens[first + 1 : end + 1])
        return _Progress(row, piece, scored, last_C)

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

    def _admit(self) -> None:
        """Give the first request of the queue a row."""
        handle, request = self._queue[0]
        sampler = Sampler(request.sampling, request.prompt, self.model.device, request.exempt)
        cached = self._assign_row(len(self.rows), request)
        self.rows.append(_Row(handle, request, sampler, cached))
        self._queue.popleft()

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

    def _score(self, x_TC: Tensor, tokens: Sequence[int]) -> list[float]:
        """The log-probability of tokens, from the hidden states before them."""
        if not tokens:
            return []
        logits_TV = self.model.logits(x_TC).float()
        tokens_T = torch.tensor(tokens, device=x_TC.device)
        return (-F.cross_entropy(logits_TV, tokens_T, reduction="none")).tolist()

    def _leave(self, places: list[int]) -> None:
        for place in reversed(places):
            last = self.rows.pop()
            self._cached[place].step = self._step
            if place < len(self.rows):
                self._exchange(place, len(self.rows))
                self.rows[place] = last
