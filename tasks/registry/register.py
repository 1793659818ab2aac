"""The MLflow registry: a model and its evidence become a version that a person can review.

The hashes of the weights and of their evaluation in dvc.lock decide whether a version is new. A version ships the code
that it was registered with: it is what people reviewed, and newer code alone makes no version. The weights are those
that the training logged; a version's own run holds its evidence, its cards and its record.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from llm.errors import UserError
from tasks.registry.card import CARD, CardSource, model_card
from tasks.registry.dataset_card import DATASET_CARD, Examples, dataset_card, learned_from
from tasks.registry.decide import challenge, settle
from tasks.registry.description import description
from tasks.registry.logged_model import BYTES, code_digest, find_model, is_whole, log_model, remove_models
from tasks.registry.record import NONE, Record, current_facts, find_run, uncommitted_parts, write_record
from tasks.registry.server import server_errors
from tasks.registry.store import configure_tracking
from tasks.registry.tracking import PARENT_RUN, log_inputs, log_measured, made_by
from tasks.registry.versions import (
    KEY,
    REJECTED,
    SUPERSEDED,
    number_of,
    registered_model,
    registered_name,
    run_id_of,
    state_of,
    versions,
)
from tasks.stages.hashes import PREFIX, Hashes, digest, locked, md5_of, stages_behind, stale
from tasks.stages.lock import exclusive, workspace
from tasks.stages.names import evaluation_stage, training_report, training_stage

REGISTERING = f"{PREFIX}.registering"
"""Tag of a version's run: the folder that registers it, then DONE once that is complete."""
DONE = "done"
DELETED = "deleted in the registry"

logger = logging.getLogger(__name__)


def version_key(model: str) -> str:
    """SHA-256 over the hashes of the model and its evaluation in dvc.lock.

    Raises UserError if one of them never ran.
    """
    outs = locked(training_stage(model)).outs | locked(evaluation_stage(model)).outs
    weights = Path("models", model)
    evidence = Path("reports/evaluation", model)
    made = {}
    for path, md5 in outs.items():
        if Path(path).is_relative_to(weights) or Path(path).is_relative_to(evidence):
            made[path] = md5
    return digest(made)


def registered(models: Iterable[str]) -> dict[str, str | None]:
    """The registered version of each model, with its aliases.

    It is None if the present bytes and evidence are not registered, or their registration was killed before its end. A
    version that people deleted is DELETED.
    """
    configure_tracking()
    with server_errors():
        return {model: _describe(model) for model in models}


def _describe(model: str) -> str | None:
    try:
        key = version_key(model)
    except (UserError, OSError):  # it never ran, or its files are missing
        return None
    name = registered_name(model)
    version = _whole_version(name, key)
    if version is None:
        return DELETED if _was_deleted(name, key) else None
    run = find_run(version.run_id)
    if run and run.data.tags.get(REGISTERING, DONE) != DONE:
        return None
    words = [f"version {version.version}", *MlflowClient().get_model_version(name, version.version).aliases]
    state = state_of(version)
    if state in (REJECTED, SUPERSEDED):
        words.append(state)
    return ", ".join(words)


def register_model(model: str, examples: Examples = tuple) -> str:
    """Register the model and its evidence, as dvc.lock has them, and return the version.

    `examples` makes those of the dataset card, and is only called for a new version.

    A new version becomes the challenger, and the one before is superseded. An existing version stays as it is, and one
    that people deleted stays deleted. Decisions made in MLflow are carried out, and a killed earlier registration is
    finished or removed first. Raises UserError for a model or an evaluation that never ran, is stale or damaged, or
    when something that they are made from is missing.
    """
    configure_tracking()
    for stage, names in stale(evaluation_stage(model)).items():
        raise UserError(f"stage {stage} is stale, {', '.join(names)} changed since it ran: run `dvc repro`")
    check_bytes(model)
    settle(model)
    with server_errors(), exclusive("register"):
        _clean_up()
        name = registered_name(model)
        key = version_key(model)
        if version := _whole_version(name, key):
            return number_of(version)
        if _was_deleted(name, key):
            logger.info(
                "%s: its version was deleted in MLflow; delete the version's run, too, to register it again", name
            )
            return DELETED
        version = _register(model, name, key=key, examples=examples)
        _make_challenger(version)
        return number_of(version)


def check_bytes(model: str) -> None:
    """Raise UserError if the bytes of the model or the evidence differ from dvc.lock.

    DVC itself trusts a file whose time and size have not changed, and the copy in its cache.
    """
    for stage in (training_stage(model), evaluation_stage(model)):
        for path, expected in locked(stage).outs.items():
            if Path(path).exists() and md5_of(Path(path)) != expected:
                way_out = f"remove {path} and its copy in DVC's cache, then run `dvc repro --force {stage}`"
                raise UserError(f"{path}: its bytes are not those of dvc.lock, {expected}; {way_out}")


def _versions(name: str, key: str) -> list[ModelVersion]:
    """The versions with this key, the newest first."""
    return versions(MlflowClient(), name, f"tags.`{KEY}` = '{key}'")


