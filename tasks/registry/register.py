"""The MLflow registry: a model and its evidence become a version that a person can review.

Only hashes decide whether a version is new: the same bytes, the same evidence and the same shipped code are the same
version.
"""

import hashlib
import importlib.metadata
import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from packaging.version import Version

from llm.errors import UserError
from tasks.registry.card import Origin, description, write_card
from tasks.registry.lineage import UNCOMMITTED, lineage, prefect_page
from tasks.registry.listing import versions
from tasks.registry.tracking import (
    configure_tracking,
    if_there,
    is_missing,
    log_inputs,
    made_by,
    namespace,
    server_errors,
)
from tasks.registry.uncommitted import uncommitted
from tasks.stages.hashes import PREFIX, Hashes, digest, locked, md5_of, stale
from tasks.stages.lock import exclusive, workspace
from tasks.stages.params import evaluation_stage, training_report, training_stage

CHALLENGER = "challenger"
KEY = f"{PREFIX}.key"
TRAINING_RUN = f"{PREFIX}.training_run"
EVALUATION_RUN = f"{PREFIX}.evaluation_run"
UNFINISHED = f"{PREFIX}.unfinished"
REVIEW, REJECTED = f"{PREFIX}.review", "rejected"
NO_RUN = "none"
MOST_OF_A_TAG = 2000  # characters
SERVED = Path("tasks/served.py")
CODE = tuple(f"{PREFIX}.dvc.dep.{package}/" for package in ("flows", "llm", "tasks"))
DELETED = "deleted in the registry"
REQUIREMENTS = ("jinja2", "mlflow", "numpy", "pandas", "pydantic", "safetensors", "tiktoken", "tokenizers", "torch")

logger = logging.getLogger(__name__)


def registered_name(model: str) -> str:
    """What the registry calls a model."""
    return f"{namespace()}-{model}"


def shipped_code(model: str) -> list[Path]:
    """The files of ours that a version of a model runs: the served wrapper, `llm`, and its text cleaning."""
    cleaning = json.loads(Path("models", model, "config.json").read_text()).get("cleaning")
    module = [Path(*cleaning.split(".")).with_suffix(".py")] if cleaning else []
    return [SERVED, *sorted(path for path in Path("llm").rglob("*") if path.suffix in (".py", ".c", ".h")), *module]


def version_key(model: str) -> str:
    """SHA-256 over the model and its evaluation, as dvc.lock has them, and the code that ships with them.

    Raises UserError when one of them never ran.
    """
    outs = locked(training_stage(model)).outs | locked(evaluation_stage(model)).outs
    folders = (f"models/{model}", f"reports/evaluation/{model}")
    made = {path: md5 for path, md5 in outs.items() if any(Path(path).is_relative_to(each) for each in folders)}
    code = {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in shipped_code(model)}
    return digest([made, code])


def _is_there(version: ModelVersion) -> bool:
    """Whether the store still holds what the version serves; a store that doesn't answer raises as it does."""
    try:
        files = mlflow.artifacts.list_artifacts(f"models:/{version.name}/{version.version}")
    except FileNotFoundError:
        return False
    except MlflowException as error:
        if is_missing(error):
            return False
        raise
    return any(Path(file.path).name == "MLmodel" for file in files)


def _versions(name: str, key: str) -> list[ModelVersion]:
    """The versions with this key, the newest first."""
    return versions(MlflowClient(), name, f"tags.`{KEY}` = '{key}'")


def _version(model: str) -> ModelVersion | None:
    """The newest version that was made from what is here now, and is still whole."""
    found = _versions(registered_name(model), version_key(model))
    return next((version for version in found if _is_there(version)), None)


def _is_rejected(version: ModelVersion) -> bool:
    """Whether a person said so, in a review or by hand."""
    return version.tags.get(REVIEW, "").strip().lower() == REJECTED


def _is_unfinished(version: ModelVersion) -> bool:
    """Whether its registration was killed before the version became the challenger."""
    run = if_there(lambda: MlflowClient().get_run(version.run_id)) if version.run_id else None
    return run is not None and run.data.tags.get(UNFINISHED) == "true"


def _was_deleted(model: str) -> bool:
    """Whether a person deleted every version of what is here now: its registration ended well and left its run."""
    if _versions(registered_name(model), version_key(model)):
        return False
    done = f"tags.`{KEY}` = '{version_key(model)}' AND tags.`{UNFINISHED}` = 'false'"
    return bool(mlflow.search_runs(filter_string=done, max_results=1, output_format="list"))


