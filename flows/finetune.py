"""Fine-tune a model into an application: `python -m flows.finetune classifier`."""

from functools import partial
from pathlib import Path

from prefect import flow

from flows.command import run_stage
from llm.config import Config
from tasks.params import find_training, load_training
from tasks.stages.names import application_names, training_stage
from tasks.training.fit import fit, training_run
from tasks.training.report import publish
from tasks.training.setup import TrainingFiles, training_files


@flow(flow_run_name="finetune-{name}")
def finetune(name: str, params: Config) -> None:
    """Train an application from its base, and keep the weights that are best on validation."""
    application = find_training(name)
    dataset = Path("data/processed") / params.dataset
    files = TrainingFiles(dataset=dataset, base=Path("models") / params.base, rehearses=params.rehearses)
    prepare = partial(application.prepare, files=files)
    samples = partial(application.samples, data=dataset, evaluate=params.evaluate)
    cleaning = {"cleaning": application.cleaning} if application.cleaning else {}
    run = training_run(params.train, training_files(dataset), application.identity(params.train))
    with run as checkpoints:
        trained = fit(prepare, params.train, checkpoints, samples=samples)
        publish(name, params.objective, trained=trained, **cleaning)


def main() -> None:
    """Run the stage of the application that the command line names."""
    run_stage(
        finetune, training_stage, lambda name: {"name": name, "params": load_training(name)}, names=application_names
    )


if __name__ == "__main__":
    main()
