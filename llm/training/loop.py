"""The training loop that pre-training and all fine-tunes share.

Read `Training.update` first: batch, loss, backward, clip, update. `train` repeats it; evaluation, checkpoints and the
way back after an interruption stand around it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from llm.config import TrainConfig
from llm.device import keep_freed_memory
from llm.kernels.training.backend import MuonUpdate
from llm.training.checkpoint import Checkpoints, restore_weights, trained_weights, weights_of
from llm.training.divergence import DivergedError, ExplosionCheck, UnsoundError, check_metric, check_update
from llm.training.objective import ModelT, Objective, Row, evaluations_since_best
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


@dataclass
class Training:
    """A training under way."""

    config: TrainConfig
    objective: Objective[Any]
    model: nn.Module
    """The model that is evaluated and saved."""
    training_model: nn.Module
    """A model with the same weights that computes the losses."""
    accumulate: Accumulate
    """Adds up the gradients of an update."""
    optimizer: Optimizers
    checkpoints: Checkpoints | None
    report: Report
    history: list[Row]
    """A row of metrics a step."""
    best: dict[str, Tensor]
    """The best weights so far."""
    explosion: ExplosionCheck = field(default_factory=ExplosionCheck)

    def update(self, step: int) -> Row:
        """Update the weights, number `step` from 1, by `gradient_accumulation` batches; the row of its metrics."""
        config = self.config
        self.training_model.train()
        batches = range((step - 1) * config.gradient_accumulation, step * config.gradient_accumulation)
        weights = [self.objective.weight(batch) for batch in batches]
        shares = [weight / sum(weights) for weight in weights]  # 1.0 for a single batch, which changes no bit
        loss = self.accumulate(self.batch_loss, batches, shares)
        norm = clip_gradients(self.training_model, config.gradient_clip)
        share_of_peak = schedule(step - 1, config)
        rate = share_of_peak * config.learning_rate
        check_update(step, loss, norm=norm, rate=rate)
        self.optimizer.step(share_of_peak)
        return {"step": step, "train_loss": loss, "learning_rate": rate, "gradient_norm": norm}

    def batch_loss(self, batch: int) -> Tensor:
        """The mean loss of a batch by its number; dropout is a function of the seed and this number."""
        torch.manual_seed(self.config.seed * 1_000_003 + batch + 1)
        return self.objective.loss(self.training_model, batch)

    @property
    def steps_done(self) -> int:
        """The number of the last update; 0 before the first."""
        return self.history[-1]["step"] if self.history else 0

    def finish(self, row: Row, seconds: float) -> None:
        """Evaluate if an evaluation is due, then report the row of the last update and check its loss."""
        is_due = row["step"] % self.config.evaluate_every == 0 or row["step"] == self.config.steps
        samples = self.evaluate(row) if is_due and self.objective.best not in row else []
        reported = dict(row)
        if samples:
            reported["samples"] = samples
        self.report(reported, seconds)
        self.explosion.add(row)

    def evaluate(self, row: Row) -> list[str]:
        """Add the metrics on the validation split to the last row, and keep the weights if they are the best; samples.

        Raises UnsoundError where the metric that chooses the weights is no number.
        """
        self.model.eval()
        with torch.inference_mode():
            samples = self.objective.samples()
            row |= self.objective.evaluate()
        check_metric(row["step"], self.objective.best, row[self.objective.best])
        if evaluations_since_best(self.history, self.objective) == 0:
            self.best = trained_weights(self.model)
        return samples

    def save(self) -> None:
        """Write a checkpoint."""
        if self.checkpoints:
            groups = {"model": weights_of(self.model), "best": self.best, "optimizer": self.optimizer.tensors()}
            self.checkpoints.save(self.steps_done, groups, self.history)

    def resume(self) -> None:
        """Go back to the newest checkpoint where there is one, and report its rows again, but for the last."""
        checkpoint = self.checkpoints.load() if self.checkpoints else None
        if checkpoint is not None:
            groups, state = checkpoint
            restore_weights(self.model, groups["best"])
            self.best = trained_weights(self.model)
            restore_weights(self.model, groups["model"])
            self.optimizer.restore(groups.get("optimizer", {}))  # which has none before the first step
            self.history = state["history"]
        for row in self.history[:-1]:
            self.report(row, 0.0)
            self.explosion.add(row)

    def run(self, stop: Callable[[], bool]) -> None:
        """Update, evaluate and save until all steps are done. Raises InterruptedError when `stop` says so."""
        for row in self.history[-1:]:  # whose evaluation may have been interrupted
            self.finish(row, 0.0)
        while self.steps_done < self.config.steps:
            if stop():
                raise InterruptedError
            started = time.perf_counter()
            row = self.update(self.steps_done + 1)
            self.history.append(row)
            self.finish(row, time.perf_counter() - started)
            if self.steps_done % self.config.checkpoint_every == 0:
                self.save()

    def checkpoint_before(self, step: int) -> str:
        """The end of an error's message: which checkpoint is from before a step, if any."""
        newest = self.checkpoints.newest(step) if self.checkpoints else None
        return "" if newest is None else f"; the last checkpoint before that is of step {newest}"


def clip_gradients(model: nn.Module, largest: float) -> float:
    """Scale all gradients down where their norm is above `largest`; the norm before that."""
    weights = [weight for weight in model.parameters() if weight.grad is not None]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    total = nn.utils.get_total_norm(gradients)
    norm = total.item()
    if norm > largest:  # else each would be multiplied by 1
        nn.utils.clip_grads_with_norm_(weights, largest, total)
    return norm


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
    training = Training(
        config=config,
        objective=objective,
        model=model,
        training_model=training_model,
        accumulate=accumulate,
        optimizer=build_optimizer(model, config, muon_update),
        checkpoints=checkpoints,
        report=report,
        history=[{"step": 0}] if objective.start_counts else [],
        best=trained_weights(model),
    )
    training.resume()
    try:
        training.run(stop)
    except InterruptedError:
        training.save()
        raise InterruptedError(
            f"stopped after step {training.steps_done} of {config.steps}, with a checkpoint"
        ) from None
    except UnsoundError as error:
        raise DivergedError(f"{error}{training.checkpoint_before(error.last_sound_step)}") from None
    if checkpoints and config.steps and checkpoints.newest() != training.steps_done:
        training.save()
    restore_weights(model, training.best)
    model.eval()
    return training.history
