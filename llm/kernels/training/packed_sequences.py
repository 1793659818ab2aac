"""Several texts in each row of a batch, and attention within each of them.

Tensor names end in their shape: B rows, T positions, N texts, E texts of like length, S their positions, H heads of
queries, K of keys and values, D width of a head.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SHORTEST = 5
"""The shortest batches hold texts of up to 2 to this power, 32 tokens; each next one has texts up to twice as long."""


class PackedSequences:
    """The texts of a batch: gathered for attention into batches of like length, padded on the right.

    Over whole rows almost all scores would be between texts that must not see each other: with 32 texts in four rows of
    512 tokens, attention took 42 % of a step of SmolLM2-135M. So the tokens are gathered into a few batches, texts of
    at most 32 tokens, of 64, of 128 …, where a causal mask hides the padding by itself.

    A prefix that the texts of a row share stands there once, as the row's first text. A text whose positions begin at
    p, not at 0, continues the first p tokens of its row. They are gathered with it, and only attention computes them
    again.
    """

    def __init__(self, sequences_BT: Tensor, positions_BT: Tensor | None = None) -> None:
        """`sequences_BT` numbers the text of each token; below zero it is padding, whose output is undefined."""
        length = sequences_BT.shape[1]
        starts_N, ends_N = _bounds(sequences_BT)
        begins_N = starts_N - starts_N % length  # where the row of each text begins in the flattened rows
        prefixes_N = torch.zeros_like(starts_N)  # how many tokens of its row each text continues
        if positions_BT is not None:
            prefixes_N = positions_BT.expand_as(sequences_BT).flatten()[starts_N]
        own_N = ends_N - starts_N
        self.texts_E4 = torch.stack([begins_N // length, prefixes_N, starts_N - begins_N, own_N], 1)
        """Row, length of the shared prefix, start in the row, and number of own tokens of each text."""
        self._gathered: list[Tensor] = []  # the places of each batch's tokens in the flattened rows, int64 ES
        self._scattered = torch.zeros_like(sequences_BT).flatten()  # the places of the rows' tokens in the batches
        lengths_N = prefixes_N + own_N
        longest = max(SHORTEST + 1, length.bit_length() + 1)
        widths = 2 ** torch.arange(SHORTEST, longest, device=sequences_BT.device)
        widths_N = widths[torch.bucketize(lengths_N, widths)]
        layout_N4 = torch.stack([begins_N, prefixes_N, starts_N, lengths_N], 1)
        for width in widths_N.unique():
            self._add_batch(layout_N4[widths_N == width])

    def _add_batch(self, layout_E4: Tensor) -> None:
        """Gather texts of like length into a batch: begin of the row, prefix, start and whole length of each."""
        begins_E1, prefixes_E1, starts_E1, lengths_E1 = layout_E4.split(1, dim=1)
        steps_S = torch.arange(int(lengths_E1.max()), device=layout_E4.device)
        in_prefix_ES = steps_S < prefixes_E1
        inside_ES = steps_S < lengths_E1
        places_ES = torch.where(in_prefix_ES, begins_E1, starts_E1 - prefixes_E1) + steps_S
        places_ES = torch.where(inside_ES, places_ES, 0)
        count = sum(places.numel() for places in self._gathered)
        numbers_ES = count + torch.arange(places_ES.numel(), device=layout_E4.device).view_as(places_ES)
        own_ES = inside_ES & ~in_prefix_ES
        self._scattered[places_ES[own_ES]] = numbers_ES[own_ES]
        self._gathered.append(places_ES)

    def attention(self, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        """Apply a causal attention, which maps BHTD and twice BKTD to BHTD, to each text alone."""
        outputs = []
        for places_ES in self._gathered:
            q_EHSD = _gather(q_BHTD, places_ES)
            k_EKSD = _gather(k_BKTD, places_ES)
            v_EKSD = _gather(v_BKTD, places_ES)
            outputs.append(attend(q_EHSD, k_EKSD, v_EKSD).transpose(1, 2).flatten(0, 1))
        y_BTHD = torch.cat(outputs).index_select(0, self._scattered).unflatten(0, (len(q_BHTD), -1))
        return y_BTHD.transpose(1, 2)


def _bounds(sequences_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Where each text starts and ends in the flattened rows, N and N; padding is none."""
    is_start_BT = torch.ones_like(sequences_BT, dtype=torch.bool)
    is_start_BT[:, 1:] = sequences_BT[:, 1:] != sequences_BT[:, :-1]
    starts_N = is_start_BT.flatten().nonzero().flatten()
    ends_N = torch.cat([starts_N[1:], starts_N.new_tensor([sequences_BT.numel()])])
    is_text_N = sequences_BT.flatten()[starts_N] >= 0
    return starts_N[is_text_N], ends_N[is_text_N]


def _gather(part_BHTD: Tensor, places_ES: Tensor) -> Tensor:
    """The heads at these places of the flattened rows, EHSD."""
    flat_BTHD = part_BHTD.transpose(1, 2).flatten(0, 1)
    return flat_BTHD.index_select(0, places_ES.flatten()).unflatten(0, places_ES.shape).transpose(1, 2)
