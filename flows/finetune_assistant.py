"""Fine-tune the foundation into the assistant: `python -m flows.finetune_assistant`."""

import sys
from pathlib import Path

import pandas as pd
import torch
from prefect import flow

from llm.assistant import encode_examples, objective, pack
from llm.checkpoint import load_model
from llm.device import choose_compute
from tasks.params import FinetuneAssistant
from tasks.stages import stage_command
from tasks.training import fit, publish, training_run

DATA = Path("data/processed/instructions")
REPORT = Path("reports/training/finetune_assistant")


@flow
def finetune_assistant(params: FinetuneAssistant, resume: bool = True) -> None:
    """Teach the foundation to answer instructions, and keep the weights with the lowest response loss on validation."""
    inputs = {split: DATA / f"{split}.parquet" for split in ("train", "validation")}
    with training_run(params, inputs, resume) as checkpoints:
        compute = choose_compute()
        torch.manual_seed(params.seed)
        model, encoding = load_model(Path("models/foundation"), compute.device, dropout=params.dropout)
        tables = [pd.read_parquet(path).sample(frac=1, random_state=params.seed) for path in inputs.values()]
        context = model.config.context_length
        train, validation = (
            encode_examples(encoding, table["instruction"], table["input"], table["output"], context)
            for table in tables
        )
        shown = tables[1].head(params.sample_rows)
        questions = list(zip(shown["instruction"], shown["input"], strict=True))
        windows = pack(train, context)
        goal = objective(model, encoding, params, windows, validation, compute, questions=questions)
        tokens = sum(map(len, train)) * params.batch_size * params.gradient_accumulation // len(windows)
        history = fit(model, params, goal, compute, checkpoints, units="tokens", units_a_step=tokens)
        publish("assistant", model, encoding, history, goal.best, REPORT)


if __name__ == "__main__":
    sys.exit(stage_command(finetune_assistant, "finetune_assistant"))
