"""Fine-tune the foundation into the email classifier: `python -m flows.finetune_classifier`."""

import sys
from functools import partial
from pathlib import Path

import pandas as pd
import tiktoken
import torch
from prefect import flow

from llm.checkpoint import load_model
from llm.classifier import LABELS, Classifier, Emails, encode_emails, objective
from llm.device import choose_compute
from llm.lora import add_lora
from llm.workers import Workers
from tasks.parallel import Learner, Work
from tasks.params import FinetuneClassifier
from tasks.stages import stage_command
from tasks.training import fit, publish, training_run

INPUTS = {split: Path(f"data/processed/emails/{split}.parquet") for split in ("train", "validation")}
REPORT = Path("reports/training/finetune_classifier")


def _emails(path: Path, encoding: tiktoken.Encoding, max_tokens: int) -> Emails:
    table = pd.read_parquet(path)
    labels = torch.tensor([LABELS.index(label) for label in table["label"]])
    return Emails(encode_emails(encoding, table["subject"], table["body"], max_tokens), labels)


def prepare(params: FinetuneClassifier, workers: Workers) -> Learner:
    """The foundation with a head, and the emails that it is to tell apart."""
    compute = choose_compute()
    torch.manual_seed(params.seed)
    foundation, encoding = load_model(Path("models/foundation"), dropout=params.dropout)
    model = Classifier(foundation, params.max_tokens).to(compute.device)
    model.freeze(params.frozen_layers)
    if params.lora:
        add_lora(model, params.lora)
    train, validation = (_emails(path, encoding, params.max_tokens) for path in INPUTS.values())
    balanced = params.class_weights == "balanced"
    goal = objective(model, params, train, validation, compute, balanced=balanced, workers=workers)
    return Learner(model, encoding, goal, compute, Work("emails", params.batch_size * params.gradient_accumulation))


@flow
def finetune_classifier(params: FinetuneClassifier, resume: bool = True) -> None:
    """Teach the foundation to tell spam from ham, and keep the weights with the highest F1 on validation."""
    with training_run(params, INPUTS, resume) as checkpoints:
        publish("classifier", *fit(partial(prepare, params), params, checkpoints), REPORT)


if __name__ == "__main__":
    sys.exit(stage_command(finetune_classifier, "finetune_classifier"))
