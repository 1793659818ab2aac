"""`python -m benchmarks.train` tests that a training step is faster and takes less memory than one of `transformers`.

There are two tables: GPT-2 124M on 8 x 256 tokens, and the default model of params.yaml, for which `transformers` has a
GPT-2 of the same layers, heads, width, vocabulary and context. Ours trains by the pipeline's own loop, with the
kernels that a long training has on this kind of processor. All compute in the precision that is fastest here, on the
same random tokens, without dropout, with fused AdamW or our own optimizer, and clip. A process trains until its steps
after a warm-up have taken `--seconds`; its figure is their median.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import LESS, MORE, OURS, Figures, Job, Table, compare, make_parser, peak_memory
from llm.config import GPTConfig, TrainConfig
from llm.device import Compute
from llm.kernels.processor import processor
from llm.kernels.training.choose import choose_backend
from llm.model.gpt import GPT
from llm.objectives.language_model import window_loss
from llm.training.backend import build_training_model
from llm.training.loop import train
from llm.training.objective import Objective

WARMUP = 2
"""Steps of a process that do not count."""
LEAST_STEPS = 3
LONG = 10**12
"""Tokens of a training that is worth whatever makes its steps faster."""
ENDLESS = {"steps": 10**6, "evaluate_every": 10**6, "checkpoint_every": 10**6}
"""The timer ends a training."""
STEP = {"seconds a step": LESS, "tokens a second": MORE, "peak memory, GB": LESS}


@dataclass
class StepTimer:
    """The seconds of the training steps of this process, until there are enough."""

    least_seconds: float
    tokens: int
    """Tokens of a step."""
    seconds: list[float] = field(default_factory=list)

    def is_enough(self) -> bool:
        """Whether enough steps were measured."""
        counted = self.seconds[WARMUP:]
        return len(counted) >= LEAST_STEPS and sum(counted) >= self.least_seconds

    def figures(self) -> Figures:
        """The figures of STEP."""
        seconds = statistics.median(self.seconds[WARMUP:])
        return dict(zip(STEP, (seconds, self.tokens / seconds, peak_memory()), strict=True))


def time_ours(
    model: GPT, config: TrainConfig, loss: Callable[[Any, int, Compute], Tensor], *, timer: StepTimer, lora: bool
) -> None:
    """Train by the pipeline's own loop until the timer has enough. Raises RuntimeError where the compiler fails."""
    compute = Compute(torch.device("cpu"), processor().dtype, "as the benchmark asks")
    compute = choose_backend(compute, model.config, LONG, from_scratch=not lora, lora=lora, packed=lora)

    def loss_of_batch(training_model: nn.Module, number: int) -> Tensor:
        return loss(training_model, number, compute)

    goal = Objective(loss_of_batch, evaluate=lambda: {"unused": 0.0}, best="unused")
    training_model, used = build_training_model(model, goal, compute)
    if used != compute:
        raise RuntimeError(used.backend_reason)
    with suppress(InterruptedError):
        train(
            model,
            config,
            goal,
            training_model=training_model,
            report=lambda row, seconds: timer.seconds.append(seconds),
            stop=timer.is_enough,
            muon_update=used.backend.muon_update,
        )


def time_theirs(model: nn.Module, loss: Callable[[int], Tensor], *, config: TrainConfig, timer: StepTimer) -> None:
    """Train another library's model until the timer has enough: the usual loop."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    decay = config.weight_decay
    optimizer = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=decay, fused=True)
    model.train()
    for number in itertools.count():
        if timer.is_enough():
            return
        started = time.perf_counter()
        optimizer.zero_grad()
        loss(number).backward()
        nn.utils.clip_grad_norm_(weights, config.gradient_clip)
        optimizer.step()
        timer.seconds.append(time.perf_counter() - started)


def batch(number: int, *, rows: int, shape: GPTConfig) -> tuple[Tensor, Tensor]:
    """Inputs and targets, int64 BT, of random tokens."""
    generator = torch.Generator().manual_seed(number)
    tokens_BT = torch.randint(shape.vocabulary_size, (rows, shape.context_length + 1), generator=generator)
    return tokens_BT[:, :-1], tokens_BT[:, 1:]


def ours(*, shape: dict[str, Any], recipe: dict[str, Any], seconds: float) -> Figures:
    """Steps of our GPT."""
    config, gpt = TrainConfig(**recipe), GPTConfig(**shape)
    timer = StepTimer(seconds, config.batch_size * config.gradient_accumulation * gpt.context_length)

    def loss(model: GPT, number: int, compute: Compute) -> Tensor:
        inputs_BT, targets_BT = batch(number, rows=config.batch_size, shape=gpt)
        with compute.autocast():
            return window_loss(model, inputs_BT, targets_BT, cross_entropy=model.backend.cross_entropy)

    torch.manual_seed(config.seed)
    time_ours(GPT(gpt), config, loss, timer=timer, lora=False)
    return timer.figures()


def theirs(*, shape: dict[str, Any], recipe: dict[str, Any], seconds: float, compiled: bool) -> Figures:
    """Steps of the GPT-2 of `transformers` of the same size, with the mean cross-entropy over all logits at once."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config, gpt = TrainConfig(**recipe), GPTConfig(**shape)
    rows = config.batch_size * config.gradient_accumulation
    timer = StepTimer(seconds, rows * gpt.context_length)
    torch.manual_seed(config.seed)
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    sizes = {"n_layer": gpt.n_layer, "n_head": gpt.n_head, "n_embd": gpt.n_embd, "n_positions": gpt.context_length}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=gpt.vocabulary_size, use_cache=False, **sizes, **dropout, **ends))
    run = torch.compile(model) if compiled else model
    dtype = processor().dtype

    def loss(number: int) -> Tensor:
        inputs_BT, targets_BT = batch(number, rows=rows, shape=gpt)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits_BTV = run(inputs_BT).logits
            return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())

    time_theirs(model, loss, config=config, timer=timer)
    return timer.figures()


def step_table(title: str, shape: GPTConfig, recipe: TrainConfig, *, seconds: float) -> Table:
    """Ours and both forms of theirs."""
    arguments = {"shape": shape.model_dump(), "recipe": recipe.model_dump(), "seconds": seconds}
    jobs = {OURS: Job("train.ours", arguments)}
    jobs["transformers"] = Job("train.theirs", arguments | {"compiled": False})
    jobs["transformers, compiled"] = Job("train.theirs", arguments | {"compiled": True})
    return Table(title, STEP, jobs)


def main(arguments: list[str] | None = None) -> int:
    """Compare, print, write."""
    from tasks.params import load_dataset, load_training
    from tasks.stages.names import FOUNDATION, PARAMS_FILE

    parser = make_parser("train", __doc__, seconds=10)
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="the file with the default model")
    options = parser.parse_args(arguments)
    gpt2 = GPTConfig(context_length=256, n_layer=12, n_head=12, n_embd=768, vocabulary_size=50257)
    plain = TrainConfig(batch_size=8, learning_rate=4e-4, weight_decay=0.1, **ENDLESS)
    foundation = load_training(FOUNDATION, options.params)
    default = foundation.train.gpt(load_dataset(foundation.dataset, options.params).preprocess.vocabulary_size)
    recipe = {name: getattr(foundation.train, name) for name in TrainConfig.model_fields}
    tables = [step_table("GPT-2 124M", gpt2, plain, seconds=options.seconds)]
    tables.append(step_table("default model", default, TrainConfig(**recipe | ENDLESS), seconds=options.seconds))
    return compare(parser, options, tables)


if __name__ == "__main__":
    sys.exit(main())
