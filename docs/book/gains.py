"""Measure what each change since GPT-2 gains on Moby-Dick, and write gains.csv: `python docs/book/gains.py`.

It needs the novel (`dvc repro fetch@corpus`) and about ten minutes.
"""

import csv
from pathlib import Path

import torch
from torch import Tensor

from llm import from_scratch
from llm.config import GPTConfig, TrainConfig
from llm.model.gpt import GPT
from llm.tokenizer import train_bpe
from llm.training.optim import Optimizers, build_optimizer, schedule

BOOK = Path(__file__).parent
NOVEL = Path("data/raw/corpus/datasets-moby-dick/package/data/data.txt")
LADDER = {
    "GPT-2": {"vocabulary_size": 2048, "context_length": 64, "n_layer": 4, "n_head": 4, "n_embd": 128},
    "RMSNorm": {"norm": "rms"},
    "no biases": {"bias": False},
    "rotary positions": {"positions": "rotary"},
    "SwiGLU": {"mlp": "swiglu", "n_hidden": 344},
    "norms of queries and keys": {"qk_norm": True},
    "grouped queries": {"n_kv_head": 2},
    "output of its own": {"tied": False},
    "rate of its own": {},
    "Muon": {},
}
"""What each step adds to the shape of the one before."""


def optimizer_of(step: str, model: GPT, adamw: TrainConfig) -> Optimizers:
    """One rate for all weights; from `rate of its own` on, tables and vectors have ten times that of the matrices."""
    if step == "Muon":
        rates = {"optimizer": "muon", "learning_rate": 0.01, "muon_learning_rate": 0.01}
        return build_optimizer(model, adamw.model_copy(update=rates))
    if step != "rate of its own":
        return build_optimizer(model, adamw)
    matrices = [weight for weight in model.blocks.parameters() if weight.ndim == 2]
    others = [weight for name, weight in model.named_parameters() if "blocks" not in name or weight.ndim == 1]
    slow = torch.optim.AdamW(matrices, lr=0.001, betas=(0.9, 0.98), weight_decay=0.1)
    fast = torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.98), weight_decay=0.0)
    return Optimizers([slow, fast])


def train(step: str, config: GPTConfig, train_N: Tensor, *, seed: int, steps: int) -> GPT:
    """A model of one step of the ladder; all steps see the same batches."""
    torch.manual_seed(seed)
    model = GPT(config)
    adamw = TrainConfig(steps=steps, batch_size=8, learning_rate=0.001, evaluate_every=steps, checkpoint_every=steps)
    optimizer = optimizer_of(step, model, adamw)
    torch.manual_seed(seed)  # a model with fewer weights draws fewer numbers
    for number in range(steps):
        inputs_BT, targets_BT = from_scratch.draw_batch(train_N, 8, 64)
        from_scratch.cross_entropy(model(inputs_BT), targets_BT).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(schedule(number, adamw))
    return model.eval()


def measure(text: str, path: Path, steps: int = 600) -> None:
    """Climb the ladder with two seeds and write the losses on the whole held-out text, in nats a token."""
    split = len(text) * 9 // 10
    encoding = train_bpe([text[:split]], vocabulary_size=2048)
    train_N, held_out_N = (torch.tensor(encoding.encode_ordinary(part)) for part in (text[:split], text[split:]))
    fields: dict[str, object] = {}
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["step", "seed", "loss"])
        for step, change in LADDER.items():
            fields |= change
            for seed in (0, 1):
                model = train(step, GPTConfig(**fields), train_N, seed=seed, steps=steps)
                loss = from_scratch.evaluate(model, held_out_N, windows=len(held_out_N) // 64)
                rows.writerow([step, seed, f"{loss:.4f}"])
                print(f"{step:26} seed {seed}  {loss:.4f}")


if __name__ == "__main__":
    measure(NOVEL.read_text(encoding="utf-8"), BOOK / "gains.csv")
