"""How fast a CPU trains: `python -m benchmarks.train_speed --peers .peers/bin/python`.

Training steps on random tokens, each contender in fresh processes that take turns, medians over all steps of all
rounds: this project's loop against llms-from-scratch, transformers, litgpt and, where a checkout is given, nanoGPT, in
float32, in bfloat16 autocast, and in that with torch.compile; in float32 alone where the processor has no bfloat16.
Two set-ups: GPT-2 124M, and the default model of params.yaml, for which the others get a GPT-2 of the same layers,
heads, width, vocabulary and context. "as published" is the book's own loop: float32, dropout 0.1, plain AdamW, no
clipping; all others train without dropout, with fused AdamW, and clip. Ours, compiled, multiplies in 8 bits where a
long training does, with VNNI and without AMX: in all blocks of GPT-2 124M.

Utilisation is what the maths needs, 6 * weights in matrix products * tokens and causal attention, over the time and
over what this machine's matrix products of 2048 x 2048 reach in the same run.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import report
from benchmarks.contenders import (
    DTYPES,
    LONG,
    MODELS,
    NANOGPT,
    TAKEN,
    Shape,
    alone,
    book_loss,
    matmul_weights,
    named,
    needs_peers,
    our_model,
    our_steps,
    peak_memory,
    peer_loss,
    peer_steps,
    peers_python,
    same_size,
)
from llm.config import GPTConfig, TrainConfig
from llm.errors import UserError
from tasks.applications.foundation.train import Train
from tasks.params.load import load_application, load_dataset
from tasks.stages.names import FOUNDATION, PARAMS_FILE

LEAST_STEPS = 3  # a round


class Contender(NamedTuple):
    """A model of ours or of MODELS; `mode` is eager, compiled or published."""

    model: str
    precision: str
    mode: str = "eager"

    def __str__(self) -> str:
        how = {"eager": "", "compiled": " + compile", "published": ", as published"}[self.mode]
        return f"{self.model} {self.precision}{how}"


PRECISIONS = [*dict.fromkeys(("fp32", TAKEN))]  # bfloat16 takes minutes a step where the processor has none
WAYS = [*((precision, "eager") for precision in PRECISIONS), (TAKEN, "compiled")]
OURS = [Contender("ours", *way) for way in WAYS]  # the last as the pipeline's long trainings
OTHERS = [
    Contender("llms-from-scratch", "fp32", "published"),
    *(Contender(model, precision, mode) for model in MODELS for precision, mode in WAYS),
]


class SetUp(NamedTuple):
    """What all train: ours, and the same size as a GPT-2."""

    ours: GPTConfig
    shape: Shape
    train: TrainConfig

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.train.batch_size * self.train.gradient_accumulation * self.shape.context_length


def set_ups(params: Train, vocabulary_size: int) -> dict[str, SetUp]:
    """GPT-2 124M on 8 x 256 tokens, and the project's default."""
    ever = {"steps": 10**6, "evaluate_every": 10**6, "checkpoint_every": 10**6}  # the clock ends a run
    gpt2 = GPTConfig(context_length=256, n_layer=12, n_head=12, n_embd=768, vocabulary_size=50257)
    plain = TrainConfig(seed=1, batch_size=8, learning_rate=4e-4, weight_decay=0.1, **ever)
    default = params.gpt(vocabulary_size)
    train = {name: getattr(params, name) for name in TrainConfig.model_fields} | ever
    return {
        "GPT-2 124M": SetUp(gpt2, same_size(gpt2), plain),
        "default": SetUp(default, same_size(default), TrainConfig(**train)),
    }


