"""Pre-train the foundation model, from scratch or from published weights: `python -m flows.pretrain`."""

import sys
from functools import partial
from pathlib import Path

import mlflow
import tiktoken
import torch
from prefect import flow

from llm.dataset import TokenWindows
from llm.device import choose_compute
from llm.gpt import GPT
from llm.pretrain import objective
from llm.pretrained import load_pretrained
from llm.tokenizer import load_tokenizer, same_tokens
from llm.workers import Workers
from tasks.foundation import published_weights, weights_digest
from tasks.parallel import Learner, Work
from tasks.params import SCRATCH, Pretrain
from tasks.stages import stage_command
from tasks.training import fit, publish, training_run

DATA = Path("data/processed/corpus")
REPORT = Path("reports/training/pretrain")


def start(params: Pretrain, corpus: tiktoken.Encoding) -> GPT:
    """The model before its first step; raises ValueError where the corpus was cut by another model's tokenizer."""
    torch.manual_seed(params.seed)
    if params.foundation == SCRATCH:
        return GPT(params.gpt(corpus.n_vocab))
    path = published_weights(params.foundation)
    model, encoding = load_pretrained(path, context_length=params.context_length, dropout=params.dropout)
    if not same_tokens(encoding, corpus):
        raise ValueError(f"{DATA}/tokenizer.json is not the tokenizer of {path}: dvc repro --force preprocess@corpus")
    return model


def prepare(params: Pretrain, workers: Workers) -> Learner:
    """The model and the windows of the corpus that it is to predict."""
    compute = choose_compute()
    encoding = load_tokenizer(DATA / "tokenizer.json")
    model = start(params, encoding).to(compute.device)
    train, validation = (TokenWindows(DATA, split, model.config.context_length) for split in ("train", "validation"))
    goal = objective(
        model,
        encoding,
        params,
        train,
        validation,
        compute,
        evaluation_batches=params.evaluation_batches,
        prompts=params.sample_prompts,
        start_counts=params.foundation != SCRATCH,
        workers=workers,
    )
    tokens = params.batch_size * params.gradient_accumulation * model.config.context_length
    return Learner(model, encoding, goal, compute, Work("tokens", tokens, model.training_flops()))


@flow(flow_run_name="pretrain-{params.foundation}")
def pretrain(params: Pretrain, resume: bool = True) -> None:
    """Train a GPT on the corpus, and keep the weights with the lowest validation loss."""
    inputs = {split: DATA / f"{split}.bin" for split in ("train", "validation")}
    with training_run(params, inputs, resume) as checkpoints:
        if params.foundation != SCRATCH:
            digest = weights_digest(published_weights(params.foundation))
            mlflow.set_tag("threestage.foundation.sha256", digest)
        publish("foundation", *fit(partial(prepare, params), params, checkpoints), REPORT)


if __name__ == "__main__":
    sys.exit(stage_command(pretrain, "pretrain"))
