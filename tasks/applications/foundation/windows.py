"""Token losses of a whole file, each token read after at least half a context."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from llm.device import Compute
from llm.model.gpt import GPT
from llm.training.loss import PIECE


@dataclass(frozen=True)
class Window:
    """Tokens that are read together."""

    start: int
    """The place of its first input in the file."""
    scored: int
    """Its first target that no window before it has."""


def overlapping(tokens: int, context_length: int) -> list[Window]:
    """Windows in which each token of a file but its first is scored once, after at least half a context but in the
    first window."""
    last = tokens - 1 - context_length
    starts = [*range(0, last, -(-context_length // 2)), last]
    covered = [0, *(start + context_length for start in starts)]
    return [Window(start=start, scored=done - start) for start, done in zip(starts, covered, strict=False)]


@torch.inference_mode()
def token_losses(
    model: GPT, tokens: np.ndarray, batches: Iterable[Sequence[Window]], *, context_length: int, compute: Compute
) -> np.ndarray:
    """The cross-entropy of each scored token in nats, float64, in the order of the windows."""
    losses = []
    for windows in batches:
        rows = np.stack([tokens[window.start : window.start + context_length + 1] for window in windows])
        rows_BT = torch.from_numpy(rows.astype(np.int64)).to(compute.device)
        with compute.autocast():
            hidden_BTC = model.hidden_states(rows_BT[:, :-1])
            for window, x_TC, targets_T in zip(windows, hidden_BTC, rows_BT[:, 1:], strict=True):
                inputs = x_TC[window.scored :].split(PIECE)
                targets = targets_T[window.scored :].split(PIECE)
                for x_RC, targets_R in zip(inputs, targets, strict=True):
                    logits_RV = model.logits(x_RC).float()
                    losses.append(F.cross_entropy(logits_RV, targets_R, reduction="none").double().cpu().numpy())
    return np.concatenate(losses)