def measure(*, contender: list, ours: dict, shape: dict, train: dict, warmup: int, seconds: float) -> dict[str, Any]:
    """Seconds of each step, for at least `seconds` after `warmup` steps, in this process."""
    model, precision, mode = contender
    rows = train["batch_size"] * (1 if model == "ours" else train["gradient_accumulation"])
    torch.manual_seed(1)
    taken: list[float] = []
    in_int8 = None

    def enough() -> bool:
        return len(taken) >= warmup + LEAST_STEPS and sum(taken[warmup:]) >= seconds

    def batches(number: int) -> tuple[Tensor, Tensor]:
        size = (rows, shape["context_length"] + 1)
        tokens = torch.randint(shape["vocabulary_size"], size, generator=torch.Generator().manual_seed(number))
        return tokens[:, :-1], tokens[:, 1:]

    if model == "ours":
        network, loss = our_model(ours, precision, batches)
        how = {"tokens": LONG if mode == "compiled" else 0, "dtype": DTYPES[precision]}
        backend = our_steps(network, TrainConfig(**train), loss, taken.append, enough, **how)
        in_int8 = "products" if backend.in_int8 else None
    else:
        published = mode == "published"
        peer = MODELS[model](Shape(**shape | {"dropout": 0.1 if published else 0.0}))
        network = peer.model
        rates = {"lr": train["learning_rate"], "weight_decay": train["weight_decay"]}
        optimizer = torch.optim.AdamW(network.parameters(), **rates, fused=None if published else True)
        loss = book_loss(peer) if published else peer_loss(peer, precision, compiled=mode == "compiled")
        clip = None if published else train["gradient_clip"]
        for step_seconds in peer_steps(peer, loss, optimizer, batches, clip=clip):
            taken.append(step_seconds)
            if enough():
                break
    return {
        "step_seconds": taken[warmup:],
        "matmul_weights": matmul_weights(network),
        "peak_memory": peak_memory(),
        "in_int8": in_int8,
    }


def ceilings(*, size: int, repeats: int) -> dict[str, float]:
    """Floating-point operations a second of a product of two square matrices, the median, in each precision."""
    found = {}
    for precision in PRECISIONS:
        left, right = torch.randn(2, size, size).to(DTYPES[precision])
        taken = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            left @ right
            taken.append(time.perf_counter() - started)
        found[precision] = 2 * size**3 / statistics.median(taken[1:])
    return found


def operations(weights: int, shape: Shape, tokens: int) -> int:
    """Floating-point operations that a training step needs, forward and twice that backward.

    2 a weight and token, and in attention 2 for the score and 2 for the sum of a pair, of which causality leaves half.
    """
    attention = shape.n_layer * shape.n_embd * shape.context_length * 2
    return 3 * tokens * (2 * weights + attention)


def summary(rounds: list[dict[str, Any]], setup: SetUp, peaks: dict[str, float]) -> dict[str, Any]:
    """What a contender's rounds come to."""
    if failed := [found for found in rounds if "failed" in found]:
        return failed[0]
    seconds = [value for found in rounds for value in found["step_seconds"]]
    middle, weights = statistics.median(seconds), rounds[0]["matmul_weights"]
    needed = operations(weights, setup.shape, setup.tokens) / middle
    return {
        "seconds_a_step": middle,
        "steps": len(seconds),
        "tokens_per_second": setup.tokens / middle,
        "matmul_weights": weights,
        "in_int8": rounds[0]["in_int8"],
        "utilisation": {precision: needed / peak for precision, peak in peaks.items()},
        "peak_memory_bytes": max(found["peak_memory"] for found in rounds),
    }


def compare(setup: SetUp, contenders: list[Contender], options: argparse.Namespace) -> dict[str, Any]:
    """Let the contenders take turns; one that failed does not start again."""
    job = {"ours": setup.ours.model_dump(), "shape": setup.shape, "train": setup.train.model_dump()}
    job |= {"warmup": options.warmup, "seconds": options.seconds}
    found: dict[Contender, list[dict[str, Any]]] = {contender: [] for contender in contenders}
    products = []
    for number in range(1, options.rounds + 1):
        products.append(alone("benchmarks.train_speed:ceilings", {"size": 2048, "repeats": 9}, options.threads))
        for contender, rounds in found.items():
            if any("failed" in each for each in rounds):
                continue
            python = options.peers if needs_peers(contender.model) else sys.executable
            rounds.append(
                alone("benchmarks.train_speed:measure", {"contender": contender, **job}, options.threads, python)
            )
            last = rounds[-1]
            status = last.get("failed") or f"{statistics.median(last['step_seconds']):.3g} s a step"
            sys.stdout.write(f"round {number} of {options.rounds}, {contender}: {status}\n")
            sys.stdout.flush()
    peaks = {precision: statistics.median(each[precision] for each in products) for precision in PRECISIONS}
    results = {str(contender): summary(rounds, setup, peaks) for contender, rounds in found.items()}
    ours = results.get(str(OURS[-1]), {"failed": "nobody asked for it"})
    if "failed" not in ours:
        for each in results.values():
            if "failed" not in each:
                each["ours_is_faster_by"] = each["seconds_a_step"] / ours["seconds_a_step"]
    return {
        "ours": setup.ours.model_dump(),
        "train": setup.train.model_dump(),
        "tokens_a_step": setup.tokens,
        "ceilings": peaks,
        "contenders": results,
    }


