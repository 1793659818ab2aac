"""Training in several processes under Ray Train: the same function, in workers that divide every batch."""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from llm.config import TrainConfig
from llm.errors import UserError
from llm.training.checkpoint import Checkpoints
from llm.training.divergence import DivergedError
from llm.training.loop import train
from llm.training.objective import Row
from llm.training.workers import Workers
from tasks.training.ray_cluster import Cluster
from tasks.training.setup import Prepare, TrainingSetup

RESTARTS = 3  # of a training after the loss of a worker
POLL = 0.2  # seconds between two readings of the workers' reports

logger = logging.getLogger(__name__)


class _Relay:
    """An actor that carries reports from the first worker to the process that started the workers."""

    def __init__(self) -> None:
        self.rows: list[tuple[Row, float]] = []
        self.asked = False
        self.ended: Exception | None = None

    def report(self, row: Row, seconds: float) -> None:
        self.rows.append((row, seconds))

    def take(self) -> list[tuple[Row, float]]:
        rows = self.rows
        self.rows = []
        return rows

    def ask_to_stop(self) -> None:
        self.asked = True

    def asked_to_stop(self) -> bool:
        return self.asked

    def end(self, reason: Exception) -> None:
        self.ended = reason

    def reason(self) -> Exception | None:
        return self.ended


@dataclass(frozen=True)
class _Job:
    """What a worker needs to train."""

    prepare: Prepare
    config: TrainConfig
    samples: Callable[[TrainingSetup[Any]], list[str]]
    checkpoints: Path
    project: Path
    """The folder in which it works."""
    sharded: bool
    relay: Any
    """The handle of a `_Relay`."""


def _train_here(loop_config: dict[str, _Job]) -> None:
    """The work of a worker."""
    import ray
    import ray.train
    from ray.train.torch import get_device

    job = loop_config["job"]
    relay = job.relay
    os.chdir(job.project)
    if ray.get(relay.reason.remote()):
        return
    context = ray.train.get_context()
    workers = Workers(
        rank=context.get_world_rank(), count=context.get_world_size(), sharded=job.sharded, device=get_device()
    )
    if workers.device.type == "cuda":
        torch.cuda.set_device(workers.device)
    is_first = workers.rank == 0

    def report(row: Row, seconds: float) -> None:
        if is_first:
            relay.report.remote(row, seconds)

    def stop() -> bool:
        return is_first and ray.get(relay.asked_to_stop.remote())

    try:
        setup = job.prepare(workers)
        train(
            setup.loaded.model,
            job.config,
            replace(setup.objective, samples=partial(job.samples, setup)),
            checkpoints=Checkpoints(job.checkpoints, workers=workers),
            report=report,
            stop=stop,
            workers=workers,
        )
    except (InterruptedError, DivergedError) as error:  # which all raise, after the same step
        ray.get(relay.end.remote(error))
    except RuntimeError:  # to torch, another worker's death is one: the only thing that helps is to try again
        raise
    except Exception as error:
        ray.get(relay.end.remote(error))
        raise  # the others may be waiting for this one: now Ray ends them, and those that follow find the reason


def train_on_ray(
    cluster: Cluster,
    prepare: Prepare,
    config: TrainConfig,
    *,
    checkpoints: Checkpoints,
    report: Callable[[Row, float], None],
    stop: Callable[[], bool],
    samples: Callable[[TrainingSetup[Any]], list[str]],
) -> None:
    """Train in the workers of a cluster, and leave the result as the newest checkpoint.

    If a worker is lost, all stop and start again from the newest checkpoint, at most RESTARTS times. Raises what
    `train` raises, and UserError if workers are lost too often, Ray itself fails, a batch can't be divided, or there
    are more workers than cores.
    """
    with cluster.connected() as ray:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = _worker_count(cluster, ray.cluster_resources())
        if config.batch_size % count:
            raise UserError(f"batch_size {config.batch_size} is no multiple of {count} workers")
        logger.info(f"{count} workers, {cluster.sharding}, on Ray at {cluster.address}")
        relay = ray.remote(num_cpus=0)(_Relay).remote()
        folder = checkpoints.folder.absolute()
        job = _Job(
            prepare=prepare,
            config=config,
            samples=samples,
            checkpoints=folder,
            project=Path.cwd(),
            sharded=cluster.sharding == "fsdp" and count > 1,
            relay=relay,
        )
        failure_config = FailureConfig(max_failures=RESTARTS)
        # Ray's stubs know two forms of each of these classes; at run time they are of one version.
        trainer = TorchTrainer(
            _train_here,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(num_workers=count, use_gpu=gpus > 0),  # pyrefly: ignore[bad-argument-type]
            run_config=RunConfig(  # pyrefly: ignore[bad-argument-type]
                storage_path=str(folder),
                failure_config=failure_config,  # pyrefly: ignore[bad-argument-type]
            ),
        )
        failures: list[Exception] = []
        thread = threading.Thread(target=partial(_fit, trainer, failures), daemon=True)
        thread.start()
        _pass_on(ray, relay, thread, report=report, stop=stop)
        _raise_failure(ray.get(relay.reason.remote()), failures)


def _worker_count(cluster: Cluster, resources: Mapping[str, float]) -> int:
    """How many workers train; raises UserError if this machine has no room for them."""
    gpus = int(resources.get("GPU", 0))
    count = cluster.workers or gpus or 2
    room = gpus or int(resources.get("CPU", 0))
    if count > room:
        lack = f"{count} workers need a {'GPU' if gpus else 'core'} each; the cluster has {room}"
        if cluster.address == "local":
            raise UserError(lack)
        logger.warning("%s: training waits until it has grown", lack)
    return count


def _pass_on(
    ray: Any,
    relay: Any,
    thread: threading.Thread,
    *,
    report: Callable[[Row, float], None],
    stop: Callable[[], bool],
) -> None:
    """While a thread trains, pass on the workers' reports, and to them that a stop was requested."""
    newest_step = -1
    asked = False
    while True:
        alive = thread.is_alive()
        for row, seconds in ray.get(relay.take.remote()):
            if row["step"] > newest_step:  # a restart reports earlier steps again
                newest_step = row["step"]
                report(row, seconds)
        if not alive:
            return
        if stop() and not asked:
            asked = True
            relay.ask_to_stop.remote()
        thread.join(POLL)


def _raise_failure(reason: Exception | None, failures: list[Exception]) -> None:
    """Raise the reason that a worker gave, or UserError if Ray failed without one."""
    from ray.train import WorkerGroupError

    if reason is not None:
        raise reason
    if not failures:
        return
    if isinstance(failures[0], WorkerGroupError):
        raise UserError(f"the workers failed {RESTARTS + 1} times: {failures[0]}")
    raise UserError(f"Ray failed: {failures[0]}")


def _fit(trainer: Any, failures: list[Exception]) -> None:
    try:
        trainer.fit()
    except Exception as error:
        failures.append(error)
