"""A model of labels and its baseline on the test split and on behavioural texts."""

from functools import partial

import pandas as pd
from pydantic import Field

from llm.config import Config
from llm.generation.packed import pack_for_reading
from llm.objectives.classifier import UNSURE, probabilities
from tasks.measures.description import Measured, Subject
from tasks.measures.labels.baseline import Reader, fit_baseline, has_one_that_passes
from tasks.measures.labels.evidence import draw_confusion, draw_curves, worst, write_tables
from tasks.measures.labels.rows import label_rows, texts_of, without_learned
from tasks.measures.labels.scores import PROBABILITY, score_labels
from tasks.measures.scores import score_table
from tasks.training.setup import split_file


class Evaluate(Config):
    """How a model of labels is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Texts a forward pass."""


def measure_labels(subject: Subject) -> tuple[Measured, Reader, Reader]:
    """The scores of a model of labels beside its baseline's, and both as readers of further texts.

    The model reads texts as it is served. The baseline is the stronger of a logistic regression and a linear SVM on
    validation (baseline.csv names it). It has its threshold by the same rule, from the same share of validation's ham,
    and its probabilities are calibrated there, too.
    """
    loaded = subject.loaded
    evidence = subject.evidence
    loaded.model.gpt = pack_for_reading(loaded.model.gpt)
    config = loaded.model.config
    train = pd.read_parquet(split_file(subject.data, "train"))
    validation = pd.read_parquet(split_file(subject.data, "validation"))
    ours = Reader(config, partial(probabilities, loaded, batch_size=subject.params.batch_size))
    baseline = fit_baseline(train, validation, config=config, evidence=evidence)
    rows = label_rows(subject.data, config.columns)
    rows = without_learned(rows, pd.concat([train, validation]), config.columns)
    score = partial(score_labels, rows, one_passes=has_one_that_passes(config))
    scores = score_table(
        rows.drop(columns=list(config.columns)),
        ours=score(answers_of(ours, rows)),
        baseline=score(answers_of(baseline, rows)),
    )
    write_tables(scores, evidence)
    (evidence / "errors.md").write_text(worst(rows, scores, loaded))
    draw_confusion(scores, evidence / "confusion.svg")
    if has_one_that_passes(config):
        draw_curves(scores, evidence)
    return Measured(scores), ours, baseline


def answers_of(reader: Reader, rows: pd.DataFrame) -> pd.DataFrame:
    """A reader's answers to rows, as a served model gives them. Each part is read by itself."""
    tables = []
    for _, part in rows.groupby("part", sort=False):
        probability = reader.probabilities(texts_of(part, reader.config.columns))
        names = [f"{label}{PROBABILITY}" for label in reader.config.labels]
        answers = pd.DataFrame(probability, columns=names, index=part.index)
        answers["label"] = [reader.config.labels[number] for number in reader.config.decide(probability)]
        if reader.config.unsure is not None:
            answers["leaning"] = answers["label"]
            answers["label"] = answers["label"].where(~reader.config.is_unsure(probability), UNSURE)
        tables.append(answers)
    return pd.concat(tables).assign(error=None)
