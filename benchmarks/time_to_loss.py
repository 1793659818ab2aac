"""What a minute buys: `python -m benchmarks.time_to_loss --peers .peers/bin/python`, after `make run`.

Bits per byte on the whole validation split of the default corpus after 60, 120 and 240 seconds of training, without the
evaluations, with the same tokenizer, tokens and batch, and evaluated with the same context:

- ours: the model and the recipe of params.yaml, which begins with a shorter context, a run a budget. `steps`, and with
  it the schedule, is chosen from the time of 20 steps just before, 2 % short of the budget; a run that turns out slower
  is cut at the budget.
- book: llms-from-scratch's loop, float32, dropout 0.1, AdamW at a constant rate, decay 0.1, its own loss function; one
  run evaluated at each budget.
- gpt2: `transformers` GPT-2 in bfloat16 autocast, AdamW (0.9, 0.95), decay 0.1 of matrices, clipping, 5 % warm-up, then
  a cosine to a tenth that ends with the budget, by the clock; a run a budget.

The last two run at three sizes, of which the default model's is the smallest, and at three rates each; their best of
the nine counts. (For gpt2 the longest budget chooses it, and it alone is run at the shorter ones.) That takes hours:
`--only` runs one of the three.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.contenders import (
    DTYPES,
    PEERS,
    PRECISION,
    REQUIREMENTS,
    Batches,
    Peer,
    Shape,
    book_loss,
    llms_from_scratch,
    our_model,
    our_steps,
    peer_loss,
    peer_steps,
    same_size,
    transformers_gpt2,
)
from benchmarks.harness import FAILED, OURS, Figures, Job, Table, finish, make_parser, peers_python, say
from llm.config import TrainConfig
from llm.dataset import BatchSampler, TokenWindows
from llm.formats.tokenizer_json import load_tokenizer
from llm.objectives.language_model import context_at
from llm.training.loss import bits_per_byte
from tasks.applications.foundation.train import SCRATCH, Train
from tasks.params.load import load_application
from tasks.stages.names import FOUNDATION, PARAMS_FILE

DATA = Path("data/processed/corpus")
BITS = "bits per byte"
RATES = {"book": (4e-4, 1e-3, 3e-3), "gpt2": (1e-3, 2e-3, 4e-3)}
SIZES = ((3, 2), (4, 2), (4, 4))  # layers and heads; heads are as wide as ours
PROBE, PARTS = 20, 4  # steps that are timed before a run of ours, after as many that warm up; parts, each by its median
MARGIN = 0.98


@dataclass(frozen=True)
class Run:
    """One training run; `budgets` are the seconds after which it is evaluated, the last one ends it."""

    contender: str
    shape: Shape
    budgets: list[float]
    learning_rate: float | None = None

    def __str__(self) -> str:
        budgets = " and ".join(f"{seconds:g}" for seconds in self.budgets)
        return f"{self.contender}, {self.recipe}, {budgets} s"

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
        config = TrainConfig(**train | {"steps": steps, "evaluate_every": steps, "patience": None})
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
    return {"evaluations": [{"seconds": sum(seconds), "steps": len(seconds), BITS: bits}]}


def cosine(progress: float, warmup: float = 0.05, final: float = 0.1) -> float:
    """The share of the peak rate when a share of the budget is spent."""
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    decayed = min(1.0, (progress - warmup) / (1 - warmup))
    return final + (1 - final) * (1 + math.cos(math.pi * decayed)) / 2


def train_peer(
    *,
    contender: str,
    shape: dict[str, Any],
    learning_rate: float,
    data: str,
    batch_size: int,
    seed: int,
    budgets: list[float],
) -> Figures:
    """Train the book's model or GPT-2 until the last budget is spent."""
    torch.manual_seed(seed)
    size = Shape(**shape)
    draw = batches(data, size.context_length, batch_size=batch_size, seed=seed)
    spent = 0.0
    if contender == "book":
        peer = llms_from_scratch(replace(size, dropout=0.1))
        optimizer = torch.optim.AdamW(peer.model.parameters(), lr=learning_rate, weight_decay=0.1)
        steps = peer_steps(peer, loss=book_loss(peer), optimizer=optimizer, batches=draw, clip=None)
    else:
        peer = transformers_gpt2(size)
        loss = peer_loss(peer, PRECISION, compiled=False)
        optimizer = _gpt2_optimizer(peer, learning_rate)

        def share() -> float:
            return cosine(spent / budgets[-1])

        steps = peer_steps(peer, loss=loss, optimizer=optimizer, batches=draw, clip=1.0, share=share)
    windows = TokenWindows(Path(data), "validation", size.context_length)

    def logits(tokens_BT: Tensor) -> Tensor:
        return peer.logits(peer.model(tokens_BT))

    evaluations: list[Figures] = []
    for number, seconds in enumerate(steps, 1):
        spent += seconds
        while spent >= budgets[len(evaluations)]:
            peer.model.eval()
            bits = validation(logits, windows)
            evaluations.append({"seconds": spent, "steps": number, BITS: bits if math.isfinite(bits) else None})
            if len(evaluations) == len(budgets):
                return {"evaluations": evaluations}
    raise AssertionError("steps never end")


def _gpt2_optimizer(peer: Peer, learning_rate: float) -> torch.optim.Optimizer:
    weights = list(peer.model.parameters())
    groups = [
        {"params": [weight for weight in weights if weight.ndim >= 2], "weight_decay": 0.1},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)


