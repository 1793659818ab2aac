"""Pre-train the foundation model: `python -m flows.pretrain`."""

import sys
from pathlib import Path

import torch
from prefect import flow

from llm.dataset import TokenWindows
from llm.device import choose_compute
from llm.gpt import GPT
from llm.pretrain import objective
from llm.tokenizer import load_tokenizer
from tasks.params import Pretrain
from tasks.stages import stage_command
from tasks.training import fit, publish, training_run

DATA = Path("data/processed/corpus")
REPORT = Path("reports/training/pretrain")


@flow
def pretrain(params: Pretrain, resume: bool = True) -> None:
    """Train a GPT from scratch on the corpus, and keep the weights with the lowest validation loss."""
    inputs = {split: DATA / f"{split}.bin" for split in ("train", "validation")}
    with training_run(params, inputs, resume) as checkpoints:
        compute = choose_compute()
        encoding = load_tokenizer(DATA / "tokenizer.json")
        torch.manual_seed(params.seed)
        model = GPT(params.gpt(encoding.n_vocab)).to(compute.device)
        train, validation = (TokenWindows(DATA, split, params.context_length) for split in inputs)
        goal = objective(
            model,
            encoding,
            params,
            train,
            validation,
            compute,
            evaluation_batches=params.evaluation_batches,
            prompts=params.sample_prompts,
        )
        tokens = params.batch_size * params.gradient_accumulation * params.context_length
        history = fit(model, params, goal, compute, checkpoints, units="tokens", units_a_step=tokens)
        publish("foundation", model, encoding, history, goal.best, REPORT)


if __name__ == "__main__":
    sys.exit(stage_command(pretrain, "pretrain"))
