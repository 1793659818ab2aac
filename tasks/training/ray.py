"""Training in several processes under Ray Train: each worker computes its part of every update.

    THREESTAGE_RAY       local, auto (a cluster that this machine is part of) or ray://HOST:PORT; without it no Ray
    THREESTAGE_WORKERS   how many processes train one model; without it one a GPU, or two where there is none

They say where a stage runs, not what it computes, so neither makes a stage stale. All machines must see the project's
folder under the same path.

Two workers cut each batch into two that are accumulated, and each computes one of them. So they learn what one process
learns, but for rounding, and any number of workers can go on from the same checkpoint.
"""

import logging
import os
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from llm.config import TrainConfig
from llm.errors import UserError
from llm.training.checkpoint import Checkpoints, Groups
from llm.training.loop import accumulate_gradients, train
from llm.training.objective import Row
from tasks.training.setup import Prepare, Samples

RESTARTS = 3  # of a training after the loss of a worker
POLL = 0.2  # seconds between two readings of what the first worker reports
STOP = "stop"  # a file next to the checkpoints that asks the workers to stop

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """The settings in the environment."""

    address: str
    workers: int | None

    @classmethod
    def asked_for(cls) -> Self | None:
        """The cluster that THREESTAGE_RAY names, or None. Raises UserError naming the invalid variable."""
        address = os.environ.get("THREESTAGE_RAY")
        if not address:
            return None
        if address not in ("local", "auto") and not address.startswith("ray://"):
            raise UserError(f"THREESTAGE_RAY={address}: it is local, auto or ray://HOST:PORT")
        workers = os.environ.get("THREESTAGE_WORKERS", "")
        if workers and not (workers.isdecimal() and int(workers)):
            raise UserError(f"THREESTAGE_WORKERS={workers}: it is a number from 1")
        return cls(address, int(workers) if workers else None)

    @contextmanager
    def connected(self) -> Generator[Any]:
        """Yield the module `ray`, connected to the cluster.

        Raises UserError if Ray is not installed or nobody answers.
        """
        try:
            import ray
        except ImportError:
            raise UserError("THREESTAGE_RAY asks for Ray, which is not installed: pip install '.[ray]'") from None
        if ray.is_initialized():
            yield ray
            return
        on_sigterm = signal.getsignal(signal.SIGTERM)
        options: dict[str, Any] = {"include_dashboard": False} if self.address == "local" else {}
        try:
            ray.init(
                address=self.address,
                runtime_env={"env_vars": {"PYTHONPATH": str(Path.cwd())}},
                log_to_driver=False,
                logging_level=logging.WARNING,
                **options,
            )
        except ConnectionError as error:
            raise UserError(f"THREESTAGE_RAY={self.address}: {error}") from None
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end this process without telling the training
        try:
            yield ray
        finally:
            ray.shutdown()


@dataclass(frozen=True)
class _Job:
    """What a worker needs to train."""

    prepare: Prepare
    params: TrainConfig
    samples: Samples
    checkpoints: Path
    project: Path
    """The folder in which it works."""
    news: Any
    """The `ray.util.queue.Queue` for rows with their seconds, and for the error that ended the training."""


class _ReadOnlyCheckpoints(Checkpoints):
    """Checkpoints for all workers but the first, which writes them."""

    def save(self, step: int, groups: Groups, history: Sequence[Row] = ()) -> None:
        """Write nothing."""


def divide_batches(params: TrainConfig, workers: int) -> TrainConfig:
    """The same training with smaller batches, `workers` times as many. Raises UserError if they are not equal."""
    if params.batch_size % workers:
        raise UserError(f"batch_size {params.batch_size} is no multiple of {workers} workers")
    smaller = {
        "batch_size": params.batch_size // workers,
        "gradient_accumulation": params.gradient_accumulation * workers,
    }
    return params.model_copy(update=smaller)


