"""What a classifier's GPT begins with: the tokens of each text, or what the blocks below it made of them.

A fine-tune of the last blocks leaves those below as they are, so they give the same for a text each time. They read it
once, and the blocks that learn begin with what they gave.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from llm.dataset import pad
from llm.generation.reading import reading_of
from llm.model.gpt import GPT

ROOM = 2 * 2**30
"""Bytes of streams that are kept of the texts of a split; those beyond are computed each time."""


class Inputs(Protocol):
    """The texts of a split as a GPT begins with them."""

    lengths: list[int]
    """Tokens of each text."""

    def batch(self, rows: Sequence[int] | np.ndarray, length: int = 0) -> tuple[Tensor, Tensor]:
        """These texts, filled up on the right to the longest, or to `length`, and their lengths, B."""
        ...


class TokenInputs:
    """Texts as token ids."""

    def __init__(self, texts: Sequence[list[int]]) -> None:
        self.texts = texts
        self.lengths = [len(tokens) for tokens in texts]

    def batch(self, rows: Sequence[int] | np.ndarray, length: int = 0) -> tuple[Tensor, Tensor]:
        """As `Inputs.batch`, int64 BT."""
        return pad([self.texts[row] for row in rows], 0, length)


class StreamInputs:
    """Texts as the stream behind blocks that do not learn, which are read when a batch first asks for them.

    `reader` is the lower part of a GPT (`split_blocks`). Streams are kept in bfloat16.
    """

    def __init__(self, reader: GPT, texts: Sequence[list[int]]) -> None:
        self.reader = reader
        self.texts = texts
        self.lengths = [len(tokens) for tokens in texts]
        self.streams: dict[int, Tensor] = {}
        self.free = ROOM

    def batch(self, rows: Sequence[int] | np.ndarray, length: int = 0) -> tuple[Tensor, Tensor]:
        """As `Inputs.batch`, float32 BTC."""
        lengths_B = torch.tensor([self.lengths[row] for row in rows])
        x_BTC = torch.zeros(len(rows), max(length, int(lengths_B.max())), self.reader.config.n_embd)
        for x_TC, row in zip(x_BTC, rows, strict=True):
            x_TC[: self.lengths[row]] = self.stream(row)
        return x_BTC, lengths_B

    def stream(self, row: int) -> Tensor:
        """The stream of a text, bfloat16 TC on the CPU."""
        stream_TC = self.streams.get(row)
        if stream_TC is None:
            stream_TC = self._read(self.texts[row])
            if stream_TC.nbytes <= self.free:
                self.free -= stream_TC.nbytes
                self.streams[row] = stream_TC
        return stream_TC

    @torch.inference_mode(False)
    @torch.no_grad()
    def _read(self, tokens: list[int]) -> Tensor:
        """Alone, as neighbours would change its last bits where torch reads it."""
        reading = reading_of(self.reader)
        with reading.autocast():
            x_1TC = self.reader.hidden_states(torch.tensor([tokens], device=reading.device))
        return x_1TC[0].bfloat16().cpu()
