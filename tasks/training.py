"""A training run as people see it: a progress bar, live curves in MLflow, progress in Prefect, a report at the end."""

import json
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue
from statistics import fmean
from threading import Thread
from typing import Any, Self

import matplotlib as mpl
import mlflow
import pandas as pd
import psutil
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient
from prefect import task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from tqdm import tqdm

from llm.checkpoint import save_model
from llm.config import TrainConfig
from llm.device import Compute, choose_compute, matmul_peak
from llm.files import atomic_folder, write_atomic
from llm.lora import merge_lora
from llm.resume import Checkpoints, restore_weights
from llm.train import Row, memory_needed, train
from llm.workers import ALONE
from tasks.cluster import Cluster
from tasks.lineage import Hashes, fingerprint, inputs
from tasks.parallel import Learner, Prepare, Work, train_on_ray
from tasks.stages import current_stage, leave_soon, state_folder
from tasks.tracking import log_steps, stage_run

INPUTS = "inputs.json"  # beside the checkpoints: what they were made from
REPORT_EVERY = 25  # steps between messages to MLflow and Prefect: each takes about 50 ms
PATIENCE = 5  # seconds that a finished training waits for its progress to reach Prefect

logger = logging.getLogger(__name__)


@contextmanager
def training_run(params: TrainConfig, datasets: dict[str, Path], resume: bool) -> Iterator[Checkpoints]:
    """The MLflow run of a training stage and its checkpoints, which are removed when the block ends well.

    Both are keyed by params, deps and code: with `resume` an unfinished run of the same key goes on. Checkpoints of
    another key are dropped, and the log says what has changed.
    """
    stage = current_stage()
    now = inputs(stage)
    key = fingerprint(now)
    checkpoints = Checkpoints(state_folder(stage) / key)
    for other in checkpoints.folder.parent.glob("*/"):
        if other != checkpoints.folder:
            before = other / INPUTS
            changed = now.differences(Hashes(**json.loads(before.read_text()))) if before.exists() else []
            logger.info("an earlier run's checkpoints are dropped, as %s changed", ", ".join(changed) or "its inputs")
            shutil.rmtree(other)
        elif not resume:
            shutil.rmtree(other)
    write_atomic(checkpoints.folder / INPUTS, json.dumps(asdict(now)))
    with stage_run(params, datasets, key, resume=resume):
        yield checkpoints
    shutil.rmtree(checkpoints.folder, ignore_errors=True)


class _Sender:
    """Tells a server what is new, from a thread of its own: one that is slow or gone holds up no step.

    What it did not take is sent again with the next.
    """

    def __init__(self, server: str, send: Callable[[list[Any]], None]) -> None:
        self.server, self.send = server, send
        self.unsent: list[Any] = []
        self.queue: SimpleQueue[list[Any] | None] = SimpleQueue()
        self.thread = Thread(target=copy_context().run, args=(self._run,), daemon=True)
        self.thread.start()

    def __call__(self, new: list[Any]) -> None:
        self.queue.put(new)

    def end(self, patience: float | None = None) -> None:
        """Let what waits arrive, within so many seconds."""
        self.queue.put(None)
        self.thread.join(patience)

    def _run(self) -> None:
        going = True
        while going:
            new = [self.queue.get()]
            while not self.queue.empty():
                new.append(self.queue.get())
            going = None not in new
            self.unsent += [each for part in new for each in part or ()]
            if not self.unsent:
                continue
            try:
                self.send(self.unsent)
                self.unsent = []
            except Exception as error:  # whatever a server's client may raise
                logger.warning("%s did not take what is new: %s", self.server, error)


