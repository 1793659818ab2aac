"""The progress of a training: a bar, curves and checkpoints in MLflow, progress in Prefect, and an orderly stop."""

import logging
import signal
import time
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Self, TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from safetensors import safe_open
from safetensors.torch import save_file

from llm.device import Compute, matmul_peak
from llm.training.checkpoint import Checkpoints
from llm.training.objective import Row
from tasks.registry.tracking import log_steps
from tasks.stages.prefect import leave_artifact
from tasks.stages.progress_bar import ProgressBar
from tasks.training.setup import Throughput

REPORT_EVERY = 25  # steps between messages to MLflow and Prefect: each takes about 50 ms
CHECKPOINTS, KEPT = "checkpoints", 3  # their folder in a run, and how many of the newest are kept
PATIENCE = 5  # seconds for the progress of a finished training to reach Prefect

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def active_run_id() -> str:
    """The id of the MLflow run that this training logs to."""
    run = mlflow.active_run()
    assert run is not None, "a training stage has a run"
    return run.info.run_id


class _Sender:
    """Sends news to a server from a thread of its own: a server that is slow or gone delays no step.

    News that fails to arrive is sent again with the next.
    """

    def __init__(self, server: str, send: Callable[[list[Any]], object]) -> None:
        self.server = server
        self.send = send
        self.unsent: list[Any] = []
        self.queue: SimpleQueue[list[Any] | None] = SimpleQueue()
        self.thread = Thread(target=copy_context().run, args=(self._run,), daemon=True)
        self.thread.start()

    def __call__(self, new: list[Any]) -> None:
        self.queue.put(new)

    def end(self, patience: float | None = None) -> None:
        """Wait until all news is sent, at most `patience` seconds."""
        self.queue.put(None)
        self.thread.join(patience)

    def _run(self) -> None:
        ended = False
        while not ended:
            batches = [self.queue.get()]
            while not self.queue.empty():
                batches.append(self.queue.get())
            for news in batches:
                if news is None:
                    ended = True
                else:
                    self.unsent += news
            if not self.unsent:
                continue
            try:
                self.send(self.unsent)
                self.unsent = []
            except Exception as error:  # a server's client may raise anything
                logger.warning("%s did not take what is new: %s", self.server, error)


def log_checkpoint(run_id: str, folder: Path, step: int) -> None:
    """Log the trained weights of a checkpoint to an MLflow run, and remove all but the newest KEPT there.

    The optimizer's state stays in the local file alone, which is three times as large and goes when training ends.
    """
    client = MlflowClient()
    with TemporaryDirectory() as scratch:
        for file in folder.glob(f"step-{step:06}*.safetensors"):
            with safe_open(file, framework="pt") as content:
                names = [name for name in content.keys() if name.startswith("model/")]  # noqa: SIM118 - it is no dict
                weights = {name.removeprefix("model/"): content.get_tensor(name) for name in names}
            save_file(weights, Path(scratch, file.name), {"step": str(step)})
        client.log_artifacts(run_id, scratch, CHECKPOINTS)
    logged = {int(Path(file.path).name[5:11]): file.path for file in client.list_artifacts(run_id, CHECKPOINTS)}
    repository = get_artifact_repository(client.get_run(run_id).info.artifact_uri)
    for old in sorted(logged)[:-KEPT]:
        repository.delete_artifacts(logged[old])


def log_samples(run_id: str, new: list[tuple[int, list[str]]]) -> None:
    """Log an evaluation's sample texts to an MLflow run, one file a step."""
    for step, texts in new:
        content = "".join(f"- {text}\n" for text in texts)
        MlflowClient().log_text(run_id, content, f"samples/step-{step:06}.md")


