"""Pieces of texts that a step reads together: a token of each running text, and parts of new prompts.

A long prompt is read in pieces over several steps (chunked prefill; Agrawal et al. 2023), so that running texts wait at
most for one piece. decode.c reads all pieces as one list of tokens. torch reads batches, which need padding.

Tensor names end in their shape: N tokens, B texts, T positions, C width of the model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.dataset import pad
from llm.generation.packed import PackedGPT
from llm.generation.reading import reading_of
from llm.model.gpt import GPT
from llm.model.key_value_cache import KeyValueCache

LEAST_FILLED = 0.8
"""Share of a batch's positions that must hold tokens; the others are padding."""


@dataclass(frozen=True)
class Piece:
    """Tokens that follow each other in a text, from the position `start` on; `row` is the text's row of the cache."""

    row: int
    start: int
    tokens: Sequence[int]

    @property
    def end(self) -> int:
        """The position behind its last token."""
        return self.start + len(self.tokens)


@torch.inference_mode()
def read_pieces(model: GPT, pieces: Sequence[Piece], cache: KeyValueCache) -> list[Tensor]:
    """The hidden states of each piece, TC; keys and values go into the cache. Pieces are in the order of their rows."""
    if isinstance(model, PackedGPT) and reading_of(model).takes_lists:
        return _read_list(model, pieces, cache)
    return [x_TC for batch in batches(pieces) for x_TC in _read_batch(model, batch, cache)]


def batches(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Pieces of adjacent rows and like length, with little padding; single tokens are never padded."""
    batch: list[Piece] = []
    for piece in pieces:
        if batch and not _fits(batch, piece):
            yield batch
            batch = []
        batch.append(piece)
    yield batch


def _fits(batch: list[Piece], piece: Piece) -> bool:
    lengths = [len(part.tokens) for part in (*batch, piece)]
    adjacent = piece.row == batch[-1].row + 1
    alike = (lengths[0] == 1) == (lengths[-1] == 1)
    return adjacent and alike and sum(lengths) >= LEAST_FILLED * max(lengths) * len(lengths)


def _read_list(model: PackedGPT, pieces: Sequence[Piece], cache: KeyValueCache) -> list[Tensor]:
    lengths = torch.tensor([len(piece.tokens) for piece in pieces])
    tokens_N = torch.tensor([token for piece in pieces for token in piece.tokens])
    rows_N = torch.tensor([piece.row for piece in pieces]).repeat_interleave(lengths)
    positions_N = torch.cat([torch.arange(piece.start, piece.end) for piece in pieces])
    x_1NC = model.hidden_states(tokens_N[None], positions_N[None], rows_BT=rows_N[None], cache=cache)
    return list(x_1NC[0].split(lengths.tolist()))


def _read_batch(model: GPT, batch: list[Piece], cache: KeyValueCache) -> list[Tensor]:
    tokens_BT, lengths = pad([piece.tokens for piece in batch], 0)
    starts_B1 = torch.tensor([[piece.start] for piece in batch])
    positions_BT = starts_B1 + torch.arange(tokens_BT.shape[1])
    positions_BT.clamp_(max=cache.keys_LBKSD.shape[3] - 1)  # padding stays within the row, and no text holds that place
    rows = cache.rows(batch[0].row, batch[-1].row + 1)
    x_BTC = model.hidden_states(tokens_BT.to(model.device), positions_BT.to(model.device), cache=rows)
    return [x_TC[:length] for x_TC, length in zip(x_BTC, lengths.tolist(), strict=True)]
