"""One training as a stage: its MLflow run, its checkpoints, and the loop, here or in Ray's workers."""

import json
import logging
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import nn

from llm.config import TrainConfig
from llm.device import Compute
from llm.errors import UserError
from llm.files import write_atomic
from llm.kernels.training.backend import TORCH
from llm.model.lora import merge_lora
from llm.training.backend import build_training_model
from llm.training.checkpoint import Checkpoints, restore_weights
from llm.training.loop import train
from llm.training.objective import Objective, Row
from tasks.registry.tracking import add_facts, stage_run
from tasks.stages.hashes import fingerprint, inputs
from tasks.stages.lock import FINISHED, KEEP, STATE
from tasks.stages.process import current_stage, leave_soon, state_folder
from tasks.training.interrupted import INPUTS, say_what_is_kept
from tasks.training.progress import ProgressReporter, StopRequest, active_run_id
from tasks.training.ray import Cluster, train_on_ray
from tasks.training.setup import Prepare, Samples, Trained, TrainingSetup

logger = logging.getLogger(__name__)


@contextmanager
def training_run(
    params: TrainConfig, datasets: dict[str, Path], identity: Mapping[str, str] | None = None
) -> Generator[Checkpoints]:
    """The MLflow run of a training stage, and its checkpoints.

    When the block succeeds, the checkpoints are removed, or marked as finished. Run and checkpoints are keyed by
    params, deps, code and `identity`: an unfinished run with the same key is continued. Checkpoints of other keys stay,
    and the log names them.
    """
    stage = current_stage()
    now = inputs(stage)
    now = replace(now, params=now.params | dict(identity or {}))
    key = fingerprint(now)
    checkpoints = Checkpoints(state_folder(stage) / key)
    say_what_is_kept(checkpoints.folder, now)
    write_atomic(checkpoints.folder / INPUTS, json.dumps(asdict(now)))
    with stage_run(params, datasets, key):
        yield checkpoints
    if KEEP in os.environ:
        (checkpoints.folder / FINISHED).touch()
    else:
        shutil.rmtree(checkpoints.folder, ignore_errors=True)


@task(cache_policy=NO_CACHE)
def fit(
    prepare: Prepare, params: TrainConfig, checkpoints: Checkpoints, *, samples: Samples = lambda setup: []
) -> Trained:
    """Train the setup that `prepare` builds, from the newest of `checkpoints` on.

    It trains in this process, or in the workers that THREESTAGE_RAY asks for. At each evaluation it logs the texts that
    `samples` makes. At the end LoRA's updates are merged into the weights, and the setup takes its last step, such as
    fitting a classifier's head.
    """
    setup = prepare(params)
    model = setup.loaded.model
    training_model = model
    compute = setup.compute
    throughput = setup.throughput
    cluster = Cluster.asked_for() if params.steps else None  # nothing to share out
    if cluster is not None:
        throughput = throughput._replace(flops_a_unit=0)  # the peak is that of this machine alone
        if compute.backend != TORCH:
            compute = replace(compute, backend=TORCH, backend_reason="several workers share the batches")
    _log_start(model, compute, checkpoints, steps=params.steps)
    if cluster is None and params.steps:
        if compute.backend.compiles:  # keeps compiled kernels: the next training waits 4 s, not 20
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((STATE / "compiled").absolute()))
        training_model, compute = build_training_model(model, setup.objective, compute)
    add_facts(device=str(compute.device), dtype=str(compute.dtype).removeprefix("torch."), blocks=compute.backend.name)
    progress = ProgressReporter(
        current_stage(),
        params.steps,
        logged=_last_logged("train_loss", setup.objective.best),
        throughput=throughput,
        compute=compute,
        checkpoints=checkpoints,
    )
    try:
        with progress.bar, StopRequest() as stop:
            if cluster is None:
                history = train(
                    model,
                    params,
                    _interruptible(setup, stop, samples),
                    training_model=training_model,
                    checkpoints=checkpoints,
                    report=progress,
                    stop=stop,
                    muon_update=compute.backend.muon_update,
                )
            else:
                train_on_ray(
                    cluster, prepare, params, checkpoints=checkpoints, report=progress, stop=stop, samples=samples
                )
                history = _restore_best(model, checkpoints)
            if stop():  # in the last step, whose checkpoint is written
                raise InterruptedError(f"stopped after step {history[-1]['step']} of {params.steps}, with a checkpoint")
    except InterruptedError:
        leave_soon()
        raise
    finally:
        progress.end()
    if progress.curves.unsent:
        raise UserError("MLflow did not take all of the curves; the same command goes on from the last step")
    merge_lora(model)
    return Trained(setup, history, metrics=setup.finish())


def _log_start(model: nn.Module, compute: Compute, checkpoints: Checkpoints, *, steps: int) -> None:
    """Log where it trains, how many weights there are, and the step after which it goes on."""
    count = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    logger.info(f"{compute}; {count / 1e6:.1f} M weights, {trained / 1e6:.1f} M of them trained")
    mlflow.log_params({"weights": count, "trained_weights": trained})
    checkpoint = checkpoints.load()
    if checkpoint is not None:
        _, state = checkpoint
        logger.info("going on after step %d of %d", state["step"], steps)


def _interruptible(setup: TrainingSetup[Any], stop: StopRequest, samples: Samples) -> Objective[Any]:
    """The objective with these samples; a stop request interrupts its evaluation."""
    return replace(
        setup.objective,
        evaluate=stop.within(setup.objective.evaluate),
        samples=stop.within(partial(samples, setup)),
    )


def _restore_best(model: nn.Module, checkpoints: Checkpoints) -> list[Row]:
    """Give the model the best weights of the newest checkpoint; the rows of its training."""
    checkpoint = checkpoints.load()
    assert checkpoint is not None, "workers leave a checkpoint"
    groups, state = checkpoint
    restore_weights(model, groups["best"])
    return state["history"]


def _last_logged(*names: str) -> int:
    """The last step of which this MLflow run has one of these metrics; -1 without one."""
    run_id = active_run_id()
    steps = [-1]
    for name in names:
        steps += [metric.step for metric in MlflowClient().get_metric_history(run_id, name)]
    return max(steps)
