"""From scores to probabilities that hold, to a threshold with a budget, and to bounds of what is unsure."""

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from llm.config import Config

PRIOR = 1.0
"""Weight of the prior, in texts. It keeps the factor near 1 and the biases near 0, which a few separable texts would
let grow without bound."""


class UnsureRates(Config):
    """Which texts get no sure answer: those between two bounds that are as near as these shares allow."""

    false_positive_rate: float = Field(ge=0, le=1)
    """The share of texts with the first label that may surely be given another."""
    false_negative_rate: float = Field(ge=0, le=1)
    """The share of texts with another label that may surely be given the first."""


def fit_scale(logits: Tensor, labels: Tensor) -> tuple[float, list[float]]:
    """A factor above zero for logits, N x K, and a bias for each label, with which they fit `labels`, N, best.

    The factor is one over a temperature (Guo et al. 2017), the bias is Platt's (1999).
    """
    logits = logits.double()
    log_scale = torch.zeros((), dtype=torch.double, requires_grad=True)
    bias = torch.zeros(logits.shape[1], dtype=torch.double, requires_grad=True)
    search = torch.optim.LBFGS([log_scale, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        prior = PRIOR * (log_scale.square() + bias.square().sum()) / 2
        total = F.cross_entropy(log_scale.exp() * logits + bias, labels, reduction="sum") + prior
        total.backward()
        return total

    with torch.enable_grad():
        search.step(loss)
    return log_scale.exp().item(), bias.detach().tolist()


def best_threshold(probability: np.ndarray, looked_for: np.ndarray, false_positive_rate: float) -> float:
    """The lowest threshold above which at most that share of the other texts lies; `looked_for` is boolean.

    It stands in the middle between two probabilities, so that a little more or less changes nothing. Without other
    texts there is nothing to choose by, and it is one half.
    """
    others = np.sort(probability[~looked_for])[::-1]
    if not len(others):
        return 0.5
    allowed = int(false_positive_rate * len(others) + 1e-9)  # 0.29 * 100 is a little less than 29
    highest = float(others[allowed]) if allowed < len(others) else 0.0  # the first that has to stay below
    lowest = float(probability.min(where=probability > highest, initial=np.inf))
    middle = (highest + lowest) / 2
    return middle if highest <= middle < lowest < np.inf else highest  # neighbours have nothing between them


def unsure_bounds(
    probability: np.ndarray, looked_for: np.ndarray, *, threshold: float, rates: UnsureRates
) -> tuple[float, float]:
    """The bounds around a threshold outside of which at most these shares of either kind are on the wrong side."""
    high = best_threshold(probability, looked_for, rates.false_positive_rate)
    low = 1 - best_threshold(1 - probability, ~looked_for, rates.false_negative_rate)
    return min(low, threshold), max(high, threshold)
