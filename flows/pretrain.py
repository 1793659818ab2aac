"""Pre-train the foundation model, from scratch or from published weights: `python -m flows.pretrain`."""

from functools import partial
from pathlib import Path

from prefect import flow

from flows.command import run_stage
from llm.config import Config
from tasks.params import find_training, load_training
from tasks.stages.names import FOUNDATION
from tasks.training.fit import fit, training_run
from tasks.training.report import publish
from tasks.training.setup import TrainingFiles, training_files


@flow(flow_run_name="pretrain-{params.train.init_from}")
def pretrain(params: Config) -> None:
    """Train a GPT on the corpus, and keep the weights with the lowest validation loss."""
    application = find_training(FOUNDATION)
    dataset = Path("data/processed") / params.dataset
    prepare = partial(application.prepare, files=TrainingFiles(dataset=dataset))
    samples = partial(application.samples, data=dataset, evaluate=params.evaluate)
    run = training_run(params.train, training_files(dataset), application.identity(params.train))
    with run as checkpoints:
        trained = fit(prepare, params.train, checkpoints, samples=samples)
        publish(FOUNDATION, params.objective, trained=trained)


def main() -> None:
    """Run the stage."""
    run_stage(pretrain, "pretrain".format, lambda: {"params": load_training(FOUNDATION)})


if __name__ == "__main__":
    main()
