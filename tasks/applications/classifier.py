"""The email classifier: spam or no spam."""

from pathlib import Path
from typing import Literal, Self

import numpy as np
import pandas as pd
import tiktoken
import torch
from pydantic import Field, model_validator
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)
from sklearn.pipeline import Pipeline, make_pipeline

from llm.applications.classifier import (
    Classifier,
    ClassifierConfig,
    LabelledTexts,
    email_text,
    encode_texts,
    objective,
    probabilities,
)
from llm.config import Config
from llm.device import Compute, choose_compute
from llm.errors import UserError
from llm.formats.model_folder import load_model
from llm.model.lora import add_lora
from llm.training.workers import Workers
from tasks.applications import Application
from tasks.training.setup import FinetuneConfig, Throughput, TrainingSetup, split_file


class Train(FinetuneConfig):
    """The classifier and its training on labelled emails."""

    frozen_layers: int = Field(default=0, ge=0)
    """Blocks, from the input on, that stay as the base has them; with one, the embeddings do too."""
    max_tokens: int = Field(gt=0)
    """An email is cut after this many tokens."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """From this probability on, an email is spam."""
    class_weights: Literal["balanced", "none"] = "balanced"
    """`balanced` weighs a class by the inverse of its frequency."""

    @model_validator(mode="after")
    def _one_way_to_freeze(self) -> Self:
        if self.lora and self.frozen_layers:
            raise ValueError(f"frozen_layers {self.frozen_layers} and lora: LoRA freezes all layers; keep one of them")
        return self


class Evaluate(Config):
    """How the classifier is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Emails a forward pass."""


def _texts(table: pd.DataFrame) -> list[str]:
    return [email_text(*row) for row in zip(table["subject"], table["body"], strict=True)]


def prepare(params: Train, data: Path, base: Path, workers: Workers) -> TrainingSetup:
    """The base with a head, and the emails that it is to tell apart; their labels in alphabetical order."""
    compute = choose_compute()
    tables = [pd.read_parquet(split_file(data, split)) for split in ("train", "validation")]
    labels = tuple(sorted(set(tables[0]["label"])))
    if len(labels) != 2:
        raise UserError(f"{data}: the labels are {', '.join(labels)}; a classifier tells two apart")
    torch.manual_seed(params.seed)
    foundation, encoding = load_model(base, dropout=params.dropout)
    config = ClassifierConfig(labels=labels, max_tokens=params.max_tokens, threshold=params.threshold)
    model = Classifier(foundation, config).to(compute.device)
    model.freeze(params.frozen_layers)
    if params.lora:
        add_lora(model, params.lora)
    train, validation = (
        LabelledTexts(
            encode_texts(encoding, _texts(table), params.max_tokens),
            torch.tensor([labels.index(label) for label in table["label"]]),
        )
        for table in tables
    )
    balanced = params.class_weights == "balanced"
    goal = objective(model, params, train, validation, compute, balanced=balanced, workers=workers)
    emails = params.batch_size * params.gradient_accumulation
    return TrainingSetup(model, encoding, goal, compute, Throughput("emails", emails))


def _baseline() -> Pipeline:
    """What a user would pick instead: TF-IDF of words and pairs of words, then logistic regression."""
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000))


def _thinned(curve: pd.DataFrame, points: int = 200) -> pd.DataFrame:
    """At most `points` rows of a curve, its ends among them."""
    return curve.iloc[np.unique(np.linspace(0, len(curve) - 1, points).astype(int))]


def measure(
    model: Classifier, encoding: tiktoken.Encoding, data: Path, params: Evaluate, compute: Compute, evidence: Path
) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and ROC-AUC of spam, the baseline's F1; curves and predictions as evidence."""
    train, test = (pd.read_parquet(split_file(data, split)) for split in ("train", "test"))
    spam = model.config.labels[1]
    actual = (test["label"] == spam).to_numpy()
    probability = probabilities(model, encoding, _texts(test), params.batch_size)
    predicted = model.decide(probability)

    baseline = _baseline().fit(train["subject"] + "\n" + train["body"], train["label"])
    baseline_predicted = baseline.predict(test["subject"] + "\n" + test["body"]) == spam

    names = np.array(model.config.labels)
    table = {"id": test["id"], "actual": names[actual.astype(int)], "predicted": names[predicted.astype(int)]}
    pd.DataFrame({**table, "spam_probability": probability.round(4)}).to_csv(evidence / "predictions.csv", index=False)
    false_positive, true_positive, _ = roc_curve(actual, probability)
    precision, recall, _ = precision_recall_curve(actual, probability)
    roc = pd.DataFrame({"false_positive_rate": false_positive, "true_positive_rate": true_positive})
    _thinned(roc).to_csv(evidence / "roc.csv", index=False, float_format="%.5f")
    precision_recall = pd.DataFrame({"recall": recall, "precision": precision})
    _thinned(precision_recall).to_csv(evidence / "precision_recall.csv", index=False, float_format="%.5f")
    return {
        "accuracy": accuracy_score(actual, predicted),
        "precision": precision_score(actual, predicted, zero_division=0),
        "recall": recall_score(actual, predicted),
        "f1": f1_score(actual, predicted),
        "roc_auc": roc_auc_score(actual, probability),
        "baseline_f1": f1_score(actual, baseline_predicted),
    }


APPLICATION = Application(
    objective="classifier", train=Train, evaluate=Evaluate, prepare=prepare, measure=measure, cleaning="tasks.data.mail"
)
