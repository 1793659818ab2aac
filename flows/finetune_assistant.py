"""Fine-tune the foundation into the assistant: `python -m flows.finetune_assistant`."""

import sys
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from prefect import flow

from llm.assistant import encode_examples, objective, pack
from llm.checkpoint import load_model
from llm.device import choose_compute
from llm.lora import add_lora
from llm.workers import Workers
from tasks.parallel import Learner, Work
from tasks.params import FinetuneAssistant
from tasks.stages import stage_command
from tasks.training import fit, publish, training_run

INPUTS = {split: Path(f"data/processed/instructions/{split}.parquet") for split in ("train", "validation")}
REPORT = Path("reports/training/finetune_assistant")


def prepare(params: FinetuneAssistant, workers: Workers) -> Learner:
    """The foundation and the packed instructions that it is to answer."""
    compute = choose_compute()
    torch.manual_seed(params.seed)
    model, encoding = load_model(Path("models/foundation"), compute.device, dropout=params.dropout)
    if params.lora:
        add_lora(model, params.lora)
    tables = [pd.read_parquet(path).sample(frac=1, random_state=params.seed) for path in INPUTS.values()]
    context = model.config.context_length
    train, validation = (
        encode_examples(encoding, table["instruction"], table["input"], table["output"], context) for table in tables
    )
    shown = tables[1].head(params.sample_rows)
    questions = list(zip(shown["instruction"], shown["input"], strict=True))
    windows = pack(train, context)
    goal = objective(model, encoding, params, windows, validation, compute, questions=questions, workers=workers)
    tokens = sum(map(len, train)) * params.batch_size * params.gradient_accumulation // len(windows)
    return Learner(model, encoding, goal, compute, Work("tokens", tokens, model.training_flops()))


@flow
def finetune_assistant(params: FinetuneAssistant, resume: bool = True) -> None:
    """Teach the foundation to answer instructions, and keep the weights with the lowest response loss on validation."""
    with training_run(params, INPUTS, resume) as checkpoints:
        publish("assistant", *fit(partial(prepare, params), params, checkpoints), REPORT)


if __name__ == "__main__":
    sys.exit(stage_command(finetune_assistant, "finetune_assistant"))
