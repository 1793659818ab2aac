"""The models and loops that compete in training, ours and those of other libraries.

A contender runs in a process of its own, whose memory is measured: only torch is imported at the top.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import FAILED, Figures, peak_memory
from llm.kernels.processor import has_fast_bfloat16

if TYPE_CHECKING:
    from llm.config import TrainConfig

LONG = 10**12  # tokens of a training that is worth whatever makes its steps faster
ENDLESS = {"steps": 10**6, "evaluate_every": 10**6, "checkpoint_every": 10**6}  # the clock ends a run
LEAST_STEPS = 3  # a process measures at least so many
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISION = "bf16" if has_fast_bfloat16(torch.device("cpu")) else "fp32"
"""The precision in which the pipeline trains on this CPU."""
Batches = Callable[[int], tuple[Tensor, Tensor]]
"""Inputs and targets, int64 BT, of batch number i."""


@dataclass(frozen=True)
class Shape:
    """A GPT-2, as each library can build one; the words are those of llm/config.py."""

    vocabulary_size: int
    context_length: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0


def same_size(config: Any) -> Shape:
    """The GPT-2 of the layers, heads, width, vocabulary and context of a GPTConfig."""
    sizes = ("vocabulary_size", "context_length", "n_layer", "n_head", "n_embd")
    return Shape(**{name: getattr(config, name) for name in sizes})


@dataclass
class StepTimer:
    """The seconds of each training step in this process, until there are enough."""

    warmup: int
    """The first steps, which do not count."""
    least_seconds: float
    """The counted steps take at least so long."""
    seconds: list[float] = field(default_factory=list)

    def is_enough(self) -> bool:
        """Whether enough steps were measured."""
        counted = self.seconds[self.warmup :]
        return len(counted) >= LEAST_STEPS and sum(counted) >= self.least_seconds

    def run(self, steps: Iterator[float]) -> None:
        """Take steps until there are enough."""
        for seconds in steps:
            self.seconds.append(seconds)
            if self.is_enough():
                return

    def figures(self) -> Figures:
        """What this process measured."""
        seconds = self.seconds[self.warmup :]
        status = f"{statistics.median(seconds):.3g} s a step"
        return {"seconds": seconds, "peak_memory": peak_memory(), "status": status}


def step_figures(rounds: list[Figures], tokens: int) -> Figures:
    """The figures of a contender from those of its processes; `tokens` are those of a step."""
    if FAILED in rounds[-1]:
        return rounds[-1]
    seconds = statistics.median(seconds for figures in rounds for seconds in figures["seconds"])
    memory = max(figures["peak_memory"] for figures in rounds)
    return {"seconds a step": seconds, "tokens/s": tokens / seconds, "peak GB": memory / 1e9}


@dataclass(frozen=True)
class Peer:
    """Another library's model."""

    model: nn.Module
    logits: Callable[[Any], Tensor] = lambda output: output
    """Takes what the model returns to logits BTV."""


def transformers_gpt2(shape: Shape) -> Peer:
    """GPT2LMHeadModel with the attention that `transformers` chooses."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=shape.vocabulary_size,
        n_positions=shape.context_length,
        **{name: getattr(shape, name) for name in ("n_layer", "n_head", "n_embd")},
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), shape.dropout),
        **dict.fromkeys(("bos_token_id", "eos_token_id"), 0),
        use_cache=False,
    )
    return Peer(GPT2LMHeadModel(config), lambda output: output.logits)


def peer_loss(peer: Peer, precision: str, *, compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """The ordinary loss: mean cross-entropy over all logits at once."""
    run = torch.compile(peer.model) if compiled else peer.model

    def loss(inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits_BTV = peer.logits(run(inputs_BT))
            return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())

    return loss


def peer_steps(
    peer: Peer,
    *,
    loss: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Callable[[int], tuple[Any, ...]],
    clip: float,
    share: Callable[[], float] = lambda: 1.0,
) -> Iterator[float]:
    """Train without end, yielding the seconds of each step; `share` of the peak rate is asked before each."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    for number in itertools.count():
        started = time.perf_counter()
        peer.model.train()
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * share()
        optimizer.zero_grad()
        loss(*batches(number)).backward()
        nn.utils.clip_grad_norm_(peer.model.parameters(), clip)
        optimizer.step()
        yield time.perf_counter() - started


def our_model(
    config: dict[str, Any], precision: str, batches: Batches, *, sees: Callable[[int], int | None] = lambda index: None
) -> tuple[nn.Module, Callable[[nn.Module, int], Tensor]]:
    """This project's GPT and its loss of batch number i; `sees` says how many of its tokens see each other, or all."""
    from llm.config import GPTConfig
    from llm.device import Compute
    from llm.model.gpt import GPT
    from llm.objectives.language_model import window_loss

    model = GPT(GPTConfig(**config))
    compute = Compute(torch.device("cpu"), DTYPES[precision], "as the benchmark asks")

    def loss(model: GPT, index: int) -> Tensor:
        with compute.autocast():
            return window_loss(model, *batches(index), length=sees(index), cross_entropy=model.backend.cross_entropy)

    return model, loss


def our_steps(
    model: nn.Module,
    config: TrainConfig,
    *,
    loss: Callable[[nn.Module, int], Tensor],
    report: Callable[[float], None],
    stop: Callable[[], bool],
    tokens: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> Any:
    """Train with the pipeline's own loop until `stop` or the end; `report` gets the seconds of each step.

    Returns the backend.

    Blocks are compiled, and in bfloat16 much is computed in C, where a training of so many `tokens` does so.
    Raises RuntimeError where the compiler fails.
    """
    from llm.device import Compute
    from llm.kernels.training.choose import choose_backend
    from llm.model.lora import LoRALinear
    from llm.training.backend import build_training_model
    from llm.training.loop import train
    from llm.training.objective import Objective

    goal = Objective(loss, evaluate=lambda: {"unused": 0.0}, best="unused")
    compute = Compute(torch.device("cpu"), dtype, "as the benchmark asks")
    if tokens:
        lora = any(isinstance(module, LoRALinear) for module in model.modules())
        compute = choose_backend(compute, model.config, tokens, from_scratch=not lora, lora=lora)
    training_model, used = build_training_model(model, goal, compute)
    if used != compute:
        raise RuntimeError(used.backend_reason)
    with suppress(InterruptedError):
        train(
            model,
            config,
            goal,
            training_model=training_model,
            report=lambda row, seconds: report(seconds),
            stop=stop,
            muon_update=used.backend.muon_update,
        )
    return used.backend


def matmul_weights(model: nn.Module) -> int:
    """Weights that every token is multiplied with: all matrices but lookup tables; a tied output counts."""
    matrices = {
        id(weight): weight.numel()
        for module in model.modules()
        if not isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=False)
        if weight.ndim == 2
    }
    if getattr(model, "output", model) is None:  # our tied output layer has no module of its own
        matrices[0] = model.output_weight.numel()
    return sum(matrices.values())