def peer_runs(contender: str, shape: Shape, budgets: list[float]) -> Iterator[Run]:
    """The runs of a peer, of every size and rate."""
    for layers, heads in SIZES:
        width = heads * (shape.n_embd // shape.n_head)
        sized = replace(shape, n_layer=layers, n_head=heads, n_embd=width)
        for rate in RATES[contender]:
            yield Run(contender, sized, budgets, learning_rate=rate)


@dataclass(frozen=True)
class Recipe:
    """What all runs share."""

    params: Train
    vocabulary_size: int
    data: Path
    threads: int
    peers: str | None

    def job(self, run: Run) -> Job:
        """The process of a run."""
        data = str(self.data.absolute())
        if run.contender == OURS:
            train = {name: getattr(self.params, name) for name in TrainConfig.model_fields}
            gpt = self.params.gpt(self.vocabulary_size).model_dump()
            arguments = {"gpt": gpt, "train": train, "first_context_length": self.params.first_context_length}
            arguments |= {"data": data, "budget": run.budgets[0]}
            return Job("benchmarks.time_to_loss:train_ours", arguments, self.threads)
        arguments = {"contender": run.contender, "shape": run.shape, "learning_rate": run.learning_rate}
        arguments |= {"batch_size": self.params.batch_size * self.params.gradient_accumulation, "data": data}
        arguments |= {"seed": self.params.seed, "budgets": run.budgets}
        job = Job("benchmarks.time_to_loss:train_peer", arguments, self.threads)
        return replace(job, python=self.peers) if run.contender == "book" and self.peers else job


@dataclass(frozen=True)
class Outcome:
    """A run at one of its budgets."""

    run: Run
    budget: float
    figures: Figures

    @property
    def bits(self) -> float:
        """Its bits per byte, infinite if it has none."""
        return self.figures.get(BITS) or math.inf


def make(run: Run, recipe: Recipe) -> list[Outcome]:
    """Train once; prints the bits per byte, or why it failed."""
    returned = recipe.job(run).run()
    evaluations = returned.get("evaluations", [{FAILED: returned.get(FAILED)} for _ in run.budgets])
    outcomes = []
    for budget, figures in zip(run.budgets, evaluations, strict=True):
        outcomes.append(Outcome(run, budget, figures | {"recipe": run.recipe}))
    bits = ", ".join(f"{outcome.bits:.3f}" for outcome in outcomes)
    say(f"{run}: {returned.get(FAILED) or bits}")
    return outcomes


def best(outcomes: list[Outcome], budget: float) -> Outcome:
    """The outcome with the fewest bits per byte at a budget."""
    return min((outcome for outcome in outcomes if outcome.budget == budget), key=lambda outcome: outcome.bits)


def outcomes_of(contender: str, shape: Shape, budgets: list[float], *, recipe: Recipe) -> list[Outcome]:
    """All runs of a contender."""
    if contender == OURS:
        runs = [Run(OURS, shape, [budget]) for budget in budgets]
    else:
        runs = list(peer_runs(contender, shape, budgets if contender == "book" else budgets[-1:]))
    outcomes = [outcome for run in runs for outcome in make(run, recipe)]
    if contender == "gpt2":
        chosen = best(outcomes, budgets[-1])
        if math.isfinite(chosen.bits):
            for budget in budgets[:-1]:
                outcomes += make(replace(chosen.run, budgets=[budget]), recipe)
    return outcomes


def main(arguments: list[str] | None = None) -> None:
    """Train, print, write."""
    parser = make_parser("time_to_loss", __doc__)
    parser.add_argument(
        "--peers",
        type=partial(peers_python, packages=PEERS, requirements=REQUIREMENTS),
        help="Python of benchmarks/requirements.txt; `book` needs it",
    )
    contenders = [OURS, "book", "gpt2"]
    parser.add_argument("--only", nargs="+", choices=contenders, default=contenders)
    parser.add_argument("--budgets", nargs="+", type=float, default=[60.0, 120.0, 240.0], help="seconds of training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each run")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="whose foundation is ours")
    parser.add_argument("--data", type=Path, default=DATA, help="a corpus as `threestage preprocess corpus` leaves it")
    options = parser.parse_args(arguments)
    budgets = sorted(options.budgets)
    if budgets[0] <= 0:
        parser.error(f"--budgets {budgets[0]:g}: seconds are more than none")
    if not (options.data / "meta.json").exists():
        parser.error(f"--data {options.data}: no corpus there; `make run` makes one")
    if "book" in options.only and not options.peers:
        parser.error("`book` needs --peers PYTHON, see benchmarks/requirements.txt; or leave it out: --only ours gpt2")
    params = load_application(FOUNDATION, options.params).train
    if params.init_from != SCRATCH:
        parser.error(f"{options.params}: init_from {params.init_from} is trained already; compare {SCRATCH}")

    vocabulary_size = load_tokenizer(options.data / "tokenizer.json").n_vocab
    recipe = Recipe(
        params=params,
        vocabulary_size=vocabulary_size,
        data=options.data,
        threads=options.threads,
        peers=options.peers,
    )
    shape = same_size(params.gpt(vocabulary_size))
    outcomes = {name: outcomes_of(name, shape, budgets, recipe=recipe) for name in options.only}
    tables = []
    for budget in budgets:
        figures = {}
        for name in options.only:
            reached = [outcome for outcome in outcomes[name] if outcome.budget == budget]
            figures[name] = best(reached, budget).figures if reached else {FAILED: "no run came to this budget"}
        tables.append(Table(f"Validation bits per byte after {budget:g} s", BITS, figures, less_is_better=True))
    finish(options, tables, packages=["transformers"])


if __name__ == "__main__":
    main()
