"""The MLflow registry: a model and its evidence become a version that a person can review.

The hashes of the weights and of their evaluation in dvc.lock are the key of a version: newer code alone makes none. The
weights are those that the training logged; a version's own run holds its evidence, its card, params.yaml and dvc.lock.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from llm.errors import UserError
from tasks.data.drift import profile
from tasks.registry.card import CARD, description, model_card
from tasks.registry.decide import LOCK, challenge
from tasks.registry.logged_model import code_digest, find_model, log_model
from tasks.registry.store import configure_tracking, server_errors
from tasks.registry.tracking import (
    STAGE,
    UNCOMMITTED,
    end_left_runs,
    log_dataset,
    log_measured,
    log_project_files,
    origin,
)
from tasks.registry.versions import DATASET, KEY, STATE, number_of, registered_model, registered_name, versions
from tasks.stages.hashes import Hashes, digest, flatten, locked, md5_of
from tasks.stages.libraries import LIBRARIES
from tasks.stages.lock import exclusive
from tasks.stages.names import evaluation_stage, training_report, training_stage

MADE_FROM = "made_from."
"""How the parameters of a version's run begin that hold DVC's hashes of data and models."""
PROFILE = "profile.json"
"""Artifact of a version's run: the labels and lengths of its train rows."""
PROCESSED = "data/processed/"

logger = logging.getLogger(__name__)


def hashes_behind(model: str) -> Hashes:
    """The hashes and parameters of a model's training and evaluation in dvc.lock.

    Raises UserError if one of them never ran.
    """
    training = locked(training_stage(model))
    evaluation = locked(evaluation_stage(model))
    return Hashes(
        params=training.params | evaluation.params,
        deps=evaluation.deps | training.deps,
        outs=training.outs | evaluation.outs,
    )


def version_key(model: str) -> str:
    """SHA-256 over the hashes of the model and its evaluation in dvc.lock. Raises UserError if one never ran."""
    made = {}
    for path, md5 in hashes_behind(model).outs.items():
        if Path(path).is_relative_to(Path("models", model)) or path.startswith(f"reports/evaluation/{model}/"):
            made[path] = md5
    return digest(made)


def registered(models: Iterable[str]) -> dict[str, str | None]:
    """The version of each model's present bytes and evidence, with its aliases; None if it is not registered."""
    configure_tracking()
    with server_errors():
        return {model: _describe(model) for model in models}


def _describe(model: str) -> str | None:
    try:
        key = version_key(model)
    except UserError:  # it never ran
        return None
    version = _find(registered_name(model), key)
    if version is None or STATE not in version.tags:  # a registration was killed before its end
        return None
    with_aliases = MlflowClient().get_model_version(version.name, version.version)
    return ", ".join([f"version {version.version}", *with_aliases.aliases, version.tags[STATE]])


def check_bytes(model: str) -> None:
    """Raise UserError if the bytes of the model or the evidence differ from dvc.lock.

    DVC itself trusts a file whose time and size have not changed, and the copy in its cache.
    """
    for stage in (training_stage(model), evaluation_stage(model)):
        for path, expected in locked(stage).outs.items():
            if Path(path).exists() and md5_of(Path(path)) != expected:
                way_out = f"remove {path} and its copy in DVC's cache, then run `dvc repro --force {stage}`"
                raise UserError(f"{path}: its bytes are not those of dvc.lock, {expected}; {way_out}")


def register_model(model: str) -> str:
    """The version of the model and its evidence, as dvc.lock has them; a new one becomes the challenger.

    An existing version stays as it is. Raises UserError for a model or an evaluation that never ran or is damaged.
    """
    configure_tracking()
    check_bytes(model)
    with server_errors(), exclusive(LOCK):
        name = registered_name(model)
        key = version_key(model)
        version = _find(name, key)
        if version is None:
            version = _make_version(model, name, key)
        if STATE not in version.tags:  # it is new, or its registration was killed
            challenge(model, number_of(version))
            logger.info("%s version %s is the challenger", name, version.version)
        return number_of(version)


def _find(name: str, key: str) -> ModelVersion | None:
    """The newest version with this key."""
    return next(iter(versions(MlflowClient(), name, f"tags.`{KEY}` = '{key}'")), None)


def _make_version(model: str, name: str, key: str) -> ModelVersion:
    """Log the evidence and the card in a new run, and make a version of them and the model."""
    hashes = hashes_behind(model)
    metrics = json.loads(Path("reports/evaluation", model, "metrics.json").read_text())
    stage = f"register {model}"
    end_left_runs(stage)
    from_where = origin()
    with mlflow.start_run(run_name=stage, tags={**from_where, STAGE: stage, KEY: key}) as run:
        mlflow.log_params(version_params(hashes))
        log_project_files()
        _log_data(hashes)
        logged = find_model(hashes.outs[f"models/{model}"], code_digest(model))
        new_id = None
        if logged is None:  # the training ran elsewhere, or the code has changed since
            new_id = log_model(model)
            logged = mlflow.get_logged_model(new_id)
        log_measured(metrics, "test", new_id)
        mlflow.log_artifacts(str(Path("reports/evaluation", model)), "evaluation")
        mlflow.log_artifacts(str(training_report(model)), "training")
        mlflow.log_text(model_card(model, hashes, metrics), CARD)
    client = MlflowClient()
    if registered_model(name) is None:
        client.create_registered_model(name)
    return client.create_model_version(
        name,
        logged.model_uri,
        run.info.run_id,
        tags={KEY: key},
        description=description(model, metrics, run, uncommitted=from_where[UNCOMMITTED]),
        model_id=logged.model_id,  # a tracking server refuses a source that it can't tie to a model
    )


def version_params(hashes: Hashes) -> dict[str, str]:
    """The parameters of a version's run, which MLflow compares between versions: all versions have the same names, such
    as `train.steps`, `libraries.torch`, `dataset` and `made_from.models/published`."""
    sections = {name.rpartition(".")[2]: value for name, value in hashes.params.items() if name not in LIBRARIES}
    libraries = {name: value for name, value in hashes.params.items() if name in LIBRARIES}
    origins = {path: md5 for path, md5 in hashes.deps.items() if path.startswith(("data/", "models/"))}
    params = flatten(sections | {"libraries": libraries})
    params |= {f"{MADE_FROM}{path}": md5 for path, md5 in sorted(origins.items())}
    return params | {DATASET: ", ".join(learned_from(hashes))}


def learned_from(hashes: Hashes) -> list[str]:
    """The names of the processed datasets that a training reads."""
    return [path.removeprefix(PROCESSED) for path in hashes.deps if path.startswith(PROCESSED)]


def _log_data(hashes: Hashes) -> None:
    """Log the datasets as inputs of the active run, and the profile of the train rows."""
    profiles: dict[str, Mapping[str, Mapping[str, int]]] = {}
    for name in learned_from(hashes):
        folder = Path(PROCESSED, name)
        for split in ("train", "validation", "test"):
            for path in sorted(folder.glob(f"{split}.*"))[:1]:
                log_dataset(path, split)
        if (train := folder / "train.parquet").exists():
            profiles[name] = profile(pd.read_parquet(train))
    mlflow.log_dict(profiles, PROFILE)
