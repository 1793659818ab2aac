"""Measure a model on the test split, which nothing was tuned on: `python -m flows.evaluate classifier`."""

import json
import sys
from pathlib import Path
from typing import get_args

import mlflow
from prefect import flow
from prefect.artifacts import create_table_artifact

from llm.checkpoint import load_model
from llm.device import choose_compute
from llm.files import atomic_folder, write_atomic
from tasks.evaluation import evaluate_assistant, evaluate_classifier, evaluate_foundation
from tasks.params import EvaluateAssistant, EvaluateClassifier, EvaluateFoundation, Model
from tasks.stages import stage_command
from tasks.tracking import stage_run

MEASURES = {
    "foundation": (evaluate_foundation, Path("data/processed/corpus"), "test.bin"),
    "classifier": (evaluate_classifier, Path("data/processed/emails"), "test.parquet"),
    "assistant": (evaluate_assistant, Path("data/processed/instructions"), "test.parquet"),
}


@flow(flow_run_name="evaluate-{model}")
def evaluate(model: Model, params: EvaluateFoundation | EvaluateClassifier | EvaluateAssistant) -> None:
    """Measure a model on the test split and keep the evidence that a reviewer reads."""
    measure, data, split = MEASURES[model]
    report = Path("reports/evaluation") / model
    with stage_run(params, {"test": data / split}):
        compute = choose_compute()
        loaded, encoding = load_model(Path("models") / model, compute.device)
        with atomic_folder(report / "evidence") as evidence:
            found = measure(loaded, encoding, data, params, compute, evidence)
        metrics = {name: round(value, 5) for name, value in found.items()}
        write_atomic(report / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        mlflow.log_metrics(metrics)
        mlflow.log_artifacts(str(report), "evaluation")
        create_table_artifact(key=f"evaluate-{model}", table=[metrics], description=f"The {model} on the test split")


if __name__ == "__main__":
    sys.exit(stage_command(evaluate, "evaluate", get_args(Model)))
