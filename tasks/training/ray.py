"""Training in several processes under Ray Train: the same function, in workers that divide every batch."""

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace
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
from tasks.stages.ray_cluster import Cluster
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
        rows, self.rows = self.rows, []
        return rows

    def ask_to_stop(self) -> None:
        self.asked = True

    def asked_to_stop(self) -> bool:
        return self.asked

    def end(self, reason: Exception) -> None:
        self.ended = reason

    def reason(self) -> Exception | None:
        return self.ended


def _train_here(job: dict[str, Any]) -> None:
    """The work of a worker."""
    import ray
    import ray.train
    from ray.train.torch import get_device

    os.chdir(job["project"])
    context, relay = ray.train.get_context(), job["relay"]
    if ray.get(relay.reason.remote()):
        return
    workers = Workers(context.get_world_rank(), context.get_world_size(), job["sharded"], get_device())
    if workers.device.type == "cuda":
        torch.cuda.set_device(workers.device)
    first = workers.rank == 0
    try:
        setup = job["prepare"](workers)
        train(
            setup.loaded.model,
            job["config"],
            replace(setup.objective, samples=partial(job["samples"], setup)),
            checkpoints=Checkpoints(job["checkpoints"], workers=workers),
            report=(lambda row, seconds: relay.report.remote(row, seconds)) if first else lambda row, seconds: None,
            stop=(lambda: ray.get(relay.asked_to_stop.remote())) if first else lambda: False,
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
    checkpoints: Checkpoints,
    report: Callable[[Row, float], None],
    stop: Callable[[], bool],
    samples: Callable[[TrainingSetup], list[str]],
) -> None:
    """Train in the workers of a cluster, and leave the result as the newest checkpoint.

    If a worker is lost, all stop and start again from the newest checkpoint, at most RESTARTS times. Raises what
    `train` raises, and UserError if workers are lost too often, Ray itself fails, a batch can't be divided, or there
    are more workers than cores.
    """
    with cluster.connected() as ray:
        from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
        from ray.train.torch import TorchTrainer

        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        count = cluster.workers or gpus or 2
        if count > (room := gpus or int(resources.get("CPU", 0))):
            lack = f"{count} workers need a {'GPU' if gpus else 'core'} each; the cluster has {room}"
            if cluster.address == "local":
                raise UserError(lack)
            logger.warning("%s: training waits until it has grown", lack)
        if config.batch_size % count:
            raise UserError(f"batch_size {config.batch_size} is no multiple of {count} workers")
        logger.info("%d workers, %s, on Ray at %s", count, cluster.sharding, cluster.address)
        relay = ray.remote(num_cpus=0)(_Relay).remote()
        job = {"prepare": prepare, "config": config, "checkpoints": checkpoints.folder.absolute(), "relay": relay}
        job |= {"samples": samples, "project": str(Path.cwd()), "sharded": cluster.sharding == "fsdp" and count > 1}
        trainer = TorchTrainer(
            _train_here,
            train_loop_config=job,
            scaling_config=ScalingConfig(num_workers=count, use_gpu=gpus > 0),
            run_config=RunConfig(
                storage_path=str(checkpoints.folder.absolute()), failure_config=FailureConfig(max_failures=RESTARTS)
            ),
        )
        failed: list[Exception] = []
        fitting = threading.Thread(target=partial(_fit, trainer, failed), daemon=True)
        fitting.start()
        seen, asked = -1, False
        while True:
            alive = fitting.is_alive()
            for row, seconds in ray.get(relay.take.remote()):
                if row["step"] > seen:  # a restart reports earlier steps again
                    seen = row["step"]
                    report(row, seconds)
            if not alive:
                break
            if stop() and not asked:
                asked = True
                relay.ask_to_stop.remote()
            fitting.join(POLL)
        if reason := ray.get(relay.reason.remote()):
            raise reason
        if failed:
            lost = isinstance(failed[0], WorkerGroupError)
            raise UserError(f"{f'the workers failed {RESTARTS + 1} times' if lost else 'Ray failed'}: {failed[0]}")


def _fit(trainer: Any, failed: list[Exception]) -> None:
    try:
        trainer.fit()
    except Exception as error:
        failed.append(error)
