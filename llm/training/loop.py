"""The training loop that pre-training and all fine-tunes share: read `train` from top to bottom."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llm.config import TrainConfig
from llm.device import keep_freed_memory
from llm.kernels.training.backend import MuonUpdate
from llm.training.checkpoint import Checkpoints, restore_weights, trained_weights, weights_of
from llm.training.divergence import DivergenceCheck
from llm.training.objective import ModelT, Objective, Row, best_evaluation
from llm.training.optim import Optimizers, build_optimizer, schedule

Report = Callable[[Row, float], None]

Accumulate = Callable[[Callable[[int], Tensor], Sequence[int], Sequence[float]], float]


def accumulate_gradients(batch_loss: Callable[[int], Tensor], batches: Sequence[int], shares: Sequence[float]) -> float:
    """Add up the gradients of an update's batches, by number, each multiplied by its share; their mean loss."""
    mean_loss = 0.0
    for batch, share in zip(batches, shares, strict=True):
        loss = batch_loss(batch) * share
        loss.backward()
        mean_loss += loss.item()
    return mean_loss


def clip_gradients(model: nn.Module, largest: float) -> float:
    """Scale all gradients down where their norm is above `largest`; the norm before that."""
    weights = [weight for weight in model.parameters() if weight.grad is not None]
    total = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    norm = total.item()
    if norm > largest:  # else each would be multiplied by 1
        nn.utils.clip_grads_with_norm_(weights, largest, total)
    return norm


def train_step(
    model: nn.Module,
    step: int,
    config: TrainConfig,
    objective: Objective[Any],
    *,
    optimizer: Optimizers,
    check: DivergenceCheck,
    accumulate: Accumulate,
) -> Row:
    """Update the weights, number `step` from 1, by `gradient_accumulation` batches; the row of its metrics."""

    def batch_loss(batch: int) -> Tensor:
        torch.manual_seed(config.seed * 1_000_003 + batch + 1)  # of dropout
        return objective.loss(model, batch)

    model.train()
    batches = range((step - 1) * config.gradient_accumulation, step * config.gradient_accumulation)
    weights = [objective.weight(batch) for batch in batches]
    shares = [weight / sum(weights) for weight in weights]  # 1.0 for a single batch, which changes no bit
    loss = accumulate(batch_loss, batches, shares)
    norm = clip_gradients(model, config.gradient_clip)
    check.finite(step, loss=loss, gradient_norm=norm)
    share_of_peak = schedule(step - 1, config)
    optimizer.step(share_of_peak)
    rate = share_of_peak * config.learning_rate
    return {"step": step, "train_loss": loss, "learning_rate": rate, "gradient_norm": norm}


def evaluate(
    model: nn.Module,
    objective: Objective[Any],
    history: Sequence[Row],
    *,
    best: dict[str, Tensor],
    check: DivergenceCheck,
) -> list[str]:
    """Add the metrics on the validation split to the last row, and keep the weights as `best` if they are; samples."""
    row = history[-1]
    model.eval()
    with torch.inference_mode():
        samples = objective.samples()
        row |= objective.evaluate()
    check.finite(row["step"], **{objective.best: row[objective.best]})
    evaluations = [row for row in history if objective.best in row]
    if best_evaluation(evaluations, objective) == len(evaluations) - 1:
        best.update(trained_weights(model))
    return samples


def last_step(history: Sequence[Row]) -> int:
    """The number of the last update; 0 before the first."""
    return history[-1]["step"] if history else 0


def train(
    model: ModelT,
    config: TrainConfig,
    objective: Objective[ModelT],
    *,
    training_model: ModelT | None = None,
    checkpoints: Checkpoints | None = None,
    report: Report = lambda row, seconds: None,
    stop: Callable[[], bool] = lambda: False,
    muon_update: MuonUpdate | None = None,
    accumulate: Accumulate = accumulate_gradients,
) -> list[Row]:
    """Train in place, leave the best weights in `model`, return a row of metrics a step.

    `training_model` has the same weights, and computes the losses (llm/training/backend.py); by default it is `model`.
    Goes on from the newest checkpoint where there is one. A row holds `step` (from 1), `train_loss`, `learning_rate`,
    `gradient_norm`, and the metrics of `evaluate` where it ran. `report` gets each row with the seconds that its update
    took, and under `samples` the texts that `objective` made; a checkpoint's rows are reported again.

    `stop` is asked before each step, and `evaluate` and `samples` may raise InterruptedError: both save a checkpoint
    and raise InterruptedError. Raises DivergedError when the loss is no number or explodes, naming the step and the
    newest checkpoint from before.

    `muon_update` is that of a Backend. `accumulate` may share the batches of an update with other processes.
    """
    keep_freed_memory()
    training_model = model if training_model is None else training_model
    optimizer = build_optimizer(model, config, muon_update)
    check = DivergenceCheck(checkpoints)
    history: list[Row] = [{"step": 0}] if objective.start_counts else []
    best = trained_weights(model)
    checkpoint = checkpoints.load() if checkpoints else None
    if checkpoint is not None:
        groups, state = checkpoint
        history = state["history"]
        best = groups["best"]
        restore_weights(model, groups["model"])
        optimizer.restore(groups.get("optimizer", {}))  # which has none before the first step

    def save() -> None:
        if checkpoints:
            groups = {"model": weights_of(model), "best": best, "optimizer": optimizer.tensors()}
            checkpoints.save(last_step(history), groups, history)

    def finish(row: Row, seconds: float) -> None:
        """Evaluate if that is due, report the row of an update, and check its loss."""
        samples: list[str] = []
        is_due = row["step"] % config.evaluate_every == 0 or row["step"] == config.steps
        if is_due and objective.best not in row:
            samples = evaluate(model, objective, history, best=best, check=check)
        report(row | {"samples": samples} if samples else dict(row), seconds)
        check.growth(row)

    try:
        for row in history:  # the evaluation of the last one may have been interrupted
            finish(row, 0.0)
        for step in range(last_step(history) + 1, config.steps + 1):
            if stop():
                raise InterruptedError
            started = time.perf_counter()
            row = train_step(
                training_model, step, config, objective, optimizer=optimizer, check=check, accumulate=accumulate
            )
            history.append(row)
            finish(row, time.perf_counter() - started)
            if step % config.checkpoint_every == 0 or step == config.steps:
                save()
    except InterruptedError:
        save()
        done = f"stopped after step {last_step(history)} of {config.steps}, with a checkpoint"
        raise InterruptedError(done) from None
    restore_weights(model, best)
    model.eval()
    return history
