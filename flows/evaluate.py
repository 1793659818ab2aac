"""Measure a model on the test split, which nothing was tuned on: `python -m flows.evaluate classifier`."""

import json
from pathlib import Path

import mlflow
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.command import run_stage
from llm.config import Config
from llm.device import choose_compute, keep_freed_memory
from llm.files import atomic_folder, write_atomic
from llm.objectives import load
from tasks.measures.description import Subject
from tasks.measures.evaluate import measure_and_write
from tasks.measures.pictures import draw_curves
from tasks.params import find_evaluation, load_evaluation
from tasks.registry.logged_model import find_model
from tasks.registry.tracking import log_measured, stage_run
from tasks.stages.hashes import md5_of
from tasks.stages.names import evaluation_stage, model_names, training_report
from tasks.stages.prefect import leave_artifact
from tasks.training.setup import split_file


@flow(flow_run_name="evaluate-{name}")
def evaluate(name: str, params: Config) -> None:
    """Measure a model on the test split and keep the evidence that a reviewer reads."""
    measure = task(measure_and_write, name="measure", cache_policy=NO_CACHE)
    data = Path("data/processed") / params.dataset
    report = Path("reports/evaluation") / name
    with stage_run(params.evaluate, {"test": split_file(data, "test")}):
        keep_freed_memory()
        compute = choose_compute()
        loaded = load(Path("models") / name, compute.device)
        base = Path("models") / params.base if hasattr(params, "base") else None
        with atomic_folder(report / "evidence") as evidence:
            subject = Subject(
                loaded=loaded,
                data=data,
                base=base,
                params=params.evaluate,
                compute=compute,
                evidence=evidence,
            )
            values = measure(find_evaluation(name), subject)
            if (curves := training_report(name) / "curves.csv").exists():
                draw_curves(curves, evidence / "loss.svg")
        metrics = {metric: round(value, 5) for metric, value in values.items()}
        write_atomic(report / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        logged = find_model(md5_of(Path("models") / name))
        log_measured(metrics, "test", logged and logged.model_id)
        mlflow.log_artifacts(str(report), "evaluation")
        description = f"The {name} on the test split"
        leave_artifact(create_table_artifact, f"evaluate-{name}", table=[metrics], description=description)


def main() -> None:
    """Run the stage of the model that the command line names."""
    run_stage(
        evaluate, evaluation_stage, lambda name: {"name": name, "params": load_evaluation(name)}, names=model_names
    )


if __name__ == "__main__":
    main()
