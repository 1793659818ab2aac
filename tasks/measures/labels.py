"""A model of labels, the classifier or the guard, beside its baseline on the test split and on behavioural texts."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field
from sklearn.metrics import precision_recall_curve, roc_curve

from llm.config import Config
from llm.generation.packed import pack_for_reading
from llm.loaded_model import LoadedModel
from llm.objectives.classifier import Classifier, ClassifierConfig, probabilities
from llm.objectives.classifier.explanations import in_words, moved_by
from tasks.measures.baseline import Reader, fit_baseline, texts_of
from tasks.measures.description import Measured, Subject
from tasks.measures.label_metrics import PROBABILITY
from tasks.measures.label_rows import SLICES, label_rows, without_learned
from tasks.measures.pictures import draw_confusion, draw_decisions
from tasks.measures.scores import TEST, score_table
from tasks.training.setup import split_file

ERRORS = 6  # that are shown
SHOWN = 400  # characters of one
PHRASES = 8  # that moved it


class Evaluate(Config):
    """How a model of labels is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Texts a forward pass."""


def measure_labels(subject: Subject) -> Measured:
    """The scores of a model of labels, which reads texts as it is served, beside its baseline's."""
    loaded = subject.loaded
    loaded.model.gpt = pack_for_reading(loaded.model.gpt)
    config = loaded.model.config
    train = pd.read_parquet(split_file(subject.data, "train"))
    validation = pd.read_parquet(split_file(subject.data, "validation"))
    rows = label_rows(subject.data, config.columns)
    rows = without_learned(rows, pd.concat([train, validation]), config.columns)
    read = partial(probabilities, loaded, batch_size=subject.params.batch_size)
    ours = score_labels(rows, Reader(config=config, probabilities=read))
    baseline = score_labels(rows, fit_baseline(train, validation, config))
    write_evidence(rows, ours, baseline=baseline, loaded=loaded, evidence=subject.evidence)
    return Measured(score_table(rows.drop(columns=list(config.columns)), ours=ours, baseline=baseline))


def score_labels(rows: pd.DataFrame, reader: Reader) -> pd.DataFrame:
    """The measures of a reader's answers, and the answers as people read them.

    `right` says whether the label is the expected one; an unsure answer counts as what it leans to, and is 1 in
    `unsure`. `actual <labels>` and `predicted <labels>` are numbers of labels. Where one label passes, `is <others>`
    and `called <others>` say whether a text should be stopped and is. Labels are part of these names, so that a review
    joins no scores of other labels.
    """
    config = reader.config
    labels = list(config.labels)
    probability = reader.probabilities(texts_of(rows, config.columns))
    predicted = config.decide(probability)
    actual = rows["expected"].map({label: number for number, label in enumerate(labels)}).to_numpy(float)
    scored = pd.DataFrame(probability, rows.index, [f"{label}{PROBABILITY}" for label in labels])
    scored["right"] = (predicted == actual).astype(float)
    scored["confidence"] = probability[np.arange(len(rows)), predicted]
    scored[f"actual {', '.join(labels)}"] = actual
    scored[f"predicted {', '.join(labels)}"] = predicted.astype(float)
    if one_passes(config):
        stopped = ", ".join(labels[1:])
        scored[f"is {stopped}"] = (actual > 0).astype(float)
        scored[f"called {stopped}"] = (predicted > 0).astype(float)
    answers = pd.Series(np.array(labels)[predicted], rows.index, dtype=object)
    if config.unsure is not None:
        unsure = config.is_unsure(probability)
        scored["unsure"] = unsure.astype(float)
        answers = answers.mask(unsure, "unsure, leaning to " + answers)
    return scored.assign(answer=answers + scored["confidence"].map(" ({:.3f})".format))


def one_passes(config: ClassifierConfig) -> bool:
    """Whether the first label passes and the others are looked for: with two, or where there is a threshold."""
    return len(config.labels) == 2 or config.threshold is not None


def write_evidence(
    rows: pd.DataFrame, ours: pd.DataFrame, *, baseline: pd.DataFrame, loaded: LoadedModel[Classifier], evidence: Path
) -> None:
    """`slices.csv`, and of the test split `predictions.csv`, `errors.md` and pictures."""
    config = loaded.model.config
    predicted = ours[f"predicted {', '.join(config.labels)}"].astype(int)
    table = rows.assign(actual=rows["expected"], predicted=np.array(config.labels)[predicted])
    table = table.assign(right=ours["right"], baseline_right=baseline["right"], confidence=ours["confidence"])
    means = []
    for name in SLICES:
        slices = table.assign(by=name).rename(columns={name: "slice"}).groupby(["by", "slice", "actual"])
        means.append(slices[["right", "baseline_right"]].mean().assign(rows=slices.size()))
    pd.concat(means).to_csv(evidence / "slices.csv", float_format="%.4f")
    test = table[rows["part"] == TEST]
    predictions = test[["id", "actual", "predicted"]].join(ours.filter(like=PROBABILITY))
    predictions.to_csv(evidence / "predictions.csv", index=False, float_format="%.4f")
    draw_confusion(test, config.labels, evidence / "confusion.svg")
    (evidence / "errors.md").write_text(worst(test[test["right"] == 0], loaded))
    if one_passes(config):
        looked_for = [f"{label}{PROBABILITY}" for label in config.labels[1:]]
        contenders = {"classifier": ours, "baseline": baseline}
        chances = {name: scored.loc[test.index, looked_for].sum(axis=1) for name, scored in contenders.items()}
        actual = (test["actual"] != config.labels[0]).to_numpy()
        draw_decisions(actual, chances, evidence)
        write_points(actual, chances["classifier"], evidence)


def write_points(actual: np.ndarray, probability: pd.Series, evidence: Path) -> None:
    """`roc.csv` and `precision_recall.csv`, the points of the curves for `dvc plots`."""
    false_positive_rate, true_positive_rate, _ = roc_curve(actual, probability)
    roc = pd.DataFrame({"false_positive_rate": false_positive_rate, "true_positive_rate": true_positive_rate})
    roc.to_csv(evidence / "roc.csv", index=False, float_format="%.5f")
    precision, recall, _ = precision_recall_curve(
        actual,
        probability,
        drop_intermediate=True,  # pyrefly: ignore[unexpected-keyword] - newer than scikit-learn's stubs
    )
    points = pd.DataFrame({"precision": precision, "recall": recall})
    points.to_csv(evidence / "precision_recall.csv", index=False, float_format="%.5f")


def worst(wrong: pd.DataFrame, loaded: LoadedModel[Classifier]) -> str:
    """The texts that were got wrong with the greatest confidence, and the phrases that moved them."""
    config = loaded.model.config
    shown = wrong.sort_values("confidence", ascending=False, kind="stable").head(ERRORS)
    lines = ["# The worst errors of the classifier"]
    for row, text in zip(shown.to_dict("records"), texts_of(shown, config.columns), strict=True):
        moved = in_words(moved_by(partial(probabilities, loaded), config.labels, text)[:PHRASES])
        verdict = f"the classifier says {row['predicted']}, with probability {row['confidence']:.3f}"
        question = " ".join(row["question"].split())[:SHOWN]
        lines.append(f"**{row['id']}**: labelled {row['expected']}; {verdict}\n\n> {question}\n\nIt looks {moved}")
    return "\n\n".join(lines) + "\n"
