"""The set-up of a training on labelled rows: the emails of the classifier, the requests of the guard."""

import pandas as pd

from llm.device import choose_compute
from llm.objectives.classifier.model import row_texts
from llm.objectives.classifier.prepare import NamedTexts, TrainClassifier, prepare_classifier
from llm.training.workers import Workers
from tasks.training.setup import Throughput, TrainingFiles, TrainingSetup, keeps_precision, training_files


def prepare_labelled(params: TrainClassifier, files: TrainingFiles, workers: Workers, *, units: str) -> TrainingSetup:
    """The base with a head, and the rows that it is to tell apart; `units` is what a row is called in the log."""
    compute = choose_compute()
    splits = {}
    for split, file in training_files(files.dataset).items():
        table = pd.read_parquet(file)
        texts = row_texts(table[column] for column in params.columns)
        splits[split] = NamedTexts(texts, table["label"].tolist(), table["unit"].tolist())
    prepared = prepare_classifier(
        params,
        files.base,
        splits,
        compute=compute,
        workers=workers,
        as_stored=keeps_precision(params, compute, workers),
        data=str(files.dataset),
    )
    return TrainingSetup(
        model=prepared.model,
        encoding=prepared.encoding,
        objective=prepared.objective,
        compute=prepared.compute,
        throughput=Throughput(units, params.batch_size * params.gradient_accumulation),
        finish=prepared.finish,
    )
