"""The loss of the assistant's turns, over packed rows, and the objective that minimises it.

Tensor names end in their shape: B rows, T positions, C width of the model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from llm.config import TrainConfig
from llm.dataset import BatchSampler
from llm.device import Compute
from llm.kernels.training.backend import CrossEntropy
from llm.model.gpt import GPT
from llm.objectives.assistant.examples import IGNORE, Example
from llm.objectives.assistant.model import Assistant
from llm.objectives.assistant.packing import batch, pack_sequences, row_width
from llm.training.loss import linear_cross_entropy
from llm.training.objective import Objective


def response_loss(
    model: GPT,
    windows: Sequence[Sequence[Example]],
    compute: Compute,
    *,
    width: int = 0,
    opening_weight: float = 1.0,
    cross_entropy: CrossEntropy = linear_cross_entropy,
) -> Tensor:
    """Sum the cross-entropy of all response tokens in a batch, in nats. Rows are padded to `width`.

    The first token of each response counts `opening_weight` times. A training has a `cross_entropy` of its own, that of
    its backend.
    """
    rows = batch(windows, width, compute.device)
    with compute.autocast():
        x_BTC = model.hidden_states(rows.inputs_BT, rows.positions_BT, sequences_BT=rows.sequences_BT)
        counted_BT = rows.targets_BT != IGNORE
        loss = cross_entropy(x_BTC[counted_BT], model.output_weight, rows.targets_BT[counted_BT])
        if opening_weight == 1:
            return loss
        begins_BT = rows.sequences_BT != F.pad(rows.sequences_BT, (1, -1), value=-1)
        first_BT = counted_BT & (begins_BT | ~F.pad(counted_BT, (1, -1)))
        first_loss = cross_entropy(x_BTC[first_BT], model.output_weight, rows.targets_BT[first_BT])
        return loss + (opening_weight - 1) * first_loss


@torch.inference_mode()
def mean_response_loss(
    model: GPT, examples: Sequence[Example], compute: Compute, *, batch_size: int, window: int | None = None
) -> float:
    """Mean cross-entropy, in nats a token of the assistant's, over all examples, packed into windows of that length."""
    windows = pack_sequences(examples, window or model.config.context_length)
    batches = [windows[first : first + batch_size] for first in range(0, len(windows), batch_size)]
    total = sum(response_loss(model, rows, compute).item() for rows in batches)
    return total / sum(example.counted for example in examples)


def objective(
    model: Assistant,
    config: TrainConfig,
    windows: Sequence[Sequence[Example]],
    *,
    validation: Sequence[Example],
    compute: Compute,
    opening_weight: float = 1.0,
) -> Objective[Assistant]:
    """Learn from packed windows; keep the weights with the lowest response loss on `validation`.

    In training, the first token of each response counts `opening_weight` times; on `validation` all tokens count alike,
    so the two losses do not compare.
    """
    order = BatchSampler(len(windows), config.batch_size, config.seed)
    widest = max(map(row_width, windows))
    longest = max(widest, *map(len, validation))
    width = widest if compute.backend.compiles else 0

    def weight(index: int) -> float:
        examples = [example for row in order[index] for example in windows[row]]
        return sum(example.counted + (opening_weight - 1) * example.responses for example in examples)

    def loss(training_model: Assistant, index: int) -> Tensor:
        total = response_loss(
            training_model,
            [windows[row] for row in order[index]],
            compute,
            width=width,
            opening_weight=opening_weight,
            cross_entropy=training_model.backend.cross_entropy,
        )
        return total / weight(index)

    def evaluate() -> dict[str, float]:
        loss = mean_response_loss(model, validation, compute, batch_size=config.batch_size, window=longest)
        return {"validation_loss": loss}

    return Objective(loss, evaluate, best="validation_loss", weight=weight)
