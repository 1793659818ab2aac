"""Many texts at once from one model, each of which comes and goes when it likes.

A decoding step reads all weights, for one text or for many: so texts share steps. A static batch would wait for its
longest text; continuous batching (Orca, Yu et al. 2022) lets a text join or leave between any two steps. Each text owns
a row of one cache of keys and values. Running texts lie in the first rows without gaps: when one leaves, it changes
places with the last one, and a step is one forward pass over rows 0 … n - 1.

A prompt that begins as another text does, one that runs or was among the last that left, takes over the keys and
values of what they share (RadixAttention, Zheng et al. 2024, keeps more texts). So the next turn of a
conversation costs its own tokens and not all of them.

A prompt is read in pieces beside the running texts, so that they never wait for a whole one: see pieces.py.

How a token gets out:

    submit       a request waits in the queue
    step
      _plan      gives it a row of the cache, and plans a piece for each text: its newest token, or a part of its prompt
      read_pieces    the model's hidden states of all pieces; keys and values go into the cache (packed.py: by decode.c)
      _choose    logits of the last state of each text; its Sampler chooses a token
      _free      texts that have ended leave their rows
    event        the token; text.py makes text of it
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
from llm.generation.request import Event, Logprobs, Reason, Request, check_request
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
    changed: int = -1
    """The step in which a text last came or left."""

    def shared(self, request: Request) -> int:
        """How many of the prompt's first tokens are here; not the last one or scored ones, which must be read."""
        limit = min(len(self.tokens), len(request.prompt) - 1 - request.prompt_scored)
        for position in range(limit):
            if self.tokens[position] != request.prompt[position]:
                return position
        return limit


@dataclass
class _Text:
    """A text in a row of the cache: its prompt is read in pieces, then it runs."""

    handle: int
    request: Request
    sampler: Sampler
    cached: _CachedTokens
    token: int | None = None
    """The newest, not yet in the cache; None until the prompt is read."""
    last_C: Tensor | None = None
    """The hidden states of the prompt's last token, which predict the first new one."""
    scored: list[Logprobs] = field(default_factory=list)

    def piece(self, row: int, most: int) -> Piece:
        """The tokens to read next: the newest one, or at most `most` of the prompt and of what is scored."""
        start = len(self.cached.tokens)
        if self.token is not None:
            return Piece(row, start, [self.token])
        return Piece(row, start, self.request.text[start : start + most])

    def accept(self, token: int, logits_V: Tensor) -> Event:
        """Continue with a new token, or end."""
        self.token = token
        self.last_C = None
        scored = self.scored or None
        self.scored = []
        if token in self.request.stop_tokens:
            return Event(self.handle, None, "stop", scored=scored)
        # the cache holds the prompt and all new tokens but this one
        new_tokens = len(self.cached.tokens) - len(self.request.prompt) + 1
        ended: Reason | None = "length" if new_tokens == self.request.max_new_tokens else None
        logprobs = _logprobs(logits_V, token, self.request.logprobs)
        return Event(self.handle, token, ended, logprobs=logprobs, scored=scored)


@dataclass
class _PieceResult:
    """What a text gains from a piece; `commit` adds it, once no text's piece can fail any more."""

    text: _Text
    piece: Piece
    scored: list[Logprobs]
    last_C: Tensor | None
    """The hidden states that predict the next token, as soon as they are known."""

    @property
    def complete(self) -> bool:
        """Whether a new token follows."""
        return self.text.token is not None or self.piece.end == len(self.text.request.text)

    def commit(self) -> None:
        tokens = self.text.cached.tokens
        tokens.extend(self.piece.tokens)
        self.text.scored.extend(self.scored)
        self.text.last_C = self.last_C
        if self.complete and self.text.token is None:  # new tokens replace those that were scored
            del tokens[len(self.text.request.prompt) :]