class ProgressReporter:
    """Reports steps on the terminal or in the log; those after `logged` to MLflow and Prefect, too."""

    def __init__(
        self,
        name: str,
        steps: int,
        *,
        logged: int,
        throughput: Throughput,
        compute: Compute,
        checkpoints: Checkpoints,
    ) -> None:
        self.checkpoints = checkpoints
        self.saved: int | None = None
        self.steps = steps
        self.logged = logged
        self.throughput = throughput
        # The measured peak is not that of products in 8 bits.
        self.peak = matmul_peak(compute) if throughput.flops_a_unit and not compute.backend.in_int8 else None
        self.waiting: list[dict[str, float]] = []
        self.smooth = 0.0
        self.bar = ProgressBar(total=steps, desc=name, unit="step", mininterval=1.0, dynamic_ncols=True)
        run = active_run_id()
        artifact = leave_artifact(create_progress_artifact, name, progress=0.0, description=f"{name}: steps")
        self.curves = _Sender("MLflow", lambda rows: log_steps(run, rows))
        self.weights = _Sender("MLflow", lambda steps: log_checkpoint(run, checkpoints.folder, steps[-1]))
        self.samples = _Sender("MLflow", lambda new: log_samples(run, new))
        self.progress = _Sender("Prefect", lambda shares: update_progress_artifact(artifact, progress=shares[-1]))

    def __call__(self, row: Row, seconds: float) -> None:
        """Take in one row of metrics."""
        step = row["step"]
        speed: dict[str, float] = {}
        if step > 0:
            if seconds:
                speed = {f"{self.throughput.units}_per_second": self.throughput.units_a_step / seconds}
            self._show(row, seconds)
        if step <= self.logged:
            return
        values = {name: value for name, value in row.items() if name != "samples"}
        self.waiting.append({"timestamp": int(time.time() * 1000), **values, **speed})
        metrics = {name: value for name, value in row.items() if name.startswith("validation")}
        if metrics:
            self.bar.clear()
            logger.info("step %d: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        if row.get("samples"):
            self._log_samples(step, row["samples"])
        if metrics or step % REPORT_EVERY == 0 or step == self.steps:
            self.curves(self.waiting)
            self.waiting = []
            self.progress([100.0 * step / max(1, self.steps)])
            self._log_checkpoint()

    def _show(self, row: Row, seconds: float) -> None:
        """Move the bar on by a step, with its loss and its speed."""
        loss = row["train_loss"]
        if not self.bar.n:  # the first step of this process; a resumed training begins later
            self.smooth = loss
            self.bar.n = row["step"] - 1
            self.bar.initial = self.bar.last_print_n = self.bar.n
        self.smooth = 0.95 * self.smooth + 0.05 * loss
        status = f"loss {loss:.3f}, smoothed {self.smooth:.3f}"
        if seconds:
            rate = self.throughput.units_a_step / seconds
            status += f", {rate:,.0f} {self.throughput.units}/s"
            if self.peak:
                status += f", {rate * self.throughput.flops_a_unit / self.peak:.0%} of the matmul peak"
        self.bar.set_postfix_str(status, refresh=False)
        self.bar.update()

    def _log_samples(self, step: int, samples: list[str]) -> None:
        lines = [" ".join(sample.split()) for sample in samples]
        for line in lines:
            logger.info("  %s", line)
        self.samples([(step, lines)])

    def _log_checkpoint(self) -> None:
        newest = self.checkpoints.newest()
        if newest != self.saved:
            self.saved = newest
            self.weights([newest])

    def end(self) -> None:
        """Wait until the servers have everything: MLflow as long as its client tries, Prefect for PATIENCE seconds."""
        self.curves(self.waiting)
        self._log_checkpoint()
        self.curves.end()
        self.weights.end()
        self.samples.end()
        self.progress.end(PATIENCE)


class StopRequest:
    """Turns Ctrl-C and SIGTERM into an orderly end of training: at once during an evaluation, else after the step.

    A second Ctrl-C interrupts at once; a second SIGTERM, as when the parent dies of the first, changes nothing.
    """

    def __init__(self) -> None:
        self.asked = self.evaluating = False

    def __call__(self) -> bool:
        """Whether a stop was requested."""
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
        if first and self.evaluating:
            raise InterruptedError

    def within(self, evaluate: Callable[[], Result]) -> Callable[[], Result]:
        """The evaluation, but interruptible."""

        def interruptible() -> Result:
            self.evaluating = True
            try:
                return evaluate()
            finally:
                self.evaluating = False

        return interruptible