def _train_here(loop_config: dict[str, _Job]) -> None:
    """The work of a worker."""
    from ray.train import get_context
    from ray.train.torch import get_device

    job = loop_config["job"]
    os.chdir(job.project)
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    rank = get_context().get_world_rank()
    count = get_context().get_world_size()
    is_first = rank == 0

    def report(row: Row, seconds: float) -> None:
        if is_first:
            job.news.put((row, seconds))

    def stop() -> bool:
        requests = torch.tensor(float((job.checkpoints / STOP).exists()), device=device)
        dist.all_reduce(requests)
        return requests.item() > 0

    try:
        setup = job.prepare(job.params)
        model = setup.loaded.model

        def accumulate(batch_loss: Callable[[int], Tensor], batches: Sequence[int], shares: Sequence[float]) -> float:
            loss = accumulate_gradients(batch_loss, batches[rank::count], shares[rank::count])
            gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
            sums = parameters_to_vector([*gradients, torch.tensor([loss], device=device)])
            dist.all_reduce(sums)
            vector_to_parameters(sums, gradients)
            return sums[-1].item()

        train(
            model,
            job.params,
            replace(setup.objective, samples=partial(job.samples, setup)) if is_first else setup.objective,
            checkpoints=(Checkpoints if is_first else _ReadOnlyCheckpoints)(job.checkpoints),
            report=report,
            stop=stop,
            accumulate=accumulate,
        )
    except (InterruptedError, UserError) as error:  # which every worker raises, and a restart would raise again
        if is_first:
            job.news.put(error)


def train_on_ray(
    cluster: Cluster,
    prepare: Prepare,
    params: TrainConfig,
    *,
    checkpoints: Checkpoints,
    report: Callable[[Row, float], None],
    stop: Callable[[], bool],
    samples: Samples,
) -> None:
    """Train in the workers of a cluster, and leave the result as the newest checkpoint.

    If a worker is lost, all stop and start again from the newest checkpoint, at most RESTARTS times. Raises what
    `train` raises, and UserError if workers are lost too often, Ray itself fails, a batch can't be divided, or there
    are more workers than cores.
    """
    with cluster.connected() as ray:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.util.queue import Queue

        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        count = cluster.workers or gpus or 2
        room = gpus or int(resources.get("CPU", 0))
        if count > room and cluster.address == "local":
            raise UserError(f"{count} workers need a {'GPU' if gpus else 'core'} each; this machine has {room}")
        logger.info(f"{count} workers on Ray at {cluster.address}, which has room for {room}")
        folder = checkpoints.folder.absolute()
        (folder / STOP).unlink(missing_ok=True)
        news = Queue(actor_options={"num_cpus": 0})
        job = _Job(prepare, divide_batches(params, count), samples, checkpoints=folder, project=Path.cwd(), news=news)
        # Ray's stubs know two forms of each of these classes; at run time they are of one version.
        trainer = TorchTrainer(
            _train_here,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(num_workers=count, use_gpu=gpus > 0),  # pyrefly: ignore[bad-argument-type]
            run_config=RunConfig(  # pyrefly: ignore[bad-argument-type]
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=RESTARTS),  # pyrefly: ignore[bad-argument-type]
            ),
        )
        executor = ThreadPoolExecutor(1)
        training = executor.submit(trainer.fit)
        executor.shutdown(wait=False)
        ended = _pass_on(news, training, report=report, stop=stop, stop_file=folder / STOP)
    if ended is not None:
        raise ended
    error = training.exception()
    if error is not None:
        raise UserError(f"Ray's workers failed, after {RESTARTS} restarts at most: {error}")


def _pass_on(
    news: Any,
    training: Future[Any],
    *,
    report: Callable[[Row, float], None],
    stop: Callable[[], bool],
    stop_file: Path,
) -> Exception | None:
    """Report rows and pass on a stop request until the training is over; return the error that ended it."""
    newest_step = -1
    ended = None
    while True:
        is_over = training.done()
        for item in news.get_nowait_batch(news.qsize()):
            if isinstance(item, Exception):
                ended = item
                continue
            row, seconds = item
            if row["step"] > newest_step:  # a restart reports earlier steps again
                newest_step = row["step"]
                report(row, seconds)
        if is_over:
            return ended
        if stop():
            stop_file.touch()
        wait([training], POLL)