class Watch:
    """Tells the terminal about each step, MLflow and Prefect about each after number `logged`, which they have."""

    def __init__(self, name: str, steps: int, logged: int, work: Work, compute: Compute) -> None:
        self.steps, self.logged, self.work, self.peak = steps, logged, work, matmul_peak(compute)
        self.waiting: list[dict[str, float]] = []
        self.smooth = 0.0
        self.bar = tqdm(total=steps, desc=name, unit="step", mininterval=1.0, dynamic_ncols=True)
        key, run = name.replace("_", "-"), mlflow.active_run().info.run_id
        artifact = create_progress_artifact(progress=0.0, key=key, description=f"{name}: steps")
        self.curves = _Sender("MLflow", lambda rows: log_steps(run, rows))
        self.progress = _Sender("Prefect", lambda shares: update_progress_artifact(artifact, progress=shares[-1]))

    def __call__(self, row: Row, seconds: float) -> None:
        """Take in one row of metrics."""
        step = row["step"]
        if step > 0:
            self.smooth = row["train_loss"] if step == 1 else 0.95 * self.smooth + 0.05 * row["train_loss"]
            status = f"loss {row['train_loss']:.3f}, smoothed {self.smooth:.3f}"
            if seconds:
                rate = self.work.units_a_step / seconds
                row = row | {f"{self.work.units}_per_second": rate}
                status += f", {rate:,.0f} {self.work.units}/s"
                if self.work.flops_a_unit:
                    status += f", {rate * self.work.flops_a_unit / self.peak:.0%} of the matmul peak"
            self.bar.set_postfix_str(status, refresh=False)
            self.bar.update()
        if step <= self.logged:
            return
        values = {name: value for name, value in row.items() if name != "samples"}
        self.waiting.append({"timestamp": int(time.time() * 1000), **values})
        found = {name: value for name, value in row.items() if name.startswith("validation")}
        if found:
            self.bar.clear()
            logger.info("step %d: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
            for sample in row.get("samples", []):
                logger.info("  %s", " ".join(sample.split()))
        if found or step % REPORT_EVERY == 0 or step == self.steps:
            self.curves(self.waiting)
            self.waiting = []
            self.progress([100.0 * step / max(1, self.steps)])

    def end(self) -> None:
        """Let the servers hear all: MLflow for as long as its client tries, Prefect for PATIENCE seconds."""
        self.curves(self.waiting)
        self.curves.end()
        self.progress.end(PATIENCE)


class _Asked:
    """Turns Ctrl-C and SIGTERM into a polite end of training: at once inside a look, else after the step.

    A second Ctrl-C is what it was before; a second SIGTERM, as when the parent dies of the first, changes nothing.
    """

    def __init__(self) -> None:
        self.asked = self.looking = False

    def __call__(self) -> bool:
        """Whether it was asked for."""
        return self.asked

    def __enter__(self) -> Self:
        self.before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in self.before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _on_signal(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.before[signal.SIGINT])
        first, self.asked = not self.asked, True
        if first and self.looking:
            raise InterruptedError

    def within(self, look: Callable[[], Row]) -> Callable[[], Row]:
        """The look, but interruptible."""

        def interruptible() -> Row:
            self.looking = True
            try:
                return look()
            finally:
                self.looking = False

        return interruptible


def _free_memory() -> int:
    """Bytes of memory that are free where training computes."""
    device = choose_compute().device
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


@task(cache_policy=NO_CACHE)
def fit(prepare: Prepare, params: TrainConfig, checkpoints: Checkpoints) -> tuple[Learner, list[Row]]:
    """Train what `prepare` builds, going on from the newest of `checkpoints`; the learner and a row of metrics a step.

    Here, or in the workers that THREESTAGE_RAY asks for. With LoRA its updates are merged into the weights at the end.
    """
    free = _free_memory()
    learner = prepare(ALONE)
    model, objective, compute = learner.model, learner.objective, learner.compute
    count = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    logger.info("%s; %.1f M weights, %.1f M of them trained", compute, count / 1e6, trained / 1e6)
    mlflow.set_tags({"threestage.device": str(compute.device), "threestage.dtype": str(compute.dtype)})
    mlflow.log_params({"weights": count, "trained_weights": trained})
    if found := checkpoints.load():
        logger.info("going on after step %d of %d", found[1]["step"], params.steps)
    del found  # which may be large
    cluster = Cluster.asked_for() if params.steps else None  # nothing to share out
    if params.steps and cluster is None:
        needed = memory_needed(model, objective)
        level = logging.WARNING if needed > free else logging.INFO
        logger.log(level, "training needs about %.1f GB of memory, %.1f GB are free", needed / 1e9, free / 1e9)
    work = learner.work if cluster is None else learner.work._replace(flops_a_unit=0)  # the peak is this machine's
    watch = Watch(current_stage(), params.steps, _last_logged("train_loss", objective.best), work, compute)
    try:
        with watch.bar, _Asked() as asked:
            if cluster is None:
                objective = replace(objective, evaluate=asked.within(objective.evaluate))
                history = train(model, params, objective, checkpoints=checkpoints, report=watch, stop=asked)
            else:
                train_on_ray(cluster, prepare, params, checkpoints, watch, stop=asked)
                groups, state = checkpoints.load()
                restore_weights(model, groups["best"])
                history = state["history"]
            if asked():  # in the last step, whose checkpoint is written
                raise InterruptedError(f"stopped after step {history[-1]['step']} of {params.steps}, with a checkpoint")
    except InterruptedError:
        leave_soon()
        raise
    finally:
        watch.end()
    if watch.curves.unsent:
        raise RuntimeError("MLflow did not take all of the curves; the same command goes on from the last step")
    merge_lora(model)
    return learner, history


def _last_logged(*names: str) -> int:
    """The last step of which this MLflow run has one of these metrics; -1 without one."""
    run = mlflow.active_run().info.run_id
    sent = (metric.step for name in names for metric in MlflowClient().get_metric_history(run, name))
    return max(sent, default=-1)


def _looks(history: list[Row]) -> list[Row]:
    """One row a look at the validation split, with the mean training loss since the look before."""
    rows, since = [], []
    for row in history:
        since += [row["train_loss"]] if "train_loss" in row else []
        found = {name: value for name, value in row.items() if name.startswith("validation")}
        if found:
            rows.append({"step": row["step"], "train_loss": fmean(since) if since else None, **found})
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
def publish(kind: str, learner: Learner, history: list[Row], report: Path) -> dict[str, Any]:
    """Write models/<kind>/ and the training report, log both to MLflow, and return the report's metrics."""
    best = learner.objective.best
    looks = _looks(history)
    chosen = (min if learner.objective.lower_is_better else max)(looks, key=lambda row: row[best])
    metrics = {name: round(value, 6) for name, value in chosen.items() if value is not None}
    metrics["steps"] = history[-1]["step"]
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
        save_model(folder, learner.model, learner.encoding, kind)

    mlflow.log_metrics({f"final.{name}": value for name, value in metrics.items()})
    mlflow.log_artifacts(str(report), "report")
    mlflow.log_artifacts(str(Path("models") / kind), "model")
    create_table_artifact(key=f"{kind}-training", table=[metrics], description=f"The training of the {kind}")
    return metrics
