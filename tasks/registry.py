"""The MLflow registry: a model and its evidence become a version that a person can review.

Only hashes decide whether a version is new: the same bytes and the same evidence are the same version.
"""

import importlib.metadata
import json
import logging
from collections.abc import Iterable
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from packaging.version import Version

from tasks.lineage import PREFIX, digest, lineage, locked, stale
from tasks.params import Model
from tasks.tracking import configure_tracking, exclusive

CHALLENGER = "challenger"
KEY = f"{PREFIX}.key"
TRAINING_RUN = f"{PREFIX}.training_run"
STAGES: dict[Model, str] = {
    "foundation": "pretrain",
    "classifier": "finetune_classifier",
    "assistant": "finetune_assistant",
}
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pydantic", "safetensors", "tiktoken", "torch")
BASELINE = "baseline_"

logger = logging.getLogger(__name__)


def registered_name(model: Model) -> str:
    """What the registry calls a model."""
    return f"threestage-{model}"


def version_key(model: Model) -> str:
    """SHA-256 over what dvc.lock says of the model and its evaluation. Raises ValueError when one of them never ran."""
    outs = locked(STAGES[model]).outs | locked(f"evaluate@{model}").outs
    folders = (f"models/{model}", f"reports/evaluation/{model}")
    return digest({path: md5 for path, md5 in outs.items() if any(Path(path).is_relative_to(each) for each in folders)})


def _version(model: Model) -> ModelVersion | None:
    """The version that was made from what dvc.lock has now."""
    found = MlflowClient().search_model_versions(
        f"name = '{registered_name(model)}' AND tags.`{KEY}` = '{version_key(model)}'"
    )
    return max(found, key=lambda each: int(each.version), default=None)


def registered(models: Iterable[Model]) -> dict[Model, str | None]:
    """The version of each model that is challenger with the bytes and evidence of dvc.lock; None where it is not."""
    configure_tracking()
    aliases = {each.name: each.aliases for each in MlflowClient().search_registered_models()}

    def challenger(model: Model) -> str | None:
        alias = aliases.get(registered_name(model), {}).get(CHALLENGER)
        try:
            version = alias and _version(model)
        except ValueError:  # never ran
            return None
        return str(alias) if version and str(version.version) == str(alias) else None

    return {model: challenger(model) for model in models}


def _description(model: Model, metrics: dict[str, float], tags: dict[str, str]) -> str:
    """What a reviewer reads first: the metrics, the baseline beside them, and where they come from."""
    rows = ["| metric | test | baseline | difference |", "|---|---|---|---|"]
    for name, value in metrics.items():
        if name.startswith(BASELINE):
            continue
        baseline = metrics.get(BASELINE + name)
        compared = "| | |" if baseline is None else f"| {baseline:.4f} | {value - baseline:+.4f} |"
        rows.append(f"| {name} | {value:.4f} {compared}")
    commit, dirty = (tags[f"{PREFIX}.git.{fact}"] for fact in ("commit", "dirty.code"))
    return "\n".join(
        [
            f"{model.capitalize()}, trained by `{STAGES[model]}` and measured on the test split by `evaluate@{model}`.",
            "",
            *rows,
            "",
            f"Model `{tags[f'{PREFIX}.dvc.out.models/{model}']}`, training run `{tags[TRAINING_RUN]}`, git commit "
            f"`{commit}`{' with changes' if dirty == 'true' else ''}. Plots and reports are in this version's run.",
        ]
    )


def _training_run(model: Model, md5: str) -> str:
    """Id of the MLflow run that made these very weights, `none` when another machine's store has it."""
    made = f"tags.`{PREFIX}.dvc.stage` = '{STAGES[model]}' AND tags.`{PREFIX}.dvc.out.models/{model}` = '{md5}'"
    runs = mlflow.search_runs(filter_string=made, max_results=1, output_format="list")
    return runs[0].info.run_id if runs else "none"


def _register(model: Model) -> ModelVersion:
    """Log the weights and the evidence in a run of their own and make a version of them."""
    from tasks.served import EXAMPLES, SIGNATURES

    training, evaluation = locked(STAGES[model]), locked(f"evaluate@{model}")
    facts = lineage(None)
    tags = training.tags() | evaluation.tags() | {name: fact for name, fact in facts.items() if ".git." in name}
    tags = {name: value for name, value in tags.items() if not name.endswith(".py")}  # the commit says which code
    tags |= {KEY: version_key(model), TRAINING_RUN: _training_run(model, training.outs[f"models/{model}"])}
    evidence = Path("reports/evaluation", model)
    metrics = json.loads((evidence / "metrics.json").read_text())
    requirements = [f"{name}=={Version(importlib.metadata.version(name)).public}" for name in REQUIREMENTS]
    with mlflow.start_run(run_name=f"register {model}", tags=facts | tags) as run:
        logged = mlflow.pyfunc.log_model(
            name=model,
            python_model="tasks/served.py",
            code_paths=["llm"],
            artifacts={"model": f"models/{model}"},
            signature=SIGNATURES[model],
            input_example=pd.DataFrame(EXAMPLES[model]),
            pip_requirements=requirements,
        )
        mlflow.log_metrics(metrics, model_id=logged.model_id)
        mlflow.log_artifacts(str(evidence), "evaluation")
        mlflow.log_artifacts(f"reports/training/{STAGES[model]}", "training")
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
    link = json.dumps([{"name": name, "version": version.version}])
    client.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: link})
    return version


def register_model(model: Model) -> str:
    """Make the model and its evidence, as dvc.lock has them, the challenger, and return its version.

    A version of the same bytes and evidence is used again. Raises ValueError for a model or an evaluation that never
    ran or is stale, FileNotFoundError when something that they are made from is missing.
    """
    configure_tracking()
    for stage, names in stale(f"evaluate@{model}").items():
        raise ValueError(f"stage {stage} is stale, {', '.join(names)} changed since it ran: run `dvc repro`")
    with exclusive("register"):
        version = _version(model) or _register(model)
        MlflowClient().set_registered_model_alias(version.name, CHALLENGER, version.version)
    logger.info("%s version %s is the challenger", version.name, version.version)
    return str(version.version)
