"""Several texts in each row of a batch, and attention within each of them.

Tensor names end in their shape: B rows, T positions, N texts, E texts of like length, S their positions, H heads of
queries, K of keys and values, D width of a head.
"""

from collections.abc import Callable

import torch
from torch import Tensor


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
        starts_BT = torch.ones_like(sequences_BT, dtype=torch.bool)
        starts_BT[:, 1:] = sequences_BT[:, 1:] != sequences_BT[:, :-1]
        starts_N = starts_BT.flatten().nonzero().flatten()
        ends_N = torch.cat([starts_N[1:], starts_N.new_tensor([sequences_BT.numel()])])
        real_N = sequences_BT.flatten()[starts_N] >= 0
        starts_N, ends_N = starts_N[real_N], ends_N[real_N]
        rows_N = starts_N - starts_N % sequences_BT.shape[1]  # where the row of each text begins
        prefixes_N = torch.zeros_like(starts_N)  # how many tokens of its row each text continues
        if positions_BT is not None:
            prefixes_N = positions_BT.expand_as(sequences_BT).flatten()[starts_N]
        own_N = ends_N - starts_N
        self.texts_E4 = torch.stack([rows_N // sequences_BT.shape[1], prefixes_N, starts_N - rows_N, own_N], 1)
        """Row, length of the shared prefix, start in the row, and number of own tokens of each text."""
        lengths_N = prefixes_N + own_N
        widths = 2 ** torch.arange(5, max(6, sequences_BT.shape[1].bit_length() + 1), device=sequences_BT.device)
        widths_N = widths[torch.bucketize(lengths_N, widths)]
        self._gathered: list[Tensor] = []  # the places of each batch's tokens in the flattened rows, int64 ES
        self._scattered = torch.zeros_like(sequences_BT).flatten()  # the places of the rows' tokens in the batches
        count = 0
        for width in widths_N.unique():
            chosen_N = widths_N == width
            steps_S = torch.arange(int(lengths_N[chosen_N].max()), device=sequences_BT.device)
            starts_E1, prefixes_E1, rows_E1, lengths_E1 = (
                t[chosen_N, None] for t in (starts_N, prefixes_N, rows_N, lengths_N)
            )
            in_prefix_ES, inside_ES = steps_S < prefixes_E1, steps_S < lengths_E1
            places_ES = torch.where(in_prefix_ES, rows_E1, starts_E1 - prefixes_E1) + steps_S
            places_ES = torch.where(inside_ES, places_ES, 0)
            numbers_ES = count + torch.arange(places_ES.numel(), device=sequences_BT.device).view_as(places_ES)
            own_ES = inside_ES & ~in_prefix_ES
            self._scattered[places_ES[own_ES]] = numbers_ES[own_ES]
            self._gathered.append(places_ES)
            count += places_ES.numel()

    def attention(self, attend: Callable[..., Tensor], q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor) -> Tensor:
        """Apply a causal attention, which maps BHTD and twice BKTD to BHTD, to each text alone."""
        flat = [part.transpose(1, 2).flatten(0, 1) for part in (q_BHTD, k_BKTD, v_BKTD)]
        found = []
        for places_ES in self._gathered:
            q_EHSD, k_EKSD, v_EKSD = (
                part.index_select(0, places_ES.flatten()).unflatten(0, places_ES.shape).transpose(1, 2) for part in flat
            )
            found.append(attend(q_EHSD, k_EKSD, v_EKSD).transpose(1, 2).flatten(0, 1))
        y_BTHD = torch.cat(found).index_select(0, self._scattered).unflatten(0, (len(q_BHTD), -1))
        return y_BTHD.transpose(1, 2)