def registered(models: Iterable[str]) -> dict[str, str | None]:
    """The version of each model that has its bytes and evidence, and its aliases; None where there is none.

    So it is where a registration was killed before its end, too.

    What people did in the registry is not undone: an alias that they moved or removed, a version that they deleted.
    """
    configure_tracking()

    def described(model: str) -> str | None:
        try:
            version = _version(model)
        except (UserError, OSError):  # never ran, or is not here
            return None
        if version is None:
            return DELETED if _was_deleted(model) else None
        if _is_unfinished(version):
            return None
        aliases = MlflowClient().get_model_version(version.name, version.version).aliases
        said = [*aliases, *([REJECTED] if _is_rejected(version) else [])]
        return ", ".join([f"version {version.version}", *said])

    with server_errors():
        return {model: described(model) for model in models}


def _origin(
    key: str, commit: str, uncommitted: str, training: Hashes, evaluation: Hashes, runs: Mapping[str, Run | None]
) -> Origin:
    """Where a version comes from, and the pages of the runs of its training and evaluation, and of those in Prefect."""
    known = {what: run for what, run in runs.items() if run}
    links = {what: f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}" for what, run in known.items()}
    for what, run in known.items():
        if (flow_run := run.data.tags.get(f"{PREFIX}.prefect.flow_run", NO_RUN)) != NO_RUN:
            links[f"{what} in Prefect"] = prefect_page(flow_run)
    trained = runs["training"]
    return Origin(
        training=training,
        evaluation=evaluation,
        commit=commit,
        uncommitted=uncommitted,
        training_run=trained.info.run_id if trained else NO_RUN,
        run_tags=trained.data.tags if trained else {},
        links=links,
        key=key,
    )


def _remove_unfinished(key: str) -> None:
    """Remove the runs of registrations of the same that were killed before they made a version."""
    client = MlflowClient()
    left = f"tags.`{KEY}` = '{key}' AND tags.`{UNFINISHED}` = 'true' AND tags.`{PREFIX}.workspace` = '{workspace()}'"
    for run in mlflow.search_runs(filter_string=left, run_view_type=ViewType.ACTIVE_ONLY, output_format="list"):
        for output in run.outputs.model_outputs if run.outputs else ():
            client.delete_logged_model(output.model_id)
        client.delete_run(run.info.run_id)


@contextmanager
def _code_paths(model: str) -> Iterator[list[str]]:
    """`llm` and a package `tasks` that holds nothing but the text cleaning, as folders that MLflow copies."""
    with tempfile.TemporaryDirectory() as folder:
        packages = set()
        for path in shipped_code(model):
            if path == SERVED:
                continue
            copy = Path(folder, path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            packages.add(path.parts[0])
            for parent in path.parents[:-1]:
                (Path(folder, parent) / "__init__.py").touch()
        yield [str(Path(folder, package)) for package in sorted(packages)]


def _register(model: str) -> ModelVersion:
    """Log the weights, the evidence and a model card in a run of their own and make a version of them."""
    from tasks.registry.ancestry import write_stages
    from tasks.served import cleaning_module, example, signature

    weights = Path("models", model)
    training, evaluation = locked(training_stage(model)), locked(evaluation_stage(model))
    facts, changed = lineage(None), uncommitted(model)
    runs = {
        "training": made_by(training_stage(model), {f"models/{model}": training.outs[f"models/{model}"]}),
        "evaluation": made_by(evaluation_stage(model), evaluation.outs),
    }
    tags = training.tags() | evaluation.tags() | {name: fact for name, fact in facts.items() if ".git." in name}
    # Which code it was says the commit.
    tags = {name: value for name, value in tags.items() if not name.startswith(CODE)}
    ids = {what: run.info.run_id if run else NO_RUN for what, run in runs.items()}
    tags |= {KEY: version_key(model), TRAINING_RUN: ids["training"], EVALUATION_RUN: ids["evaluation"]}
    if changed.said:
        tags[UNCOMMITTED] = changed.said[:MOST_OF_A_TAG]
    evidence = Path("reports/evaluation", model)
    metrics = json.loads((evidence / "metrics.json").read_text())
    cleaning = cleaning_module(weights)
    needed = (*REQUIREMENTS, *(cleaning.REQUIREMENTS if cleaning else ()))
    requirements = [f"{name}=={Version(importlib.metadata.version(name)).public}" for name in sorted(needed)]
    name, commit = registered_name(model), tags[f"{PREFIX}.git.commit"]
    origin = _origin(tags[KEY], commit, changed.said, training, evaluation, runs)
    _remove_unfinished(tags[KEY])
    with (
        _code_paths(model) as code,
        mlflow.start_run(run_name=f"register {model}", tags=facts | tags | {UNFINISHED: "true"}) as run,
    ):
        logged = mlflow.pyfunc.log_model(
            name=model,
            python_model=str(SERVED),
            code_paths=code,
            artifacts={"model": str(weights)},
            signature=signature(weights),
            input_example=example(weights),
            pip_requirements=requirements,
        )
        mlflow.log_metrics(metrics, model_id=logged.model_id)
        log_inputs(training, evaluation)
        mlflow.log_artifacts(str(evidence), "evaluation")
        mlflow.log_artifacts(str(training_report(model)), "training")
        with tempfile.TemporaryDirectory() as folder:
            write_card(Path(folder), model, name, metrics, origin)
            mlflow.log_artifacts(folder, "card")
        with tempfile.TemporaryDirectory() as folder:
            write_stages(Path(folder), model)
            if changed.diff:
                Path(folder, "uncommitted.diff").write_bytes(changed.diff)
            mlflow.log_artifacts(folder, "lineage")
    client = MlflowClient()
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(
        name,
        logged.model_uri,
        run.info.run_id,
        tags=tags,
        description=description(model, metrics, origin),
        model_id=logged.model_id,  # a tracking server refuses a source that it can't tie to a model
    )
    link = json.dumps([{"name": name, "version": version.version}])
    client.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: link})
    _finish(version)
    return version


