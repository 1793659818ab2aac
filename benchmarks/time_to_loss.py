"""What a minute buys: `python -m benchmarks.time_to_loss`, after `make run`.

Bits per byte on the whole validation split of the default corpus after 60, 120 and 240 seconds of training, without the
evaluations, with the same tokenizer, tokens and batch, and evaluated with the same context:

- ours: the model and the recipe of params.yaml, which begins with a shorter context, a run a budget. `steps`, and with
  it the schedule, is chosen from the time of 20 steps just before, 2 % short of the budget; a run that turns out slower
  is cut at the budget.
- gpt2: `transformers` GPT-2 in bfloat16 autocast, AdamW (0.9, 0.95), decay 0.1 of matrices, clipping, 5 % warm-up, then
  a cosine to a tenth that ends with the budget, by the clock; a run a budget.

gpt2 runs at three sizes, of which the default model's is the smallest, and at three rates each; the best of the nine
at the longest budget counts, and it alone is run at the shorter ones. That takes hours: `--only ours` leaves it out.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.contenders import (
    DTYPES,
    PRECISION,
    Batches,
    Peer,
    Shape,
    our_model,
    our_steps,
    peer_loss,
    peer_steps,
    same_size,
    transformers_gpt2,
)
from benchmarks.harness import FAILED, OURS, Figures, Job, Table, finish, make_parser, say
from llm.config import TrainConfig
from llm.dataset import BatchSampler, TokenWindows
from llm.formats.tokenizer_json import load_tokenizer
from llm.objectives.language_model import context_at
from llm.training.loss import bits_per_byte
from tasks.applications.foundation.train import SCRATCH, Train
from tasks.params import load_training
from tasks.stages.names import FOUNDATION, PARAMS_FILE

DATA = Path("data/processed/corpus")
BITS = "bits per byte"
GPT2 = "gpt2"
RATES = (1e-3, 2e-3, 4e-3)
SIZES = ((3, 2), (4, 2), (4, 4))  # layers and heads; heads are as wide as ours
PROBE, PARTS = 20, 4  # steps that are timed before a run of ours, after as many that warm up; parts, each by its median
MARGIN = 0.98


@dataclass(frozen=True)
class Run:
    """One training run of so many seconds."""

    contender: str
    shape: Shape
    budget: float
    learning_rate: float | None = None

    def __str__(self) -> str:
        return f"{self.contender}, {self.recipe}, {self.budget:g} s"

    @property
    def recipe(self) -> str:
        """Its size and its rate."""
        size = f"{self.shape.n_layer} x {self.shape.n_embd}"
        return size if self.learning_rate is None else f"{size}, rate {self.learning_rate:g}"


@torch.no_grad()
def validation(logits: Callable[[Tensor], Tensor], windows: TokenWindows) -> float:
    """Bits per byte in float32 over all windows."""
    total = count = 0
    for rows in windows.evaluation_batches(len(windows), 8):
        inputs_BT, targets_BT = windows.batch(rows)
        total += F.cross_entropy(logits(inputs_BT).flatten(0, 1), targets_BT.flatten(), reduction="sum").item()
        count += targets_BT.numel()
    return bits_per_byte(total / count, 1, windows.bytes_per_token)


def batches(data: str, context_length: int, batch_size: int, seed: int) -> Batches:
    """Shuffled windows of the train split, in the order that pre-training takes them."""
    windows = TokenWindows(Path(data), "train", context_length)
    order = BatchSampler(len(windows), batch_size, seed)
    return lambda number: windows.batch(order[number])


def train_ours(
    *, gpt: dict[str, Any], train: dict[str, Any], first_context_length: int | None, data: str, budget: float
) -> Figures:
    """Train as the pipeline does for `budget` seconds."""
    length = gpt["context_length"]
    draw = batches(data, length, batch_size=train["batch_size"], seed=train["seed"])
    tokens_a_step = train["gradient_accumulation"] * train["batch_size"] * length
    seconds: list[float] = []

    def run(steps: int, stop: Callable[[], bool], tokens: int) -> torch.nn.Module:
        torch.manual_seed(train["seed"])

        def context_of(batch: int) -> int:
            step = batch // train["gradient_accumulation"]
            return context_at(step, steps, first=first_context_length, context_length=length)

        model, loss = our_model(gpt, PRECISION, draw, sees=context_of)
        config = TrainConfig(**train | {"steps": steps, "evaluate_every": steps})
        seconds.clear()
        report = seconds.append
        our_steps(model, config, loss=loss, report=report, stop=stop, tokens=tokens, dtype=DTYPES[PRECISION])
        return model.eval()

    steps = PROBE
    for _ in range(2):  # the first warms up, and says how long a training the second is a part of
        run(PROBE, lambda: False, steps * tokens_a_step)
        parts = np.array_split(seconds, PARTS)  # steps take longer where more tokens see each other: all parts count
        steps = max(1, math.floor(MARGIN * budget / fmean(map(median, parts))))

    def is_spent() -> bool:
        return sum(seconds) >= budget

    model = run(steps, is_spent, steps * tokens_a_step)
    bits = validation(model, TokenWindows(Path(data), "validation", length))
    return {"seconds": sum(seconds), "steps": len(seconds), BITS: bits}


def cosine(progress: float, warmup: float = 0.05, final: float = 0.1) -> float:
    """The share of the peak rate when a share of the budget is spent."""
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    decayed = min(1.0, (progress - warmup) / (1 - warmup))
    return final + (1 - final) * (1 + math.cos(math.pi * decayed)) / 2


def train_peer(
    *,
    shape: dict[str, Any],
    learning_rate: float,
    data: str,
    batch_size: int,
    seed: int,
    budget: float,
) -> Figures:
    """Train GPT-2 of `transformers` until the budget is spent."""
    torch.manual_seed(seed)
    size = Shape(**shape)
    spent = 0.0

    def share() -> float:
        return cosine(spent / budget)

    peer = transformers_gpt2(size)
    steps = peer_steps(
        peer,
        loss=peer_loss(peer, PRECISION, compiled=False),
        optimizer=_gpt2_optimizer(peer, learning_rate),
        batches=batches(data, size.context_length, batch_size=batch_size, seed=seed),
        clip=1.0,
        share=share,
    )
    number = 0
    while spent < budget:
        spent += next(steps)
        number += 1

    def logits(tokens_BT: Tensor) -> Tensor:
        return peer.logits(peer.model(tokens_BT))

    peer.model.eval()
    bits = validation(logits, TokenWindows(Path(data), "validation", size.context_length))
    return {"seconds": spent, "steps": number, BITS: bits if math.isfinite(bits) else None}


def _gpt2_optimizer(peer: Peer, learning_rate: float) -> torch.optim.Optimizer:
    weights = list(peer.model.parameters())
    groups = [
        {"params": [weight for weight in weights if weight.ndim >= 2], "weight_decay": 0.1},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)


def peer_runs(shape: Shape, budget: float) -> Iterator[Run]:
    """The runs of gpt2, of every size and rate."""
    for layers, heads in SIZES:
        width = heads * (shape.n_embd // shape.n_head)
        sized = replace(shape, n_layer=layers, n_head=heads, n_embd=width)
        for rate in RATES:
            yield Run(GPT2, sized, budget, learning_rate=rate)


@dataclass(frozen=True)
class Recipe:
    """What all runs share."""

    params: Train
    vocabulary_size: int
    data: Path
    threads: int

    def job(self, run: Run) -> Job:
        """The process of a run."""
        arguments = {"data": str(self.data.absolute()), "budget": run.budget}
        if run.contender == OURS:
            arguments |= {"train": {name: getattr(self.params, name) for name in TrainConfig.model_fields}}
            arguments |= {"gpt": self.params.gpt(self.vocabulary_size).model_dump()}
            arguments |= {"first_context_length": self.params.first_context_length}
            return Job("benchmarks.time_to_loss:train_ours", arguments, self.threads)
        arguments |= {"shape": run.shape, "learning_rate": run.learning_rate, "seed": self.params.seed}
        arguments |= {"batch_size": self.params.batch_size * self.params.gradient_accumulation}
        return Job("benchmarks.time_to_loss:train_peer", arguments, self.threads)


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    run: Run
    figures: Figures

    @property
    def bits(self) -> float:
        """Its bits per byte, infinite if it has none."""
        return self.figures.get(BITS) or math.inf


def make(run: Run, recipe: Recipe) -> Outcome:
    """Train once; prints the bits per byte, or why it failed."""
    figures = recipe.job(run).run()
    outcome = Outcome(run, figures | {"recipe": run.recipe})
    say(f"{run}: {figures.get(FAILED) or f'{outcome.bits:.3f}'}")
    return outcome


def best_by_budget(contender: str, shape: Shape, budgets: list[float], *, recipe: Recipe) -> dict[float, Outcome]:
    """The best outcome of a contender at each budget, the last of which chooses size and rate of gpt2."""
    if contender == OURS:
        return {budget: make(Run(OURS, shape, budget), recipe) for budget in budgets}
    *shorter, longest = budgets
    outcomes = [make(run, recipe) for run in peer_runs(shape, longest)]
    chosen = min(outcomes, key=lambda outcome: outcome.bits)
    by_budget = {budget: make(replace(chosen.run, budget=budget), recipe) for budget in shorter}
    return by_budget | {longest: chosen}


def main(arguments: list[str] | None = None) -> None:
    """Train, print, write."""
    parser = make_parser("time_to_loss", __doc__)
    contenders = [OURS, GPT2]
    parser.add_argument("--only", nargs="+", choices=contenders, default=contenders)
    parser.add_argument("--budgets", nargs="+", type=float, default=[60.0, 120.0, 240.0], help="seconds of training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each run")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="whose foundation is ours")
    parser.add_argument("--data", type=Path, default=DATA, help="a corpus as `dvc repro preprocess@corpus` leaves it")
    options = parser.parse_args(arguments)
    budgets = sorted(options.budgets)
    if budgets[0] <= 0:
        parser.error(f"--budgets {budgets[0]:g}: seconds are more than none")
    if not (options.data / "meta.json").exists():
        parser.error(f"--data {options.data}: no corpus there; `make run` makes one")
    params = load_training(FOUNDATION, options.params).train
    if params.init_from != SCRATCH:
        parser.error(f"{options.params}: init_from {params.init_from} is trained already; compare {SCRATCH}")

    vocabulary_size = load_tokenizer(options.data / "tokenizer.json").n_vocab
    recipe = Recipe(
        params=params,
        vocabulary_size=vocabulary_size,
        data=options.data,
        threads=options.threads,
    )
    shape = same_size(params.gpt(vocabulary_size))
    outcomes = {name: best_by_budget(name, shape, budgets, recipe=recipe) for name in options.only}
    tables = []
    for budget in budgets:
        figures = {name: outcomes[name][budget].figures for name in options.only}
        tables.append(Table(f"Validation bits per byte after {budget:g} s", BITS, figures, less_is_better=True))
    finish(options, tables, packages=["transformers"])


if __name__ == "__main__":
    main()
