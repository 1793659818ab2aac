"""A training run as people see it: a progress bar, live curves in MLflow, progress in Prefect, a report at the end."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
import mlflow
import pandas as pd
import tiktoken
from matplotlib.figure import Figure
from mlflow import MlflowClient
from prefect import task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from torch import nn
from tqdm import tqdm

from llm.checkpoint import save_model
from llm.classifier import Classifier
from llm.config import TrainConfig
from llm.device import Compute
from llm.files import atomic_folder, write_atomic
from llm.gpt import GPT
from llm.resume import Checkpoints
from llm.train import Objective, Row, train
from tasks.lineage import fingerprint
from tasks.stages import current_stage, state_folder
from tasks.tracking import log_steps, stage_run

REPORT_EVERY = 25  # steps between messages to MLflow and Prefect: each takes about 50 ms

logger = logging.getLogger(__name__)


@contextmanager
def training_run(params: TrainConfig, datasets: dict[str, Path], resume: bool) -> Iterator[Checkpoints]:
    """The MLflow run of a training stage and its checkpoints, which are removed when the block ends well.

    Both are keyed by params, deps and code: with `resume` an unfinished run of the same key goes on. Checkpoints of
    another key are dropped.
    """
    stage = current_stage()
    key = fingerprint(stage)
    checkpoints = Checkpoints(state_folder(stage) / key)
    for other in checkpoints.folder.parent.glob("*/"):
        if other != checkpoints.folder:
            logger.info("parameters, data or code have changed: an earlier run's checkpoints are dropped")
            shutil.rmtree(other)
        elif not resume:
            shutil.rmtree(other)
    with stage_run(params, datasets, resume_key=key if resume else None):
        yield checkpoints
    shutil.rmtree(checkpoints.folder, ignore_errors=True)


class Watch:
    """Tells the terminal about each step, MLflow and Prefect about each after number `logged`, which they have."""

    def __init__(self, name: str, steps: int, logged: int, units: str, units_a_step: int) -> None:
        self.steps, self.logged, self.units, self.units_a_step = steps, logged, units, units_a_step
        self.waiting: list[Row] = []
        self.smooth = 0.0
        self.bar = tqdm(total=steps, desc=name, unit="step", mininterval=1.0, dynamic_ncols=True)
        self.artifact = create_progress_artifact(progress=0.0, key=name.replace("_", "-"), description=f"{name}: steps")

    def __call__(self, row: Row, seconds: float) -> None:
        """Take in one row of metrics."""
        step = row["step"]
        self.smooth = row["train_loss"] if step == 1 else 0.95 * self.smooth + 0.05 * row["train_loss"]
        status = f"loss {self.smooth:.3f}"
        if seconds:
            status += f", {self.units_a_step / seconds:,.0f} {self.units}/s"
        self.bar.set_postfix_str(status, refresh=False)
        self.bar.update()
        if step <= self.logged:
            return
        self.waiting.append(row)
        found = {name: value for name, value in row.items() if name.startswith("validation")}
        if found:
            self.bar.clear()
            logger.info("step %d: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
            for sample in row.get("samples", []):
                logger.info("  %s", " ".join(sample.split()))
        if found or step % REPORT_EVERY == 0 or step == self.steps:
            log_steps([{name: value for name, value in each.items() if name != "samples"} for each in self.waiting])
            self.waiting = []
            update_progress_artifact(self.artifact, progress=100.0 * step / self.steps)


@task(cache_policy=NO_CACHE)
def fit(
    model: nn.Module,
    params: TrainConfig,
    objective: Objective,
    compute: Compute,
    checkpoints: Checkpoints,
    *,
    units: str,
    units_a_step: int,
) -> list[Row]:
    """Train `model` in place, going on from the newest of `checkpoints`; a row of metrics a step."""
    count = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    logger.info("%s; %.1f M weights, %.1f M of them trained", compute, count / 1e6, trained / 1e6)
    mlflow.set_tags({"threestage.device": str(compute.device), "threestage.dtype": str(compute.dtype)})
    mlflow.log_params({"weights": count, "trained_weights": trained})
    done = checkpoints.newest()
    if done:
        logger.info("going on after step %d of %d", done, params.steps)
    sent = MlflowClient().get_metric_history(mlflow.active_run().info.run_id, "train_loss")
    logged = max((metric.step for metric in sent), default=0)
    watch = Watch(current_stage(), params.steps, logged, units, units_a_step)
    with watch.bar:
        return train(model, params, objective, checkpoints=checkpoints, report=watch)


def _looks(history: list[Row]) -> list[Row]:
    """One row a look at the validation split, with the mean training loss since the look before."""
    rows, since = [], []
    for row in history:
        since.append(row["train_loss"])
        found = {name: value for name, value in row.items() if name.startswith("validation")}
        if found:
            rows.append({"step": row["step"], "train_loss": fmean(since), **found})
            since = []
    return rows


def _loss_picture(looks: pd.DataFrame, path: Path) -> None:
    """Training and validation loss by step as an SVG, the same bytes for the same numbers."""
    with mpl.rc_context({"svg.hashsalt": "threestage", "font.size": 9}):
        figure = Figure(figsize=(6, 3), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="loss (nats)")
        for name in ("train_loss", "validation_loss"):
            axes.plot(looks["step"], looks[name], marker=".", label=name.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, format="svg", metadata={"Date": None})


@task(cache_policy=NO_CACHE)
def publish(
    kind: str,
    model: GPT | Classifier,
    encoding: tiktoken.Encoding,
    history: list[Row],
    best: str,
    report: Path,
) -> dict[str, Any]:
    """Write models/<kind>/ and the training report, log both to MLflow, and return the report's metrics."""
    looks = _looks(history)
    chosen = (max if best.endswith("f1") else min)(looks, key=lambda row: row[best])
    metrics = {name: round(value, 6) for name, value in chosen.items()} | {"steps": history[-1]["step"]}
    metrics["best_step"] = metrics.pop("step")

    report.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(looks)
    table.to_csv(report / "curves.csv", index=False, float_format="%.6f")
    _loss_picture(table, report / "loss.svg")
    samples = [
        f"## Step {row['step']}\n\n" + "\n".join(f"- {' '.join(sample.split())}" for sample in row["samples"])
        for row in history
        if row.get("samples")
    ]
    if any("samples" in row for row in history):
        write_atomic(report / "samples.md", "\n\n".join(["# Samples during training", *samples]) + "\n")
    write_atomic(report / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    with atomic_folder(Path("models") / kind) as folder:
        save_model(folder, model, encoding, kind)

    mlflow.log_metrics({f"final.{name}": value for name, value in metrics.items()})
    mlflow.log_artifacts(str(report), "report")
    mlflow.log_artifacts(str(Path("models") / kind), "model")
    create_table_artifact(key=f"{kind}-training", table=[metrics], description=f"The training of the {kind}")
    return metrics
