"""The training loop that pre-training and all fine-tunes share."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from llm.config import TrainConfig
from llm.device import keep_freed_memory
from llm.errors import UserError
from llm.kernels.training.backend import MuonUpdate
from llm.training.checkpoint import Checkpoints, restore_weights, trained_weights, weights_here
from llm.training.optim import Optimizers, build_optimizer, schedule
from llm.training.workers import ALONE, Workers, full_tensor

Row = dict[str, Any]
WINDOW, EXPLODED = 10, 3.0  # steps whose mean loss may not be above the first ones' and so many times the lowest
LOWER = "try a lower learning_rate"


class DivergedError(UserError):
    """The loss is no number, or explodes."""


class _UnsoundError(Exception):
    """The same, with the last step after which all was well."""

    def __init__(self, reason: str, sound: int) -> None:
        super().__init__(reason)
        self.sound = sound


@dataclass(frozen=True)
class Objective:
    """What a training run learns and how it is judged."""

    loss: Callable[[nn.Module, int], Tensor]
    """The mean loss of a model on batch number i, under autocast; i counts forward passes from 0."""
    evaluate: Callable[[], Row]
    """Metrics on the validation split."""
    best: str
    """The metric that chooses the weights to keep."""
    lower_is_better: bool = True
    tie: str | None = None
    """Of equals in `best` the one with the least of this metric is kept; null keeps the first."""
    start_counts: bool = False
    """Whether the weights before the first step, published ones, may be the best; row 0 is their evaluation."""
    weight: Callable[[int], float] = lambda index: 1.0
    """How much batch number i counts among those of one update: what its mean was divided by, such as tokens."""
    samples: Callable[[], list[str]] = list
    """Texts for people to read, made at each evaluation and only reported."""


def training_step(
    model: nn.Module,
    config: TrainConfig,
    *,
    batch_loss: Callable[[int], Tensor],
    batch_weight: Callable[[int], float],
    optimizer: Optimizers,
    step: int,
    workers: Workers,
) -> Row:
    """One update of the weights, number `step` from 1, from `gradient_accumulation` batches; its row of metrics.

    `batch_loss` and `batch_weight` give the loss and the weight of a batch by its number.
    """
    model.train()
    torch.manual_seed(config.seed * 1_000_003 + step + workers.rank * 10**12)  # dropout is a function of seed and step
    share = schedule(step - 1, config)
    rate = share * config.learning_rate
    total = 0.0
    parts = range((step - 1) * config.gradient_accumulation, step * config.gradient_accumulation)
    weights = [batch_weight(part) for part in parts]
    for part, weight in zip(parts, weights, strict=True):
        workers.synchronise(part + 1 == parts.stop)
        loss = batch_loss(part) * (weight / sum(weights))  # of one part alone times 1.0, which changes no bit
        loss.backward()
        total += loss.item()
    (total,) = workers.sums(total / workers.count)
    norm = _clip_gradients(model, config.gradient_clip)
    if not math.isfinite(total) or not math.isfinite(norm):
        raise _UnsoundError(f"step {step}: loss {total}, gradient norm {norm}: {LOWER} than {rate:.2g}", step - 1)
    optimizer.step(share)
    return {"train_loss": total, "learning_rate": rate, "gradient_norm": norm}


def _clip_gradients(model: nn.Module, most: float) -> float:
    """Scale all gradients down where their norm is above `most`; the norm before that."""
    weights = [weight for weight in model.parameters() if weight.grad is not None]
    norm = nn.utils.get_total_norm([weight.grad for weight in weights])
    if (found := full_tensor(norm).item()) > most:  # else each would be multiplied by 1
        nn.utils.clip_grads_with_norm_(weights, most, norm)
    return found


def train(
    model: nn.Module,
    config: TrainConfig,
    objective: Objective,
    *,
    training_model: nn.Module | None = None,
    checkpoints: Checkpoints | None = None,
    report: Callable[[Row, float], None] = lambda row, seconds: None,
    stop: Callable[[], bool] = lambda: False,
    workers: Workers = ALONE,
    muon_update: MuonUpdate | None = None,
) -> list[Row]:
    """Train in place, leave the best weights in `model`, return a row of metrics a step.

    `training_model` has the same weights, and computes the losses (llm/training/backend.py); by default it is `model`.
    Goes on from the newest checkpoint where there is one. A row holds `step` (from 1), `train_loss`, `learning_rate`,
    `gradient_norm`, and what `evaluate` found where it ran. `report` gets each row with the seconds that its update
    took, and under `samples` the texts that `objective` made; a checkpoint's rows are reported again. Training ends
    early after `patience` evaluations without a better one.

    `stop` is asked before each step, and `evaluate` and `samples` may raise InterruptedError: both save a checkpoint
    and raise InterruptedError. Raises DivergedError when the loss is no number or explodes, naming the step and the
    newest checkpoint from before.

    Of several `workers` each calls this, with an objective that takes its part of every batch, and without a training
    model. `muon_update` is that of a Backend.
    """
    keep_freed_memory()
    training_model = model if training_model is None else training_model
    batch_loss = workers.wrap(training_model, objective.loss)
    optimizer = build_optimizer(model, config, muon_update)
    history: list[Row] = [{"step": 0}] if objective.start_counts else []
    best = trained_weights(model)
    if checkpoints and (resumed := _resume(checkpoints, model, optimizer)):
        best, history = resumed

    def step() -> int:
        return history[-1]["step"] if history else 0

    def save() -> None:
        if checkpoints:
            groups = {"model": weights_here(model), "best": best, "optimizer": optimizer.tensors()}
            checkpoints.save(step(), groups, {"history": history})

    def finish(row: Row, seconds: float) -> None:
        """Evaluate on the validation split where it is time, and report the row."""
        nonlocal best
        samples: list[str] = []
        if objective.best not in row and (row["step"] % config.evaluate_every == 0 or row["step"] == config.steps):
            samples, found = _evaluate(model, objective)
            row |= found
            workers.release()
            if not math.isfinite(row[objective.best]):
                reason = f"step {row['step']}: {objective.best} {row[objective.best]}: {LOWER}"
                raise _UnsoundError(reason, row["step"] - 1)
            if _evaluations_since_best(history, objective) == 0:
                best = trained_weights(model)
        report(row | ({"samples": samples} if samples else {}), seconds)

    for row in history[:-1]:
        report(row, 0.0)
    try:
        for row in history[-1:]:  # whose evaluation may have been interrupted
            finish(row, 0.0)
        while step() < config.steps and not _out_of_patience(history, config, objective):
            if workers.any(stop()):
                raise InterruptedError
            started = time.perf_counter()
            row = training_step(
                training_model,
                config,
                batch_loss=batch_loss,
                batch_weight=objective.weight,
                optimizer=optimizer,
                step=step() + 1,
                workers=workers,
            )
            history.append({"step": step() + 1, **row})
            finish(history[-1], time.perf_counter() - started)
            _check_explosion(history)
            if step() % config.checkpoint_every == 0:
                save()
    except InterruptedError:
        save()
        raise InterruptedError(f"stopped after step {step()} of {config.steps}, with a checkpoint") from None
    except _UnsoundError as error:
        newest = checkpoints.newest(error.sound) if checkpoints else None
        kept = "" if newest is None else f"; the last checkpoint before that is of step {newest}"
        raise DivergedError(f"{error}{kept}") from None
    if checkpoints and config.steps and checkpoints.newest() != step():
        save()

    restore_weights(model, best)
    model.eval()
    return history


def _resume(
    checkpoints: Checkpoints, model: nn.Module, optimizer: Optimizers
) -> tuple[dict[str, Tensor], list[Row]] | None:
    """Put back the newest checkpoint's weights and optimiser; its best weights and history, None without one."""
    if (found := checkpoints.load()) is None:
        return None
    groups, state = found
    restore_weights(model, groups["best"])
    best = trained_weights(model)
    restore_weights(model, groups["model"])
    optimizer.restore(groups.get("optimizer", {}))  # which has none before the first step
    return best, state["history"]