def _whole_version(name: str, key: str) -> ModelVersion | None:
    """The newest version with this key whose files are there."""
    for version in _versions(name, key):
        if is_whole(f"models:/{name}/{version.version}"):
            return version
    return None


def _was_deleted(name: str, key: str) -> bool:
    """Whether a person deleted every version with this key: the run of a complete registration is still there."""
    if _versions(name, key):
        return False
    done = f"tags.`{KEY}` = '{key}' AND tags.`{REGISTERING}` = '{DONE}'"
    return bool(mlflow.search_runs(filter_string=done, max_results=1, output_format="list"))


def _clean_up() -> None:
    """Finish this folder's killed registrations if they had made a version, and remove the others."""
    client = MlflowClient()
    killed = f"tags.`{REGISTERING}` = '{workspace()}'"
    for run in mlflow.search_runs(filter_string=killed, run_view_type=ViewType.ACTIVE_ONLY, output_format="list"):
        run_id = run.info.run_id
        versions_made = client.search_model_versions(f"run_id = '{run_id}'")
        if versions_made:
            _make_challenger(versions_made[0])
            continue
        remove_models(run_id)
        get_artifact_repository(run.info.artifact_uri).delete_artifacts()
        client.set_terminated(run_id, "KILLED")
        client.delete_run(run_id)


def _register(model: str, name: str, key: str, examples: Examples) -> ModelVersion:
    """Log the evidence, cards and a record in a new run, and create a version from them and the model."""
    training, evaluation = locked(training_stage(model)), locked(evaluation_stage(model))
    runs = {
        "training": made_by(training_stage(model), training.outs),
        "evaluation": made_by(evaluation_stage(model), evaluation.outs),
    }
    facts = current_facts() | {"key": key}
    for what, stage_run in runs.items():
        facts[f"run.{what}"] = stage_run.info.run_id if stage_run else NONE
    hashes = Hashes(
        training.params | evaluation.params, training.deps | evaluation.deps, training.outs | evaluation.outs
    )
    parts = uncommitted_parts(facts) if facts["git.commit"] != NONE else []
    facts["uncommitted"] = f"not in git: {', '.join(parts)}" if parts else ""
    record = Record("register", hashes, facts)
    source = CardSource(
        model=model,
        name=name,
        metrics=json.loads(Path("reports/evaluation", model, "metrics.json").read_text()),
        training=training,
        facts=record.facts,
    )
    with mlflow.start_run(
        run_name=f"register {model}",
        parent_run_id=os.environ.get(PARENT_RUN),
        tags={KEY: key, REGISTERING: workspace()},
        description=f"Version of the {model}: its evaluation, cards, lineage. Its weights are with the training run.",
    ) as run:
        write_record(run.info.run_id, record)
        log_inputs(training, evaluation)
        logged = find_model(training.outs[f"models/{model}"], code_digest(model))
        logged = logged or mlflow.get_logged_model(log_model(model))
        is_measured = facts["run.evaluation"] in [metric.run_id for metric in logged.metrics or ()]
        log_measured(source.metrics, "test", None if is_measured else logged.model_id)
        _log_evidence(source, examples)
    client = MlflowClient()
    if registered_model(name) is None:
        client.create_registered_model(name)
    return client.create_model_version(
        name,
        logged.model_uri,
        run.info.run_id,
        tags={KEY: key, BYTES: logged.tags[BYTES]},
        description=description(source, run, runs),
        model_id=logged.model_id,  # a tracking server refuses a source that it can't tie to a model
    )


def _log_evidence(source: CardSource, examples: Examples) -> None:
    """Log reports, cards and the stages behind the version to the active run."""
    model = source.model
    mlflow.log_artifacts(str(Path("reports/evaluation", model)), "evaluation")
    mlflow.log_artifacts(str(training_report(model)), "training")
    mlflow.log_text(model_card(source), CARD)
    if data := learned_from(source.training):
        mlflow.log_text(dataset_card(Path(data).name, source.training.deps[data], examples()), DATASET_CARD)
    with tempfile.TemporaryDirectory() as folder:
        lineage = Path(folder, "lineage")
        lineage.mkdir()
        behind = stages_behind(training_stage(model), evaluation_stage(model))
        (lineage / "stages.json").write_text(json.dumps(behind, indent=1) + "\n")
        mlflow.log_artifacts(folder)


def _make_challenger(version: ModelVersion) -> None:
    """Make a new version the challenger, once.

    It does not become the challenger if the same key was rejected, or if a person chose another version to be reviewed.
    """
    client = MlflowClient()
    title = f"{version.name} version {version.version}"
    if any(state_of(same) == REJECTED for same in _versions(version.name, version.tags[KEY])):
        logger.info("%s was rejected, and stays so", title)
    elif challenge(version.name.partition("-")[2], number_of(version)):
        logger.info("%s is the challenger", title)
    else:
        reason = "somebody chose another challenger in MLflow, which no review has compared yet"
        logger.warning("%s is not the challenger: %s", title, reason)
    client.set_tag(run_id_of(version), REGISTERING, DONE)
