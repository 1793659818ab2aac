"""Who competes in training, and how: each contender in a process of its own, so that memory and threads are its own.

A process starts in this project's environment or in that of its peers (benchmarks/requirements*.txt), so only
torch and the modules of llm/ that need nothing else are imported at the top.
"""

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm.errors import UserError
from llm.kernels.processor import has_fast_bfloat16

ROOT = Path(__file__).parents[1]
NANOGPT = "NANOGPT"
PEERS = ("llms-from-scratch", "litgpt")  # packages of the other environment
MAKE_PEERS = "python3 -m venv .peers && .peers/bin/pip install -r benchmarks/requirements.txt"
LONG = 10**12  # tokens of a training that is worth whatever makes its steps faster
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TAKEN = "bf16" if has_fast_bfloat16(torch.device("cpu")) else "fp32"
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


class Peer(NamedTuple):
    """Another library's model; `logits` takes what it returns to BTV."""

    model: nn.Module
    logits: Callable[[Any], Tensor] = lambda output: output
    loss: Callable[[Any], Tensor] | None = None
    """Takes what it returns for inputs and targets to the mean cross-entropy, where it computes that itself."""


def llms_from_scratch(shape: Shape, fast: bool = False) -> Peer:
    """The book's GPTModel, or its variant that is built from torch's own layers."""
    from llms_from_scratch.ch04 import GPTModel, GPTModelFast

    config = {"vocab_size": shape.vocabulary_size, "context_length": shape.context_length, "emb_dim": shape.n_embd}
    config |= {"n_heads": shape.n_head, "n_layers": shape.n_layer, "drop_rate": shape.dropout, "qkv_bias": False}
    return Peer((GPTModelFast if fast else GPTModel)(config))


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


def litgpt(shape: Shape) -> Peer:
    """The GPT of `litgpt`, as near to a GPT-2 as it comes: rotary positions, untied output."""
    from litgpt import GPT, Config

    sizes = {name: getattr(shape, name) for name in ("n_layer", "n_head", "n_embd")}
    sizes |= {"vocab_size": shape.vocabulary_size, "padded_vocab_size": shape.vocabulary_size}
    return Peer(GPT(Config(block_size=shape.context_length, parallel_residual=False, attn_bias=True, **sizes)))


def nanogpt(shape: Shape) -> Peer:
    """The GPT of a checkout of nanoGPT, whose folder is in NANOGPT."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", Path(os.environ[NANOGPT], "model.py"))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where its dataclass looks for it
    spec.loader.exec_module(module)
    sizes = {name: getattr(shape, name) for name in ("n_layer", "n_head", "n_embd", "dropout")}
    config = module.GPTConfig(block_size=shape.context_length, vocab_size=shape.vocabulary_size, **sizes)
    return Peer(module.GPT(config), loss=lambda output: output[1])


MODELS: dict[str, Callable[[Shape], Peer]] = {
    "llms-from-scratch": llms_from_scratch,
    "llms-from-scratch fast": lambda shape: llms_from_scratch(shape, fast=True),
    "transformers": transformers_gpt2,
    "litgpt": litgpt,
    "nanoGPT": nanogpt,
}


def needs_peers(model: str) -> bool:
    """Whether it runs in the peers' environment; `transformers` is among this project's own test tools."""
    return model.startswith(PEERS)


def peer_loss(peer: Peer, precision: str, compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """The ordinary loss: mean cross-entropy over all logits at once; or the model's own."""
    run = torch.compile(peer.model) if compiled else peer.model

    def loss(inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            if peer.loss is not None:
                return peer.loss(run(inputs_BT, targets_BT.contiguous()))  # which nanoGPT takes a view of
            logits_BTV = peer.logits(run(inputs_BT))
            return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())

    return loss


def peer_steps(
    peer: Peer,
    loss: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Callable[[int], tuple[Any, ...]],
    *,
    clip: float | None,
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
        if clip is not None:
            nn.utils.clip_grad_norm_(peer.model.parameters(), clip)
        optimizer.step()
        yield time.perf_counter() - started


def book_loss(peer: Peer) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss function of the book's package."""
    from llms_from_scratch.ch05 import calc_loss_batch

    return lambda inputs_BT, targets_BT: calc_loss_batch(inputs_BT, targets_BT, peer.model, torch.device("cpu"))


def our_model(
    config: dict[str, Any], precision: str, batches: Batches, sees: Callable[[int], int | None] = lambda index: None
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
    config: Any,
    loss: Callable[[nn.Module, int], Tensor],
    report: Callable[[float], None],
    stop: Callable,
    *,
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
    from llm.training.loop import Objective, train

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


def peak_memory() -> int:
    """The most bytes of memory that this process has held; 0 where Linux does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def versions(*, packages: list[str]) -> dict[str, str]:
    """The versions of installed packages."""
    return {name: version(name) for name in packages}


def alone(task: str, job: dict[str, Any], threads: int, python: str = sys.executable) -> dict[str, Any]:
    """What `task(**job)` returns in a fresh process of `python`; `{"failed": reason}` where it raises or dies.

    The process ends with this one: left behind, it would slow what is timed next.
    """
    job = {name: asdict(value) if isinstance(value, Shape) else value for name, value in job.items()}
    command = [python, "-m", "benchmarks.contenders", task, json.dumps(job), str(threads)]
    done = subprocess.run(
        [sys.executable, "-m", "tasks.stages.parent_death", *command],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    if done.returncode == 0:
        return json.loads(lines[-1])
    return {"failed": f"exit code {done.returncode}: {(done.stderr.splitlines() or ['no message'])[-1]}"}


def named(names: Sequence[str], contenders: Sequence[Any]) -> list[Any]:
    """The contenders of these names. Raises UserError for a name that none has."""
    known = {str(each): each for each in contenders}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"{unknown[0]!r}: those are {', '.join(map(repr, known))}")
    return [known[name] for name in names]


def peers_python(path: str, packages: Sequence[str] = PEERS, makes: str = MAKE_PEERS) -> str:
    """The absolute path of the peers' Python, for argparse; an error unless it has the packages and this torch."""
    python = str(Path(path).absolute())  # unresolved: a link into a virtual environment leads out of it
    if not Path(python).exists():
        raise argparse.ArgumentTypeError(f"{path}: no such file; make it with: {makes}")
    found = alone("benchmarks.contenders:versions", {"packages": ["torch", *packages]}, 1, python)
    if "failed" in found:
        raise argparse.ArgumentTypeError(f"{path}: {found['failed']}; make it with: {makes}")
    if found["torch"].split("+")[0] != torch.__version__.split("+")[0]:
        raise argparse.ArgumentTypeError(f"{path}: its torch is {found['torch']}, this one {torch.__version__}")
    return python


def main(task: str, job: str, threads: str) -> None:
    """Do one task, print its result as the last line."""
    torch.set_num_threads(int(threads))
    module, function = task.split(":")
    result = getattr(importlib.import_module(module), function)(**json.loads(job))
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
