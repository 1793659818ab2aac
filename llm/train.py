"""The training loop that pre-training and both fine-tunes share."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm.config import TrainConfig
from llm.optim import build_optimizer, learning_rate
from llm.resume import Checkpoints, copy_weights, optimizer_tensors, restore_optimizer

Row = dict[str, Any]


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


def train(
    model: nn.Module,
    config: TrainConfig,
    objective: Objective,
    *,
    checkpoints: Checkpoints | None = None,
    report: Callable[[Row, float], None] = lambda row, seconds: None,
) -> list[Row]:
    """Train in place, leave the best weights in `model`, return a row of metrics a step.

    Goes on from the newest checkpoint where there is one. A row holds `step` (from 1), `train_loss`, `learning_rate`,
    `gradient_norm`, and what `evaluate` found where it looked. `report` gets each row with the seconds that its update
    took; a checkpoint's rows are reported again. Raises RuntimeError when the loss is no number.
    """
    optimizer = build_optimizer(model, config)
    history: list[Row] = []
    best = copy_weights(model)
    if checkpoints and (found := checkpoints.load()):
        groups, state = found
        model.load_state_dict(groups["model"])
        restore_optimizer(optimizer, groups["optimizer"])
        history, best = state["history"], groups["best"]
    for row in history:
        report(row, 0.0)

    for step in range(len(history) + 1, config.steps + 1):
        started = time.perf_counter()
        row = {"step": step, **_update(model, config, objective, optimizer, step)}
        seconds = time.perf_counter() - started
        if step % config.evaluate_every == 0 or step == config.steps:
            model.eval()
            with torch.inference_mode():
                row |= objective.evaluate()
            if _is_best(row, history, objective):
                best = copy_weights(model)
        history.append(row)
        report(row, seconds)
        if checkpoints and (step % config.checkpoint_every == 0 or step == config.steps):
            groups = {"model": model.state_dict(), "best": best, "optimizer": optimizer_tensors(optimizer)}
            checkpoints.save(step, groups, {"history": history})

    model.load_state_dict(best)
    model.eval()
    return history


def _update(
    model: nn.Module, config: TrainConfig, objective: Objective, optimizer: torch.optim.Optimizer, step: int
) -> Row:
    """One update of the weights from `gradient_accumulation` batches."""
    model.train()
    torch.manual_seed(config.seed * 1_000_003 + step)  # dropout, too, is a function of seed and step
    rate = learning_rate(step - 1, config)
    for group in optimizer.param_groups:
        group["lr"] = rate
    total = 0.0
    for part in range(config.gradient_accumulation):
        loss = objective.loss((step - 1) * config.gradient_accumulation + part) / config.gradient_accumulation
        loss.backward()
        total += loss.item()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip).item()
    if not math.isfinite(total) or not math.isfinite(norm):
        raise RuntimeError(
            f"step {step}: loss {total}, gradient norm {norm}: try a lower learning_rate than {rate:.2g}"
        )
    optimizer.step()
    optimizer.zero_grad()
    return {"train_loss": total, "learning_rate": rate, "gradient_norm": norm}


def _is_best(row: Row, history: list[Row], objective: Objective) -> bool:
    earlier = [old[objective.best] for old in history if objective.best in old]
    if not earlier:
        return True
    value = row[objective.best]
    return value < min(earlier) if objective.lower_is_better else value > max(earlier)
