"""Which token comes next: the likeliest, or a draw among those that some rule leaves in.

Tensor names end in their shape: B rows, V vocabulary, N tokens that may be drawn.
"""

from collections.abc import Container, Iterable, Sequence
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor

from llm.config import Config


class Sampling(Config):
    """How a text's tokens are chosen. The rules apply in the order of the fields; the defaults take the likeliest."""

    text_penalty: float | None = Field(default=None, ge=0.01, le=100)
    """Logits of tokens that the text holds are divided by it, negative ones multiplied (CTRL, Keskar et al. 2019):
    above 1 a text repeats itself less. The prompt does not count, nor do the tokens that a request exempts, such as
    digits. 1 changes nothing. None leaves it to a model's `Chat`, and changes nothing where there is none. Beyond these
    bounds logits may overflow, and have no softmax."""
    temperature: float = Field(default=0.0, ge=0)
    """Logits are divided by it: below 1 the likely tokens grow likelier. 0 takes the likeliest, with no draw."""
    top_k: int | None = Field(default=None, gt=0)
    """Only so many of the likeliest tokens stay in the draw."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Only the fewest tokens that together reach this probability stay (nucleus sampling, Holtzman et al. 2020)."""
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """Seeds the draws of each text by itself; without it they come from torch's global generator."""

    def with_default_penalty(self, text_penalty: float) -> "Sampling":
        """The same, with a model's own `text_penalty` where this leaves it to the model."""
        if self.text_penalty is not None:
            return self
        return self.model_copy(update={"text_penalty": text_penalty})


GREEDY = Sampling()
LIVELY = Sampling(temperature=0.8, top_p=0.95)


class Constraint(Protocol):
    """Rules that a text must keep, such as those of a JSON schema."""

    def allowed(self) -> Tensor:
        """Which tokens may come next, bool, at least V."""

    def accept(self, token: int) -> None:
        """Count a token among those that came."""


class Sampler:
    """Chooses one text's tokens; keeps its generator and the tokens that the penalty counts."""

    def __init__(
        self,
        sampling: Sampling,
        device: torch.device | str = "cpu",
        exempt: Container[int] = frozenset(),
        constraint: Constraint | None = None,
    ) -> None:
        self.sampling = sampling
        self.constraint = constraint
        self.exempt = exempt
        self.text: set[int] = set()
        """The tokens of the text that `text_penalty` is for."""
        self.generator = None if sampling.seed is None else torch.Generator(device).manual_seed(sampling.seed)

    @property
    def text_penalty(self) -> float:
        """The penalty on tokens of the text; 1 changes nothing."""
        return self.sampling.text_penalty or 1.0

    @property
    def greedy(self) -> bool:
        """Whether the next token is the likeliest after `text_penalty`."""
        return self.sampling.temperature == 0 and self.constraint is None

    def choose(self, logits_V: Tensor) -> int:
        """The next token, from logits of any float dtype."""
        token = self.propose(logits_V)
        self.accept(token)
        return token

    def propose(self, logits_V: Tensor) -> int:
        """The next token, not yet counted by the penalty: `accept` does that."""
        logits_V = logits_V.float()
        if self.constraint is not None:
            allowed_V = self.constraint.allowed()[: len(logits_V)].to(logits_V.device)
            logits_V = logits_V.masked_fill(~allowed_V, -torch.inf)
        if self.text:
            logits_V = penalise(logits_V, self.text, self.text_penalty)
        if self.sampling.temperature == 0:
            return int(logits_V.argmax())
        return self._draw(logits_V)

    def accept(self, token: int) -> None:
        """Count a token among those that came before."""
        if self.constraint is not None:
            self.constraint.accept(token)
        if self.text_penalty != 1 and token not in self.exempt:
            self.text.add(token)

    def _draw(self, logits_V: Tensor) -> int:
        # the likeliest at 0, and the divisor and its inverse finite in float32: so the coldest draw doesn't overflow
        temperature = max(self.sampling.temperature, torch.finfo(torch.float32).tiny)
        probabilities_N, tokens_N = candidates((logits_V - logits_V.max()) / temperature, self.sampling)
        # as wide as the vocabulary, because the draw takes a random number a column: so a seed gives the same text
        # whichever candidates are left out before
        weights_V = torch.zeros_like(logits_V)
        weights_V[: len(probabilities_N)] = probabilities_N
        return int(tokens_N[torch.multinomial(weights_V, 1, generator=self.generator)])


