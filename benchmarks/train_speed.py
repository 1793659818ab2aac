"""How fast a CPU trains: `python -m benchmarks.train_speed`.

Training steps on random tokens. Each contender runs in fresh processes that take turns; figures are medians over all
steps of all rounds. This project's loop competes with `transformers`: in float32, in bfloat16 autocast, and in that
with torch.compile. A processor without bfloat16 runs float32 alone.

There are two set-ups: GPT-2 124M, and the default model of params.yaml, for which `transformers` gets a GPT-2 of the
same layers, heads, width, vocabulary and context. All train without dropout, with fused AdamW, and clip.

Utilisation is the arithmetic that a step needs, 6 * weights in matrix products * tokens and causal attention, divided
by the time and by the speed of this machine's matrix products of 2048 x 2048 in the same run.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders import (
    DTYPES,
    ENDLESS,
    LONG,
    PRECISION,
    Batches,
    Shape,
    StepTimer,
    matmul_weights,
    our_model,
    our_steps,
    peer_loss,
    peer_steps,
    same_size,
    step_figures,
    transformers_gpt2,
)
from benchmarks.harness import (
    FAILED,
    OURS,
    Figures,
    Job,
    Table,
    choose,
    finish,
    make_parser,
    run_in_turns,
)
from llm.config import GPTConfig, TrainConfig
from tasks.applications.foundation.train import Train
from tasks.params import load_dataset, load_training
from tasks.stages.names import FOUNDATION, PARAMS_FILE


@dataclass(frozen=True)
class Contender:
    """Our model, or that of `transformers`."""

    model: str
    precision: str
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.model} {self.precision}{' + compile' if self.compiled else ''}"


PRECISIONS = list(dict.fromkeys(("fp32", PRECISION)))  # without bfloat16 a step would take minutes in it
MODELS = (OURS, "transformers")
CONTENDERS = [Contender(model, precision) for model in MODELS for precision in PRECISIONS]
CONTENDERS += [Contender(model, PRECISION, compiled=True) for model in MODELS]  # ours as in long trainings


@dataclass(frozen=True)
class SetUp:
    """What all contenders train: ours, and a GPT-2 of the same size."""

    ours: GPTConfig
    shape: Shape
    train: TrainConfig

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.train.batch_size * self.train.gradient_accumulation * self.shape.context_length


def set_ups(params: Train, vocabulary_size: int) -> dict[str, SetUp]:
    """GPT-2 124M on 8 x 256 tokens, and the project's default."""
    gpt2 = GPTConfig(context_length=256, n_layer=12, n_head=12, n_embd=768, vocabulary_size=50257)
    plain = TrainConfig(seed=1, batch_size=8, learning_rate=4e-4, weight_decay=0.1, **ENDLESS)
    default = params.gpt(vocabulary_size)
    train = {name: getattr(params, name) for name in TrainConfig.model_fields} | ENDLESS
    return {
        "GPT-2 124M": SetUp(gpt2, same_size(gpt2), plain),
        "default": SetUp(default, same_size(default), TrainConfig(**train)),
    }


def measure(
    *,
    contender: dict[str, Any],
    ours: dict[str, Any],
    shape: dict[str, Any],
    train: dict[str, Any],
    timer: dict[str, Any],
) -> Figures:
    """Train in this process until the timer has enough steps."""
    contestant, step_timer = Contender(**contender), StepTimer(**timer)
    is_ours = contestant.model == OURS
    rows = train["batch_size"] * (1 if is_ours else train["gradient_accumulation"])
    torch.manual_seed(1)

    def batches(number: int) -> tuple[Tensor, Tensor]:
        size = (rows, shape["context_length"] + 1)
        generator = torch.Generator().manual_seed(number)
        tokens = torch.randint(shape["vocabulary_size"], size, generator=generator)
        return tokens[:, :-1], tokens[:, 1:]

    in_int8 = None
    if is_ours:
        network, loss = our_model(ours, contestant.precision, batches)
        backend = our_steps(
            network,
            TrainConfig(**train),
            loss=loss,
            report=step_timer.seconds.append,
            stop=step_timer.is_enough,
            tokens=LONG if contestant.compiled else 0,
            dtype=DTYPES[contestant.precision],
        )
        in_int8 = backend.in_int8
    else:
        network = _train_peer(contestant, shape, train, batches=batches, timer=step_timer)
    return step_timer.figures() | {"matmul_weights": matmul_weights(network), "in_int8": in_int8}


