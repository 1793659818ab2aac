"""Preference tuning: of two answers to one question, the better one is to become the likelier one.

Direct preference optimisation (DPO, Rafailov et al. 2023) needs no model of rewards: an answer's reward is how much
likelier the tuned model makes it than the model that it started from, the reference. Of the reference the loss takes
one number a pair, so that it is computed once, before training, and no second model stays in memory.

Tensor names end in their shape: B pairs, T positions, N tokens that count, R of them at a time, C width of the model,
V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from llm.config import TrainConfig
from llm.dataset import BatchSampler
from llm.device import Compute
from llm.kernels.training.cross_entropy import IGNORE, ROWS
from llm.model.gpt import GPT
from llm.objectives.assistant import Assistant, Example, batch
from llm.training.loop import Objective, Row
from llm.training.workers import ALONE, Workers


class Pair(NamedTuple):
    """Two answers to one question, each as its whole conversation."""

    chosen: Example
    """The better one."""
    rejected: Example


def _token_losses(x_RC: Tensor, weight_VC: Tensor, targets_R: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x_RC, weight_VC).float(), targets_R, reduction="none")


def log_probabilities(model: GPT, pairs: Sequence[Pair], compute: Compute) -> Tensor:
    """Log-probability, in nats, of all that the assistant says, float32 B2: the chosen answer's, the rejected one's.

    Logits exist for ROWS tokens at a time; the backward pass makes them again.
    """
    inputs_BT, targets_BT, *_ = (t.to(compute.device) for t in batch([[each] for pair in pairs for each in pair]))
    counted_BT = targets_BT != IGNORE
    with compute.autocast():
        x_NC, targets_N = model.hidden_states(inputs_BT)[counted_BT], targets_BT[counted_BT]
        pieces = zip(x_NC.split(ROWS), targets_N.split(ROWS), strict=True)
        losses = [
            checkpoint(_token_losses, x_RC, model.output_weight, targets_R, use_reentrant=False)
            for x_RC, targets_R in pieces
        ]
    losses_BT = torch.zeros(targets_BT.shape, device=compute.device).masked_scatter(counted_BT, torch.cat(losses))
    return -losses_BT.sum(dim=1).view(-1, 2)


def dpo_loss(margin_B: Tensor, reference_B: Tensor, beta: float) -> Tensor:
    """`-log sigmoid(beta * (margin - reference))` of each pair, B (Rafailov et al. 2023, equation 7).

    A margin is the log-probability of the chosen answer less that of the rejected one, in nats: `margin` the tuned
    model's, `reference` that of the model before.
    """
    return -F.logsigmoid(beta * (margin_B - reference_B))


def preference_loss(
    model: GPT, pairs: Sequence[Pair], reference_B: Tensor, beta: float, nll: float, compute: Compute
) -> Tensor:
    """The sum over a batch's pairs of the DPO loss and `nll` times the chosen answer's mean cross-entropy a token.

    DPO alone may make both answers less likely; the second term keeps the better one up (Pang et al. 2024).
    """
    said_B2 = log_probabilities(model, pairs, compute)
    chosen_B, rejected_B = said_B2.unbind(dim=1)
    losses_B = dpo_loss(chosen_B - rejected_B, reference_B, beta)
    if nll:
        counted_B = torch.tensor([pair.chosen.counted for pair in pairs], device=compute.device)
        losses_B = losses_B - nll * chosen_B / counted_B
    return losses_B.sum()


@torch.no_grad()
def margins(model: GPT, pairs: Sequence[Pair], batch_size: int, compute: Compute) -> Tensor:
    """How much likelier the model finds each chosen answer than the rejected one, in nats, float32 B."""
    parts = [pairs[first : first + batch_size] for first in range(0, len(pairs), batch_size)]
    said_B2 = torch.cat([log_probabilities(model, part, compute) for part in parts])
    return said_B2[:, 0] - said_B2[:, 1]


def objective(
    model: Assistant,
    config: TrainConfig,
    pairs: Sequence[Pair],
    validation: Sequence[Pair],
    compute: Compute,
    *,
    beta: float,
    nll: float,
    exam: Callable[[], Row],
    workers: Workers = ALONE,
) -> Objective:
    """Learn from pairs; keep the weights with the highest `validation_exact_match`, which `exam` finds.

    The model as it comes is the reference, and its weights stay if no later ones are better.
    """
    order = BatchSampler(len(pairs), config.batch_size, config.seed)
    reference_B, validation_reference_B = (
        margins(model, part, config.batch_size, compute) for part in (pairs, validation)
    )
    sum_loss = workers.wrap(model, preference_loss)

    def loss(index: int) -> Tensor:
        rows = workers.part(order[index])
        total = sum_loss([pairs[row] for row in rows], reference_B[rows], beta, nll, compute)
        return total * workers.count / config.batch_size

    def evaluate() -> Row:
        margin_B = margins(model, validation, config.batch_size, compute)
        gain_B = margin_B - validation_reference_B
        return {
            "validation_loss": dpo_loss(margin_B, validation_reference_B, beta).mean().item(),
            "validation_margin": gain_B.mean().item(),
            "validation_preferred": (gain_B > 0).float().mean().item(),
            **exam(),
        }

    return Objective(loss, evaluate, best="validation_exact_match", lower_is_better=False, start_counts=True)
