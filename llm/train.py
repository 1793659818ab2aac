"""The training loop that pre-training and both fine-tunes share."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from llm.config import TrainConfig
from llm.optim import Optimizers, build_optimizer, schedule
from llm.resume import Checkpoints, restore_weights, trained_weights, weights_here
from llm.workers import ALONE, Workers, whole

Row = dict[str, Any]
WINDOW, EXPLODED = 10, 3.0  # steps whose mean loss may not be above the first ones' and so many times the lowest
LOWER = "try a lower learning_rate"


class DivergedError(RuntimeError):
    """The loss is no number, or explodes."""


@dataclass(frozen=True)
class Objective:
    """What a training run learns and how it is judged."""

    loss: Callable[[int], Tensor]
    """The mean loss of batch number i, under autocast; i counts forward passes from 0."""
    evaluate: Callable[[], Row]
    """Metrics on the validation split; under `samples`, texts for people to look at."""
    best: str
    """The metric that chooses the weights to keep."""
    lower_is_better: bool = True
    start_counts: bool = False
    """Whether the weights before the first step, published ones, may be the best; row 0 is a look at them."""


def train(
    model: nn.Module,
    config: TrainConfig,
    objective: Objective,
    *,
    checkpoints: Checkpoints | None = None,
    report: Callable[[Row, float], None] = lambda row, seconds: None,
    stop: Callable[[], bool] = lambda: False,
    workers: Workers = ALONE,
) -> list[Row]:
    """Train in place, leave the best weights in `model`, return a row of metrics a step.

    Goes on from the newest checkpoint where there is one. A row holds `step` (from 1), `train_loss`, `learning_rate`,
    `gradient_norm`, and what `evaluate` found where it looked. `report` gets each row with the seconds that its update
    took; a checkpoint's rows are reported again. Training ends early after `patience` looks without a better one.

    `stop` is asked before each step, and `evaluate` may raise InterruptedError: both save a checkpoint and raise
    InterruptedError. Raises DivergedError, naming step and last checkpoint, when the loss is no number or explodes.

    Of several `workers` each calls this, with an objective that takes its part of every batch.
    """
    optimizer = build_optimizer(model, config)
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
        """Look at the validation split where it is time, and report the row."""
        nonlocal best
        if objective.best not in row and (row["step"] % config.evaluate_every == 0 or row["step"] == config.steps):
            row |= _look(model, objective)
            workers.release()
            if not math.isfinite(row[objective.best]):
                raise FloatingPointError(f"step {row['step']}: {objective.best} {row[objective.best]}: {LOWER}")
            if _looks_since_best(history, objective) == 0:
                best = trained_weights(model)
        report(row, seconds)

    for row in history[:-1]:
        report(row, 0.0)
    try:
        for row in history[-1:]:  # whose look may have been interrupted
            finish(row, 0.0)
        while step() < config.steps and not _out_of_patience(history, config, objective):
            if workers.any(stop()):
                raise InterruptedError
            started = time.perf_counter()
            history.append({"step": step() + 1, **_update(model, config, objective, optimizer, step() + 1, workers)})
            finish(history[-1], time.perf_counter() - started)
            _check_explosion(history)
            if step() % config.checkpoint_every == 0:
                save()
    except InterruptedError:
        save()
        raise InterruptedError(f"stopped after step {step()} of {config.steps}, with a checkpoint") from None
    except FloatingPointError as error:
        newest = checkpoints.newest() if checkpoints else 0
        kept = f"; the last checkpoint is of step {newest}" if newest else ""
        raise DivergedError(f"{error}{kept}") from None
    if checkpoints and checkpoints.newest() != step():
        save()

    restore_weights(model, best)
    model.eval()
    return history


def memory_needed(model: nn.Module, objective: Objective) -> int:
    """About how many bytes training takes where it computes; short-lived tensors come on top.

    Weights, two moments and the best weights so far; then either gradients and what a forward pass keeps, which is
    counted in one, or, on a CPU, a checkpoint on its way to disk, of which safetensors makes two copies.
    """
    saved: dict[int, int] = {weight.untyped_storage().data_ptr(): 0 for weight in model.parameters()}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = objective.loss(0)  # kept, as what it saved must stay to be counted once
    del loss
    weights = sum(weight.nbytes for weight in model.parameters())
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    checkpoint = 2 * 4 * trained if next(model.parameters()).device.type == "cpu" else 0
    return weights + 3 * trained + max(trained + sum(saved.values()), checkpoint)


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


def _update(
    model: nn.Module, config: TrainConfig, objective: Objective, optimizer: Optimizers, step: int, workers: Workers
) -> Row:
    """One update of the weights from `gradient_accumulation` batches."""
    model.train()
    torch.manual_seed(config.seed * 1_000_003 + step + workers.rank * 10**12)  # dropout is a function of seed and step
    share = schedule(step - 1, config)
    rate = share * config.learning_rate
    total = 0.0
    for part in range(config.gradient_accumulation):
        workers.synchronise(part + 1 == config.gradient_accumulation)
        loss = objective.loss((step - 1) * config.gradient_accumulation + part) / config.gradient_accumulation
        loss.backward()
        total += loss.item()
    (total,) = workers.sums(total / workers.count)
    norm = whole(nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)).item()
    if not math.isfinite(total) or not math.isfinite(norm):
        raise FloatingPointError(f"step {step}: loss {total}, gradient norm {norm}: {LOWER} than {rate:.2g}")
    optimizer.step(share)
    return {"train_loss": total, "learning_rate": rate, "gradient_norm": norm}


def _look(model: nn.Module, objective: Objective) -> Row:
    model.eval()
    with torch.inference_mode():
        return objective.evaluate()


def _check_explosion(history: list[Row]) -> None:
    if history[-1]["step"] % WINDOW:
        return
    losses = [row["train_loss"] for row in history if "train_loss" in row]
    means = [fmean(losses[start : start + WINDOW]) for start in range(0, len(losses), WINDOW)]
    if means[-1] > max(means[0], EXPLODED * min(means)):
        grown = f"the loss has grown from {min(means):.3g} to {means[-1]:.3g}"
        raise FloatingPointError(f"step {history[-1]['step']}: {grown}: {LOWER}")


def _looks_since_best(history: list[Row], objective: Objective) -> int:
    found = [row[objective.best] for row in history if objective.best in row]
    best = min(found) if objective.lower_is_better else max(found)
    return len(found) - 1 - found.index(best)


def _out_of_patience(history: list[Row], config: TrainConfig, objective: Objective) -> bool:
    looked = any(objective.best in row for row in history)
    return looked and config.patience is not None and _looks_since_best(history, objective) >= config.patience