def choose(logits_BV: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """A token a row. All greedy rows cost one argmax together. Where a row raises, all samplers are as before."""
    tokens: list[int] = _likeliest(logits_BV, samplers).tolist()
    generators = [sampler.generator for sampler in samplers if sampler.generator is not None and not sampler.greedy]
    states = [generator.get_state() for generator in generators]
    try:
        for row, sampler in enumerate(samplers):
            if not sampler.greedy:
                tokens[row] = sampler.propose(logits_BV[row])
    except BaseException:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        raise
    for sampler, token in zip(samplers, tokens, strict=True):
        sampler.accept(token)
    return tokens


def _likeliest(logits_BV: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """The likeliest token of each greedy row after its `text_penalty`, B; of other rows it means nothing.

    The logits that a penalty moves are put back: a copy of a vocabulary for each text takes longer than all else here.
    """
    penalised = [(row, sampler) for row, sampler in enumerate(samplers) if sampler.text and sampler.greedy]
    if not penalised:
        return logits_BV.argmax(dim=-1)
    device = logits_BV.device
    lengths_P = torch.tensor([len(sampler.text) for _, sampler in penalised], device=device)
    rows_N = torch.tensor([row for row, _ in penalised], device=device).repeat_interleave(lengths_P)
    penalties_P = torch.tensor([sampler.text_penalty for _, sampler in penalised], device=device)
    tokens_N = torch.tensor([token for _, sampler in penalised for token in sampler.text], device=device)
    logits_N = logits_BV[rows_N, tokens_N]
    logits_BV[rows_N, tokens_N] = _moved(logits_N, penalties_P.repeat_interleave(lengths_P)).to(logits_BV.dtype)
    likeliest_B = logits_BV.argmax(dim=-1)
    logits_BV[rows_N, tokens_N] = logits_N
    return likeliest_B


def _moved(logits_N: Tensor, penalty: Tensor | float) -> Tensor:
    """Logits away from likely by a factor: positive ones divided, negative ones multiplied."""
    return torch.where(logits_N > 0, logits_N / penalty, logits_N * penalty)


def penalise(logits_V: Tensor, seen: Iterable[int], penalty: float) -> Tensor:
    """A copy in which the logits of the tokens in `seen` are moved away from likely, by the factor `penalty`."""
    tokens_N = torch.tensor(sorted(seen), dtype=torch.long, device=logits_V.device)
    return logits_V.index_copy(0, tokens_N, _moved(logits_V[tokens_N], penalty))


def candidates(logits_V: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Tokens that top_k and top_p leave in the draw, the likeliest first, N, and their weights, float32 N.

    Tokens that are out may still be there, with a weight of 0; the weights need not sum to one.
    """
    size = len(logits_V)
    if sampling.top_k is not None:
        logits_N, tokens_N = logits_V.topk(min(sampling.top_k, size))
        probabilities_N = logits_N.softmax(dim=-1)
    else:
        # Tokens below this share together hold less than what the nucleus leaves out, so only the others are sorted: to
        # sort all 50,000 of GPT-2 takes 3 ms, half of what the model takes.
        share = 0.0 if sampling.top_p is None else (1 - sampling.top_p) / size
        probabilities_V = logits_V.softmax(dim=-1)
        tokens_N = (probabilities_V >= share).nonzero()[:, 0]
        probabilities_N, order_N = probabilities_V[tokens_N].sort(descending=True)
        tokens_N = tokens_N[order_N]
    weights_N = probabilities_N.clone()
    if sampling.top_p is not None:
        weights_N[probabilities_N.cumsum(dim=-1) - probabilities_N >= sampling.top_p] = 0.0
    return weights_N, tokens_N
