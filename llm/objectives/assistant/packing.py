"""How several conversations are packed into each row of a batch."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from os.path import commonprefix
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from llm.errors import UserError
from llm.objectives.assistant.examples import IGNORE, Example


def shared_prefix(examples: Sequence[Example]) -> list[int]:
    """The longest beginning that more than half of the examples have: most often the system prompt.

    It ends before anything that is learned, so that its tokens have no targets.
    """
    beginnings = sorted(example.tokens[: _shareable(example)] for example in examples)
    half = len(beginnings) // 2
    pairs = zip(beginnings, beginnings[half:], strict=False)  # all between the two of a pair share what these share
    prefixes: Iterable[Any] = map(commonprefix, pairs)
    return max(prefixes, key=len, default=[])


def _shareable(example: Example) -> int:
    """How many first tokens have no targets, with another token behind them that is asked to predict."""
    first_learned = example.learned.index(True) if any(example.learned) else len(example)
    return max(0, min(first_learned, len(example) - 1) - 1)


def pack_sequences(examples: Sequence[Example], length: int) -> list[list[Example]]:
    """Pack examples into windows of at most `length` tokens: each, in order, goes into the first window with room.

    A short row alone would leave most of a window to padding. In a random order each window has rows of many kinds, so
    that the steps of a training are alike. Their shared prefix counts once a window: of the default
    instructions it is 14 tokens of 51. Raises UserError for an example that fits no window.
    """
    prefix = shared_prefix(examples)
    windows: list[list[Example]] = []
    room = np.full(len(examples) + 1, length)  # of each window, and of one more, which is empty
    held = np.zeros_like(room)  # tokens of the prefix in each window
    for example in examples:
        if len(example) > length:
            raise UserError(f"an example of {len(example)} tokens does not fit a window of {length}")
        begins_with_prefix = example.tokens[: min(len(prefix), _shareable(example))] == prefix
        free = room[: len(windows) + 1]
        if begins_with_prefix:
            free = free + held[: len(windows) + 1]
        number = int((free >= len(example)).argmax())
        if number == len(windows):
            windows.append([])
        shared = len(prefix) if begins_with_prefix else 0
        windows[number].append(replace(example, shared=shared))
        room[number] -= len(example) - shared
        if shared > held[number]:
            held[number] = shared
            room[number] -= shared
    return windows


def row_width(window: Sequence[Example]) -> int:
    """Tokens that a window's row of inputs takes: without the last of each example, which is only predicted."""
    return max(example.shared for example in window) + sum(len(example) - 1 - example.shared for example in window)


class PackedBatch(NamedTuple):
    """Packed rows, all int64 BT."""

    inputs_BT: Tensor
    targets_BT: Tensor
    """IGNORE but where a token of the assistant's comes next."""
    positions_BT: Tensor
    sequences_BT: Tensor
    """The number of each token's example within its row; a shared prefix is sequence 0, padding is -1."""


def batch(windows: Sequence[Sequence[Example]], width: int = 0, device: torch.device | str = "cpu") -> PackedBatch:
    """Packed windows as tensors; rows are at least `width` long.

    Each example keeps positions and a sequence of its own, so that it learns as if it were alone.
    """
    rows = []  # of tokens: input, target, position, sequence
    for window in windows:
        longest = max(window, key=lambda example: example.shared)
        row = [(token, IGNORE, position, 0) for position, token in enumerate(longest.tokens[: longest.shared])]
        for number, example in enumerate(window, 1):
            targets = example.targets
            for position in range(example.shared, len(targets)):
                row.append((example.tokens[position], targets[position], position, number))
        rows.append(row)
    width = max(width, *map(len, rows))
    padding = (0, IGNORE, 0, -1)
    rows_BT4 = torch.tensor([row + [padding] * (width - len(row)) for row in rows], device=device)
    return PackedBatch(*rows_BT4.permute(2, 0, 1).contiguous())
