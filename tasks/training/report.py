"""The results of a training: the model's folder, its curve as a table, and its metrics."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import mlflow
import pandas as pd
from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from llm.files import atomic_folder, write_atomic
from llm.formats.model_folder import save_model
from llm.training.objective import Row, best_evaluation
from tasks.registry.logged_model import log_model
from tasks.registry.tracking import log_measured
from tasks.stages.names import training_report
from tasks.stages.prefect import leave_artifact
from tasks.training.setup import Trained


def _evaluations(history: list[Row]) -> list[Row]:
    """One row for each evaluation on the validation split, with the mean training loss since the last one."""
    evaluations = []
    losses: list[float] = []
    for row in history:
        if "train_loss" in row:
            losses.append(row["train_loss"])
        metrics = {name: value for name, value in row.items() if name.startswith("validation")}
        if metrics:
            train_loss = fmean(losses) if losses else None
            evaluations.append({"step": row["step"], "train_loss": train_loss, **metrics})
            losses = []
    return evaluations


@task(cache_policy=NO_CACHE)
def publish(model: str, objective: str, *, trained: Trained, **settings: Any) -> dict[str, Any]:
    """Write models/<model>/ and the training's report, log both to MLflow, and return its metrics.

    `settings` go to the model folder's config.json.
    """
    report = training_report(model)
    evaluations = _evaluations(trained.history)
    chosen = evaluations[best_evaluation(evaluations, trained.setup.objective)]
    metrics = {name: round(value, 6) for name, value in chosen.items() if value is not None}
    metrics["steps"] = trained.history[-1]["step"]
    metrics["best_step"] = metrics.pop("step")
    metrics |= {name: round(value, 6) for name, value in trained.metrics.items()}

    report.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(evaluations).to_csv(report / "curves.csv", index=False, float_format="%.6f")
    write_atomic(report / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    with atomic_folder(Path("models") / model) as folder:
        save_model(folder, trained.setup.loaded, objective, **settings)

    mlflow.log_artifacts(str(report), "report")
    log_measured({f"final.{name}": value for name, value in metrics.items()}, "validation", log_model(model))
    description = f"The training of the {model}"
    leave_artifact(create_table_artifact, f"{model}-training", table=[metrics], description=description)
    return metrics
