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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from packaging.version import Version

from llm.errors import UserError
from llm.formats.model_folder import read_config
from tasks.registry.lineage import lineage
from tasks.registry.tracking import configure_tracking, namespace
from tasks.stages.hashes import PREFIX, digest, locked, md5_of, stale
from tasks.stages.lock import exclusive
from tasks.stages.params import FOUNDATION

CHALLENGER = "challenger"
KEY = f"{PREFIX}.key"
TRAINING_RUN = f"{PREFIX}.training_run"
UNFINISHED = f"{PREFIX}.unfinished"
SERVED = Path("tasks/served.py")
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pydantic", "safetensors", "tiktoken", "tokenizers", "torch")
BASELINE = "baseline_"

logger = logging.getLogger(__name__)


def training_stage(model: str) -> str:
    """The DVC stage that trains a model."""
    return "pretrain" if model == FOUNDATION else f"finetune@{model}"


def registered_name(model: str) -> str:
    """What the registry calls a model."""
    return f"{namespace()}-{model}"


def shipped_code(model: str) -> list[Path]:
    """The files of ours that a version of a model runs: the served wrapper, `llm`, and its text cleaning."""
    cleaning = read_config(Path("models", model)).get("cleaning")
    module = [Path(*cleaning.split(".")).with_suffix(".py")] if cleaning else []
    return [SERVED, *sorted(Path("llm").rglob("*.py")), *module]


def version_key(model: str) -> str:
    """SHA-256 over the model and its evaluation, as dvc.lock has them, and the code that ships with them.

    Raises UserError when one of them never ran.
    """
    outs = locked(training_stage(model)).outs | locked(f"evaluate@{model}").outs
    folders = (f"models/{model}", f"reports/evaluation/{model}")
    made = {path: md5 for path, md5 in outs.items() if any(Path(path).is_relative_to(each) for each in folders)}
    code = {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in shipped_code(model)}
    return digest([made, code])


def _is_there(version: ModelVersion) -> bool:
    """Whether the store still holds what the version serves."""
    try:
        files = mlflow.artifacts.list_artifacts(f"models:/{version.name}/{version.version}")
    except (MlflowException, OSError):
        return False
    return any(Path(file.path).name == "MLmodel" for file in files)


def _version(model: str) -> ModelVersion | None:
    """The newest version that was made from what is here now, and is still whole."""
    found = MlflowClient().search_model_versions(
        f"name = '{registered_name(model)}' AND tags.`{KEY}` = '{version_key(model)}'"
    )
    ready = sorted(found, key=lambda each: -int(each.version))
    return next((version for version in ready if _is_there(version)), None)


def registered(models: Iterable[str]) -> dict[str, str | None]:
    """The version of each model that has its bytes and evidence, and its aliases; None where there is none.

    Which aliases a version has is for people to say: what they moved or removed is not undone.
    """
    configure_tracking()

    def described(model: str) -> str | None:
        try:
            version = _version(model)
        except (UserError, OSError):  # never ran, or is not here
            return None
        if version is None:
            return None
        aliases = MlflowClient().get_model_version(version.name, version.version).aliases
        return f"version {version.version}" + "".join(f", {alias}" for alias in aliases)

    return {model: described(model) for model in models}


def _description(model: str, metrics: dict[str, float], tags: dict[str, str]) -> str:
    """What a reviewer reads first: the metrics, the baseline beside them, and where they come from."""
    rows = ["| metric | test | baseline | difference |", "|---|---|---|---|"]
    for name, value in metrics.items():
        if name.startswith(BASELINE):
            continue
        baseline = metrics.get(BASELINE + name)
        compared = "| | |" if baseline is None else f"| {baseline:.4f} | {value - baseline:+.4f} |"
        rows.append(f"| {name} | {value:.4f} {compared}")
    dirty = [part for part in ("code", "params.yaml", "dvc.yaml") if tags[f"{PREFIX}.git.dirty.{part}"] == "true"]
    commit = f"git commit `{tags[f'{PREFIX}.git.commit']}`" + (f"; **not in git: {', '.join(dirty)}**" if dirty else "")
    trained = training_stage(model)
    return "\n".join(
        [
            f"{model.capitalize()}, trained by `{trained}` and measured on the test split by `evaluate@{model}`.",
            "",
            *rows,
            "",
            f"Model `{tags[f'{PREFIX}.dvc.out.models/{model}']}`, training run `{tags[TRAINING_RUN]}`, {commit}. "
            "Plots and reports are in this version's run.",
        ]
    )