def _evaluate(model: nn.Module, objective: Objective) -> tuple[list[str], Row]:
    model.eval()
    with torch.inference_mode():
        return objective.samples(), objective.evaluate()


def _check_explosion(history: list[Row]) -> None:
    step = history[-1]["step"]
    if step % WINDOW:
        return
    losses = [row["train_loss"] for row in history if "train_loss" in row]
    means = [fmean(losses[start : start + WINDOW]) for start in range(0, len(losses), WINDOW)]
    if means[-1] > max(means[0], EXPLODED * min(means)):
        grown = f"the loss has grown from {min(means):.3g} to {means[-1]:.3g}"
        raise _UnsoundError(f"step {step}: {grown}: {LOWER}", step - WINDOW)


def best_evaluation(rows: Sequence[Row], objective: Objective) -> int:
    """The place of the evaluation whose weights are kept, among those of a training so far."""
    sign = 1 if objective.lower_is_better else -1

    def rank(place: int) -> tuple[float, float]:
        return sign * rows[place][objective.best], rows[place][objective.tie] if objective.tie else 0.0

    return min(range(len(rows)), key=rank)


def _evaluations_since_best(history: list[Row], objective: Objective) -> int:
    found = [row for row in history if objective.best in row]
    return len(found) - 1 - best_evaluation(found, objective)


def _out_of_patience(history: list[Row], config: TrainConfig, objective: Objective) -> bool:
    evaluated = any(objective.best in row for row in history)
    return evaluated and config.patience is not None and _evaluations_since_best(history, objective) >= config.patience
