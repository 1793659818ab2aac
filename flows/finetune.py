"""Fine-tune a model into an application: `threestage finetune classifier`."""

from functools import partial
from pathlib import Path

from prefect import flow

from llm.config import Config
from tasks.params import find_training
from tasks.training.fit import fit, training_run
from tasks.training.report import publish
from tasks.training.setup import TrainingFiles, training_files


@flow(flow_run_name="finetune-{name}")
def finetune(name: str, params: Config, resume: bool = True) -> None:
    """Train an application from its base, and keep the weights that are best on validation."""
    application = find_training(name)
    dataset = Path("data/processed") / params.dataset
    files = TrainingFiles(dataset=dataset, base=Path("models") / params.base, rehearses=params.rehearses)
    prepare = partial(application.prepare, params.train, files)
    samples = partial(application.samples, data=dataset, evaluate=params.evaluate)
    cleaning = {"cleaning": application.cleaning} if application.cleaning else {}
    run = training_run(
        params.train, training_files(dataset), resume=resume, identity=application.identity(params.train)
    )
    with run as checkpoints:
        trained = fit(prepare, params.train, checkpoints, samples=samples)
        publish(name, params.objective, trained=trained, **cleaning)
