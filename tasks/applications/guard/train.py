"""The guard: what an assistant should answer, decline, or meet with help."""

import pandas as pd

from llm.device import choose_compute
from llm.objectives.classifier.model import row_texts
from llm.objectives.classifier.prepare import NamedTexts, TrainClassifier, prepare_classifier
from llm.training.workers import Workers
from tasks.applications import Training
from tasks.training.setup import Throughput, TrainingFiles, TrainingSetup, keeps_precision, training_files


def prepare(params: TrainClassifier, files: TrainingFiles, workers: Workers) -> TrainingSetup:
    """The base with a head, and the requests that it is to tell apart."""
    splits, compute = {}, choose_compute()
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
    throughput = Throughput("requests", params.batch_size * params.gradient_accumulation)
    return TrainingSetup(
        prepared.model, prepared.encoding, prepared.objective, prepared.compute, throughput, finish=prepared.finish
    )


TRAINING = Training(objective="classifier", train=TrainClassifier, prepare=prepare)
