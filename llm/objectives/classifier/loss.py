"""The loss of a classifier's GPT with a head of its own, and the objective that minimises it.

Tensor names end in their shape: N texts, B of them in a batch, C width of the model, K labels.
"""

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from llm.config import TrainConfig
from llm.dataset import BatchSampler
from llm.device import Compute
from llm.objectives.classifier.fit import ReadTexts, f1_of
from llm.objectives.classifier.model import Classifier
from llm.training.objective import Objective


def objective(
    model: Classifier,
    config: TrainConfig,
    train: ReadTexts,
    *,
    validation: ReadTexts,
    compute: Compute,
) -> Objective[Classifier]:
    """Train the GPT and its head on shuffled texts; keep the weights with the highest F1 on `validation`.

    Ties are broken by the smaller loss.
    """
    lengths = train.inputs.lengths
    width = max(lengths) if compute.backend.compiles else 0  # else that of the longest in a batch
    order = BatchSampler(
        len(lengths),
        config.batch_size,
        config.seed,
        lengths=np.array(lengths),
        accumulated=config.gradient_accumulation,
    )
    labels_N = train.labelled.labels
    actual_N = validation.labelled.labels

    def loss(training_model: Classifier, index: int) -> Tensor:
        rows = order[index]
        inputs, lengths_B = train.inputs.batch(rows, width)
        with compute.autocast():
            logits_BK = training_model(inputs.to(compute.device), lengths_B.to(compute.device))
        return F.cross_entropy(logits_BK.float(), labels_N[rows].to(compute.device))

    def evaluate() -> dict[str, float]:
        states_NC = model.states_of(validation.inputs, range(len(actual_N))).to(model.head.weight.device)
        logits_NK = model.head(states_NC).float().cpu()
        predicted_N = logits_NK.argmax(dim=1).numpy()
        return {
            "validation_loss": F.cross_entropy(logits_NK, actual_N).item(),
            "validation_f1": f1_of(actual_N, predicted_N, len(model.config.labels)),
        }

    return Objective(
        loss,
        evaluate,
        best="validation_f1",
        lower_is_better=False,
        tie="validation_loss",  # F1 says nothing of a rare label that nobody is given yet, nor of a split that is easy
    )