def _training_run(model: str, md5: str) -> str:
    """Id of the MLflow run that made these very weights, `none` when another machine's store has it."""
    made = f"tags.`{PREFIX}.dvc.stage` = '{training_stage(model)}' AND tags.`{PREFIX}.dvc.out.models/{model}` = '{md5}'"
    runs = mlflow.search_runs(filter_string=made, max_results=1, output_format="list")
    return runs[0].info.run_id if runs else "none"


def _remove_unfinished(key: str) -> None:
    """Remove the runs of registrations of the same that were killed before they made a version."""
    client = MlflowClient()
    left = f"tags.`{KEY}` = '{key}' AND tags.`{UNFINISHED}` = 'true'"
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
    """Log the weights and the evidence in a run of their own and make a version of them."""
    from tasks.served import cleaning_module, example, signature

    weights, stage = Path("models", model), training_stage(model)
    training, evaluation = locked(stage), locked(f"evaluate@{model}")
    facts = lineage(None)
    tags = training.tags() | evaluation.tags() | {name: fact for name, fact in facts.items() if ".git." in name}
    tags = {name: value for name, value in tags.items() if not name.endswith(".py")}  # the commit says which code
    tags |= {KEY: version_key(model), TRAINING_RUN: _training_run(model, training.outs[f"models/{model}"])}
    evidence = Path("reports/evaluation", model)
    metrics = json.loads((evidence / "metrics.json").read_text())
    cleaning = cleaning_module(weights)
    needed = (*REQUIREMENTS, *(cleaning.REQUIREMENTS if cleaning else ()))
    requirements = [f"{name}=={Version(importlib.metadata.version(name)).public}" for name in sorted(needed)]
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
        mlflow.log_artifacts(str(evidence), "evaluation")
        mlflow.log_artifacts(f"reports/training/{'pretrain' if model == FOUNDATION else model}", "training")
    client, name = MlflowClient(), registered_name(model)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(
        name,
        logged.model_uri,
        run.info.run_id,
        tags=tags,
        description=_description(model, metrics, tags),
        model_id=logged.model_id,  # a tracking server refuses a source that it can't tie to a model
    )
    client.set_registered_model_alias(name, CHALLENGER, version.version)
    link = json.dumps([{"name": name, "version": version.version}])
    client.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: link})
    client.delete_tag(run.info.run_id, UNFINISHED)
    return version


def check_bytes(model: str) -> None:
    """Raise UserError where the model's or the evidence's bytes are not those of dvc.lock.

    DVC itself trusts a file whose time and size have not changed, and the copy in its cache.
    """
    for stage in (training_stage(model), f"evaluate@{model}"):
        for path, expected in locked(stage).outs.items():
            if Path(path).exists() and md5_of(Path(path)) != expected:
                way_out = f"remove {path} and its copy in DVC's cache, then run `dvc repro --force {stage}`"
                raise UserError(f"{path}: its bytes are not those of dvc.lock, {expected}; {way_out}")


def register_model(model: str) -> str:
    """Make the model and its evidence, as dvc.lock has them, a version, and return it.

    A new version becomes the challenger; one that is there already is left as people have it. Raises UserError for a
    model or an evaluation that never ran, is stale or damaged, or when something that they are made from is missing.
    """
    configure_tracking()
    for stage, names in stale(f"evaluate@{model}").items():
        raise UserError(f"stage {stage} is stale, {', '.join(names)} changed since it ran: run `dvc repro`")
    check_bytes(model)
    with exclusive("register"):
        if version := _version(model):
            logger.info("%s version %s is registered already", version.name, version.version)
        else:
            version = _register(model)
            logger.info("%s version %s is the challenger", version.name, version.version)
    return str(version.version)