def _train_peer(
    contender: Contender, shape: dict[str, Any], train: dict[str, Any], *, batches: Batches, timer: StepTimer
) -> torch.nn.Module:
    peer = transformers_gpt2(Shape(**shape))
    rates = {"lr": train["learning_rate"], "weight_decay": train["weight_decay"]}
    optimizer = torch.optim.AdamW(peer.model.parameters(), **rates, fused=True)
    loss = peer_loss(peer, contender.precision, compiled=contender.compiled)
    timer.run(peer_steps(peer, loss=loss, optimizer=optimizer, batches=batches, clip=train["gradient_clip"]))
    return peer.model


def products(*, size: int, repeats: int) -> Figures:
    """Floating-point operations a second of a product of two square matrices, the median, in each precision."""
    speeds = {}
    for precision in PRECISIONS:
        left, right = torch.randn(2, size, size).to(DTYPES[precision])
        seconds = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            left @ right
            seconds.append(time.perf_counter() - start)
        speeds[precision] = 2 * size**3 / statistics.median(seconds[1:])
    status = ", ".join(f"{precision} {speed / 1e9:,.0f} GFLOP/s" for precision, speed in speeds.items())
    return {"speeds": speeds, "status": status}


def operations(weights: int, shape: Shape, tokens: int) -> int:
    """Floating-point operations that a training step needs, forward and twice that backward.

    2 a weight and token, and in attention 2 for the score and 2 for the sum of a pair, of which causality leaves half.
    """
    attention = shape.n_layer * shape.n_embd * shape.context_length * 2
    return 3 * tokens * (2 * weights + attention)


@dataclass(frozen=True)
class Options:
    """How long each contender is measured, and where."""

    rounds: int
    timer: StepTimer
    threads: int


def compare(name: str, setup: SetUp, contenders: list[Contender], *, options: Options) -> Table:
    """The table of a set-up."""
    jobs = {"products": Job("benchmarks.train_speed:products", {"size": 2048, "repeats": 9}, options.threads)}
    for contender in contenders:
        arguments = {"contender": contender, "ours": setup.ours.model_dump(), "shape": setup.shape}
        arguments |= {"train": setup.train.model_dump(), "timer": options.timer}
        jobs[str(contender)] = Job("benchmarks.train_speed:measure", arguments, options.threads)
    measured = run_in_turns(jobs, options.rounds)
    peaks = {}
    for precision in PRECISIONS:
        peaks[precision] = statistics.median(figures["speeds"][precision] for figures in measured["products"])
    figures = {str(contender): _figures(measured[str(contender)], setup, peaks) for contender in contenders}
    speeds = ", ".join(f"{precision} {peak / 1e9:,.0f} GFLOP/s" for precision, peak in peaks.items())
    title = f"{name}: {setup.tokens:,} tokens a step; matrix products: {speeds}"
    return Table(title, "seconds a step", figures, less_is_better=True)


def _figures(rounds: list[Figures], setup: SetUp, peaks: dict[str, float]) -> Figures:
    figures = step_figures(rounds, setup.tokens)
    if FAILED in figures:
        return figures
    weights = rounds[0]["matmul_weights"]
    speed = operations(weights, setup.shape, setup.tokens) / figures["seconds a step"]
    for precision, peak in peaks.items():
        figures[f"of {precision} peak"] = speed / peak
    return figures | {"matmul weights": weights, "in 8 bits": rounds[0]["in_int8"]}


def main(arguments: list[str] | None = None) -> None:
    """Compare, print, write."""
    parser = make_parser("train_speed", __doc__, rounds=3)
    parser.add_argument("--only", nargs="+", metavar="CONTENDER", help="of those in the table")
    parser.add_argument("--seconds", type=float, default=10, help="a process trains so long after its warm-up")
    parser.add_argument("--warmup", type=int, default=2, help="steps of a process that do not count")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each process")
    parser.add_argument("--set-ups", nargs="+", choices=("GPT-2 124M", "default"), default=["GPT-2 124M", "default"])
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="whose foundation is the default model")
    options = parser.parse_args(arguments)
    contenders = {str(contender): contender for contender in CONTENDERS}
    names = choose(parser, options.only, contenders)

    foundation = load_training(FOUNDATION, options.params)
    corpus = load_dataset(foundation.dataset, options.params).preprocess
    chosen_set_ups = set_ups(foundation.train, corpus.vocabulary_size)
    timer = StepTimer(options.warmup, options.seconds)
    how = Options(options.rounds, timer=timer, threads=options.threads)
    chosen = [contenders[name] for name in names]
    tables = [compare(name, chosen_set_ups[name], chosen, options=how) for name in options.set_ups]
    finish(options, tables, packages=["transformers"])


if __name__ == "__main__":
    main()