def _finish(version: ModelVersion) -> None:
    """Draw a new version's lineage and make it the challenger, once: also where its registration was killed before.

    What a person rejected is made no challenger again, in whichever version it comes.
    """
    client = MlflowClient()
    if not _is_unfinished(version):
        return
    from tasks.registry.ancestry import version_ancestry
    from tasks.registry.drawing import as_json, as_svg

    drawn = version_ancestry(version)
    client.log_text(version.run_id, as_svg(drawn, datetime.now(UTC)), "lineage/lineage.svg")
    client.log_text(version.run_id, json.dumps(as_json(drawn), indent=2) + "\n", "lineage/lineage.json")
    if any(map(_is_rejected, _versions(version.name, version.tags[KEY]))):
        logger.info("%s version %s was rejected, and stays so", version.name, version.version)
    else:
        client.set_registered_model_alias(version.name, CHALLENGER, version.version)
        logger.info("%s version %s is the challenger", version.name, version.version)
    client.set_tag(version.run_id, UNFINISHED, "false")


def check_bytes(model: str) -> None:
    """Raise UserError where the model's or the evidence's bytes are not those of dvc.lock.

    DVC itself trusts a file whose time and size have not changed, and the copy in its cache.
    """
    for stage in (training_stage(model), evaluation_stage(model)):
        for path, expected in locked(stage).outs.items():
            if Path(path).exists() and md5_of(Path(path)) != expected:
                way_out = f"remove {path} and its copy in DVC's cache, then run `dvc repro --force {stage}`"
                raise UserError(f"{path}: its bytes are not those of dvc.lock, {expected}; {way_out}")


def register_model(model: str) -> str:
    """Make the model and its evidence, as dvc.lock has them, a version, and return it.

    A new version becomes the challenger; one that is there already is left as people have it, and one that they
    deleted stays deleted. Raises UserError for a model or an evaluation that never ran, is stale or damaged, or when
    something that they are made from is missing.
    """
    configure_tracking()
    for stage, names in stale(evaluation_stage(model)).items():
        raise UserError(f"stage {stage} is stale, {', '.join(names)} changed since it ran: run `dvc repro`")
    check_bytes(model)
    with server_errors(), exclusive("register"):
        if version := _version(model):
            _finish(version)
        elif _was_deleted(model):
            said = "%s: its version was deleted in the registry, and stays so, until its run in MLflow is deleted, too"
            logger.info(said, registered_name(model))
            return DELETED
        else:
            version = _register(model)
    return str(version.version)
