"""What a classifier's GPT begins with: the tokens of each text, or what the blocks below it made of them.

A fine-tune of the last blocks leaves those below as they are, so they give the same for a text each time. They read it
once, and the blocks that learn begin with what they gave.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llm.dataset import pad
from llm.generation.reading import reading_of
from llm.model.gpt import GPT

ROOM = 2 * 2**30
"""Bytes of streams that are kept of the texts of a split; those beyond are computed each time."""


class Inputs:
    """The texts of a split as a GPT begins with them: tokens, or the stream behind the blocks of `reader`.

    `reader` is the lower part of a GPT (`split_blocks`). Streams are kept in bfloat16.
    """

    def __init__(self, texts: Sequence[list[int]], reader: GPT | None = None) -> None:
        self.texts = texts
        self.lengths = [len(tokens) for tokens in texts]
        self.reader = reader
        self.streams: dict[int, Tensor] = {}
        self.free = ROOM

    def batch(self, rows: Sequence[int] | np.ndarray, length: int = 0) -> tuple[Tensor, Tensor]:
        """These texts, int64 BT or float32 BTC, filled up on the right to the longest or `length`; their lengths, B."""
        tokens_BT, lengths_B = pad([self.texts[row] for row in rows], 0, length)
        if self.reader is None:
            return tokens_BT, lengths_B
        x_BTC = torch.zeros(*tokens_BT.shape, self.reader.config.n_embd)
        for x_TC, row in zip(x_BTC, rows, strict=True):
            x_TC[: self.lengths[row]] = self._stream(self.reader, row)
        return x_BTC, lengths_B

    @torch.inference_mode(False)
    @torch.no_grad()
    def _stream(self, reader: GPT, row: int) -> Tensor:
        """The stream of a text, bfloat16 TC on the CPU, read alone: neighbours would change its last bits in torch."""
        if row in self.streams:
            return self.streams[row]
        reading = reading_of(reader)
        with reading.autocast():
            x_1TC = reader.hidden_states(torch.tensor([self.texts[row]], device=reading.device))
        stream_TC = x_1TC[0].bfloat16().cpu()
        if stream_TC.nbytes <= self.free:
            self.free -= stream_TC.nbytes
            self.streams[row] = stream_TC
        return stream_TC