def table(name: str, found: dict[str, Any]) -> None:
    """Print a set-up's results."""
    of_peaks = [f"of {precision} peak" for precision in PRECISIONS]
    columns = ("", "s a step", "tokens/s", "ours, compiled, is", *of_peaks, "peak GB", "")
    rows = []
    for contender, each in found["contenders"].items():
        if "failed" in each:
            rows.append((contender, "failed", *[""] * (len(columns) - 3), each["failed"]))
            continue
        times = f"{each['ours_is_faster_by']:.2f} x" if "ours_is_faster_by" in each else ""
        shares = [f"{each['utilisation'][precision]:.0%}" for precision in PRECISIONS]
        memory, note = each["peak_memory_bytes"] / 1e9, f"{each['in_int8']} in 8 bits" if each["in_int8"] else ""
        rows.append((contender, each["seconds_a_step"], each["tokens_per_second"], times, *shares, memory, note))
    peaks = ", ".join(f"{precision} {value / 1e9:,.0f} GFLOP/s" for precision, value in found["ceilings"].items())
    report.show(f"{name}: {found['tokens_a_step']:,} tokens a step; matrix products: {peaks}", columns, rows)


def main(arguments: list[str] | None = None) -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", type=peers_python, help="Python of benchmarks/requirements.txt; without it, and nanoGPT, ours alone"
    )
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="a checkout of nanoGPT, which then takes part")
    parser.add_argument(
        "--only", nargs="+", metavar="CONTENDER", help="of those in the table; `transformers` needs no --peers"
    )
    parser.add_argument("--rounds", type=int, default=3, help="processes of each contender")
    parser.add_argument("--seconds", type=float, default=10, help="a process trains so long after its warm-up")
    parser.add_argument("--warmup", type=int, default=2, help="steps of a process that do not count")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each process")
    parser.add_argument("--set-ups", nargs="+", choices=("GPT-2 124M", "default"), default=("GPT-2 124M", "default"))
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="whose foundation is the default model")
    parser.add_argument("--out", type=Path, default=report.results("train_speed"), help="where the numbers go")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least one measures something")

    foundation = load_application(FOUNDATION, options.params)
    corpus = load_dataset(foundation.dataset, options.params).preprocess
    there = OURS + [
        each
        for each in OTHERS
        if (options.peers or not needs_peers(each.model)) and (options.nanogpt or each.model != "nanoGPT")
    ]
    if options.nanogpt:
        if not (options.nanogpt / "model.py").exists():
            parser.error(f"--nanogpt {options.nanogpt}: there is no model.py")
        os.environ[NANOGPT] = str(options.nanogpt.absolute())  # the process of each contender has it from here
    try:
        contenders = named(options.only, there) if options.only else there if options.peers or options.nanogpt else OURS
    except UserError as error:
        parser.error(f"--only {error}")
    chosen = set_ups(foundation.train, corpus.vocabulary_size)
    found = {name: compare(chosen[name], contenders, options) for name in options.set_ups}
    for name, each in found.items():
        table(name, each)
    settings = {name: getattr(options, name) for name in ("rounds", "seconds", "warmup")}
    machine = report.machine([]) | {"threads": options.threads}
    report.write(options.out, {"machine": machine, "settings": settings, "set_ups": found})


if __name__ == "__main__":
    main()