def _logprobs(logits_V: Tensor, token: int, likeliest: int | None) -> Logprobs | None:
    if likeliest is None:
        return None
    logprobs_V = logits_V.float().log_softmax(dim=-1)
    (candidates,) = _likeliest(logits_V[None], likeliest)
    return Logprobs(logprobs_V[token].item(), candidates)


def _likeliest(logits_TV: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """The likeliest tokens with their log-probabilities, in each place."""
    values_TN, tokens_TN = logits_TV.float().log_softmax(dim=-1).topk(min(count, logits_TV.shape[-1]))
    places = zip(tokens_TN.tolist(), values_TN.tolist(), strict=True)
    return [list(zip(tokens, values, strict=True)) for tokens, values in places]


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
        self.model = model
        self.rows = rows
        self.prefill_tokens = prefill_tokens
        self.context_length = min(context_length or model.config.context_length, model.config.context_length)
        shape = model.config.model_copy(update={"context_length": self.context_length})
        self._spare_row = rows  # for two rows that change places
        self._cache = KeyValueCache(shape, rows + 1, device=model.device, dtype=reading_of(model).cache_dtype)
        self._cached = [_CachedTokens([]) for _ in range(rows)]
        self.texts: list[_Text] = []
        """The text in each row, from the first on."""
        self._step = 0
        self._queue: deque[tuple[int, Request]] = deque()
        self._cancelled: set[int] = set()
        self._pending: list[Event] = []
        self._handles = count()

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self.texts or self._queue)

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

        Returns what happened, in no promised order. If it raises, no text has moved, and all may step again; cancelled
        texts have left, and the next step reports them.
        """
        self._step += 1
        self._drop_cancelled()
        pieces = self._plan()
        if pieces:
            self._pending += self._read(pieces)
        events = self._pending
        self._pending = []
        return events

    def _plan(self) -> list[Piece]:
        """The newest token of each running text, and up to `prefill_tokens` of prompts, in the order of arrival."""
        pieces: list[Piece] = []
        prompt_tokens = self.prefill_tokens
        for row in sorted(range(len(self.texts)), key=lambda row: self.texts[row].handle):
            text = self.texts[row]
            piece = text.piece(row, prompt_tokens)
            if text.token is None:
                prompt_tokens -= len(piece.tokens)
            if piece.tokens:
                pieces.append(piece)
        while prompt_tokens and self._queue and len(self.texts) < self.rows:
            text = self._admit()
            piece = text.piece(len(self.texts) - 1, prompt_tokens)
            prompt_tokens -= len(piece.tokens)
            pieces.append(piece)
        return sorted(pieces, key=lambda piece: piece.row)

    def _read(self, pieces: list[Piece]) -> list[Event]:
        """Read pieces, and make a token for each text that has read all; its events."""
        hidden_states = read_pieces(self.model, pieces, self._cache)
        results = [self._result(piece, x_TC) for piece, x_TC in zip(pieces, hidden_states, strict=True)]
        complete = [result for result in results if result.complete]
        choices = self._choose(complete)
        for result in results:
            result.commit()
        events = []
        ended_rows = []
        for result, (token, logits_V) in zip(complete, choices, strict=True):
            event = result.text.accept(token, logits_V)
            events.append(event)
            if event.ended:
                ended_rows.append(result.piece.row)
        self._free(ended_rows)
        return events

    def _result(self, piece: Piece, x_TC: Tensor) -> _PieceResult:
        text = self.texts[piece.row]
        if text.token is not None:
            return _PieceResult(text=text, piece=piece, scored=[], last_C=x_TC[-1])
        request = text.request
        tokens = [*request.prompt, *request.scored]
        last = len(request.prompt) - 1
        last_C = x_TC[last - piece.start] if piece.start <= last < piece.end else text.last_C
        first = max(piece.start, last - request.prompt_scored)  # whose hidden states predict a token that is scored
        end = min(piece.end, len(tokens) - 1)
        scored = self._score(
            x_TC[first - piece.start : end - piece.start], tokens[first + 1 : end + 1], request.logprobs or 0
        )
        return _PieceResult(text=text, piece=piece, scored=scored, last_C=last_C)

    def _score(self, x_TC: Tensor, tokens: Sequence[int], likeliest: int) -> list[Logprobs]:
        """The log-probability of tokens, and the likeliest in their places, from the hidden states before them."""
        if not tokens:
            return []
        logits_TV = self.model.logits(x_TC).float()
        tokens_T = torch.tensor(tokens, device=x_TC.device)
        scores = (-F.cross_entropy(logits_TV, tokens_T, reduction="none")).tolist()
        if not likeliest:
            return [Logprobs(score, []) for score in scores]
        candidates = _likeliest(logits_TV, likeliest)
        return [Logprobs(score, likely) for score, likely in zip(scores, candidates, strict=True)]

    def _choose(self, complete: list[_PieceResult]) -> list[tuple[int, Tensor]]:
        """The next token of each text, with the logits that it was chosen by."""
        states = [result.last_C for result in complete if result.last_C is not None]
        if not states:
            return []
        logits_BV = self.model.logits(torch.stack(states))
        tokens = choose(logits_BV, [result.text.sampler for result in complete])
        return list(zip(tokens, logits_BV, strict=True))

    def _drop_cancelled(self) -> None:
        if not self._cancelled:
            return
        rows = [row for row, text in enumerate(self.texts) if text.handle in self._cancelled]
        handles = [self.texts[row].handle for row in rows]
        handles += [handle for handle, _ in self._queue if handle in self._cancelled]
        self._pending += [Event(handle, None, "cancelled") for handle in handles]
        self._free(rows)
        self._queue = deque(item for item in self._queue if item[0] not in self._cancelled)
        self._cancelled.clear()

    def _admit(self) -> _Text:
        """Give the first request of the queue a row."""
        handle, request = self._queue[0]
        sampler = Sampler(
            request.sampling,
            self.model.device,
            exempt=request.exempt,
            constraint=request.constraint() if request.constraint else None,
        )
        text = _Text(handle=handle, request=request, sampler=sampler, cached=self._assign_row(request))
        self.texts.append(text)
        self._queue.popleft()
        return text

    def _assign_row(self, request: Request) -> _CachedTokens:
        """Have the next row hold as much of a prompt's beginning as any row knows, of running texts or of those that
        left.

        The row of a text that left is taken over if the prompt shares half of it; else the text that left first gives
        up its row.
        """
        row = len(self.texts)
        rows = range(min(row + KEPT, self.rows))
        shared = [self._cached[number].shared(request) for number in rows]
        count = max(shared)
        donor = shared.index(count)
        if donor >= row and 2 * count >= len(self._cached[donor].tokens):
            reused = donor
        else:
            reused = min(rows[row:], key=lambda number: self._cached[number].changed)
        if reused != row:
            self._exchange(reused, row)
            if donor == reused:
                donor = row
            elif donor == row:
                donor = reused
        if donor != row:
            self._cache.move(donor, row, count)
        self._cached[row] = _CachedTokens(list(request.prompt[:count]), self._step)
        return self._cached[row]

    def _exchange(self, first: int, second: int) -> None:
        """Two rows change places by the spare one: copies in new memory take half as long again."""
        first_length = len(self._cached[first].tokens)
        self._cache.move(first, self._spare_row, first_length)
        self._cache.move(second, first, len(self._cached[second].tokens))
        self._cache.move(self._spare_row, second, first_length)
        self._cached[first], self._cached[second] = self._cached[second], self._cached[first]

    def _free(self, rows: list[int]) -> None:
        """Take texts out of their rows, and close the gaps; the cache keeps what they have read."""
        for row in reversed(rows):
            last = self.texts.pop()
            self._cached[row].changed = self._step
            if row < len(self.texts):
                self._exchange(row, len(self.texts))
                self.texts[row] = last
