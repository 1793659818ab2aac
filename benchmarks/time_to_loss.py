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
the nine counts. (For gpt2 the longest budget chooses it, and it alone is run at the shorter ones.) Each run is kept in
.threestage/benchmarks until code, parameters or data change: stop at will.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import report
from benchmarks.contenders import (
    DTYPES,
    ROOT,
    TAKEN,
    Batches,
    Peer,
    Shape,
    alone,
    book_loss,
    llms_from_scratch,
    our_model,
    our_steps,
    peer_loss,
    peer_steps,
    peers_python,
    same_size,
    transformers_gpt2,
)
from llm.config import TrainConfig
from llm.dataset import BatchSampler, TokenWindows
from llm.files import write_atomic
from llm.objectives.language_model import bits_per_byte, context_at
from llm.tokenizer import load_tokenizer
from tasks.applications.foundation.train import SCRATCH, Train
from tasks.stages.params import FOUNDATION, PARAMS_FILE, load_application

STATE = Path(".threestage/benchmarks/time_to_loss")
DATA = Path("data/processed/corpus")
RATES = {"book": (4e-4, 1e-3, 3e-3), "gpt2": (1e-3, 2e-3, 4e-3)}
SIZES = ((3, 2), (4, 2), (4, 4))  # layers and heads; heads are as wide as ours
PROBE, PARTS = 20, 4  # steps that are timed before a run of ours, after as many that warm up; parts, each by its median
MARGIN = 0.98


@dataclass(frozen=True)
class Run:
    """One training run; `budgets` are the seconds after which it is evaluated, the last one ends it."""

    contender: str
    shape: Shape
    budgets: tuple[float, ...]
    learning_rate: float | None = None

    def __str__(self) -> str:
        size = f"{self.shape.n_layer} layers of {self.shape.n_embd}"
        what = f"{size}, rate {self.learning_rate:g}, " if self.learning_rate else ""
        return f"{self.contender}, {what}{' and '.join(f'{seconds:g}' for seconds in self.budgets)} s"


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
    *, gpt: dict, train: dict, first_context_length: int | None, precision: str, data: str, budget: float
) -> dict[str, Any]:
    """Train as the pipeline does for `budget` seconds."""
    length = gpt["context_length"]
    draw = batches(data, length, train["batch_size"], train["seed"])

    tokens_a_step = train["gradient_accumulation"] * train["batch_size"] * length

    def run(steps: int, stop: Callable[[], bool], tokens: int) -> torch.nn.Module:
        torch.manual_seed(train["seed"])

        def sees(batch: int) -> int:
            return context_at(batch // train["gradient_accumulation"], steps, first_context_length, length)

        model, loss = our_model(gpt, precision, draw, sees)
        config = TrainConfig(**train | {"steps": steps, "evaluate_every": steps, "patience": None})
        taken.clear()
        our_steps(model, config, loss, taken.append, stop, tokens=tokens, dtype=DTYPES[precision])
        return model.eval()

    taken: list[float] = []
    steps = PROBE
    for _ in range(2):  # the first warms up, and says how long a training the second is a part of
        run(PROBE, lambda: False, steps * tokens_a_step)
        parts = np.array_split(taken, PARTS)  # steps take longer where more tokens see each other: all parts count
        steps = max(1, math.floor(MARGIN * budget / fmean(map(median, parts))))
    model = run(steps, lambda: sum(taken) >= budget, steps * tokens_a_step)
    found = validation(model, TokenWindows(Path(data), "validation", length))
    evaluation = {"budget": budget, "seconds": sum(taken), "steps": len(taken), "bits_per_byte": found}
    return {"planned_steps": steps, "evaluations": [evaluation]}


def _book(shape: Shape, learning_rate: float) -> tuple[Peer, Callable, torch.optim.Optimizer]:
    peer = llms_from_scratch(replace(shape, dropout=0.1))
    return peer, book_loss(peer), torch.optim.AdamW(peer.model.parameters(), lr=learning_rate, weight_decay=0.1)


def _gpt2(shape: Shape, learning_rate: float, precision: str) -> tuple[Peer, Callable, torch.optim.Optimizer]:
    peer = transformers_gpt2(shape)
    groups = [
        {"params": [weight for weight in peer.model.parameters() if weight.ndim >= 2], "weight_decay": 0.1},
        {"params": [weight for weight in peer.model.parameters() if weight.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)
    return peer, peer_loss(peer, precision, compiled=False), optimizer


def cosine(progress: float, warmup: float = 0.05, final: float = 0.1) -> float:
    """The share of the peak rate when a share of the budget is spent."""
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    rest = min(1.0, (progress - warmup) / (1 - warmup))
    return final + (1 - final) * (1 + math.cos(math.pi * rest)) / 2


def train_peer(
    *,
    contender: str,
    shape: dict,
    learning_rate: float,
    precision: str,
    data: str,
    batch_size: int,
    seed: int,
    budgets: list[float],
) -> dict[str, Any]:
    """Train the book's model or GPT-2 until the last budget is spent."""
    torch.manual_seed(seed)
    if contender == "book":
        peer, loss, optimizer = _book(Shape(**shape), learning_rate)
    else:
        peer, loss, optimizer = _gpt2(Shape(**shape), learning_rate, precision)
    draw = batches(data, shape["context_length"], batch_size, seed)
    windows = TokenWindows(Path(data), "validation", shape["context_length"])
    spent, left, evaluations = 0.0, list(budgets), []
    how = {"clip": None} if contender == "book" else {"clip": 1.0, "share": lambda: cosine(spent / budgets[-1])}
    for number, seconds in enumerate(peer_steps(peer, loss, optimizer, draw, **how), 1):
        spent += seconds
        while left and spent >= left[0]:
            peer.model.eval()
            found = validation(lambda tokens_BT: peer.logits(peer.model(tokens_BT)), windows)
            known = found if math.isfinite(found) else None
            evaluations.append({"budget": left.pop(0), "seconds": spent, "steps": number, "bits_per_byte": known})
        if not left:
            return {"evaluations": evaluations}


def plan(shape: Shape, budgets: list[float], only: list[str]) -> Iterator[Run]:
    """The runs of ours, then the others' of every size and rate."""
    if "ours" in only:
        yield from (Run("ours", shape, (budget,)) for budget in budgets)
    for contender in ("book", "gpt2"):
        if contender not in only:
            continue
        evaluations = tuple(budgets) if contender == "book" else (budgets[-1],)
        for layers, heads in SIZES:
            width = heads * (shape.n_embd // shape.n_head)
            sized = replace(shape, n_layer=layers, n_head=heads, n_embd=width)
            yield from (Run(contender, sized, evaluations, rate) for rate in RATES[contender])


def shorter(shape: Shape, budgets: list[float], evaluations: list[dict[str, Any]]) -> Iterator[Run]:
    """The runs of gpt2's best at the shorter budgets; none where it has no best."""
    if chosen := best(evaluations, "gpt2", budgets[-1]):
        sized = replace(shape, **{name: chosen[name] for name in ("n_layer", "n_head", "n_embd")})
        yield from (Run("gpt2", sized, (budget,), chosen["learning_rate"]) for budget in budgets[:-1])


def fingerprint(task: str, job: dict[str, Any], data: Path, threads: int) -> str:
    """What a run depends on: its job, the code that it runs, the data, the libraries, the machine and its threads."""
    code = [ROOT / "benchmarks" / name for name in ("contenders.py", "time_to_loss.py", "requirements.txt")]
    ours = ["**/*.py"] if task.endswith("ours") else ["dataset.py", "training/loss.py"]
    code += [file for pattern in ours for file in sorted((ROOT / "llm").glob(pattern))]
    known = [task, job, threads, report.machine(["transformers"])]
    whole = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for file in [*code, *(data / name for name in ("meta.json", "train.bin", "validation.bin"))]:
        whole.update(file.read_bytes())
    return whole.hexdigest()


def task_of(run: Run, params: Train, precision: str, data: Path) -> tuple[str, dict[str, Any]]:
    """The function that makes a run, and its arguments."""
    where = str(data.absolute())
    if run.contender == "ours":
        train = {name: getattr(params, name) for name in TrainConfig.model_fields}
        gpt = params.gpt(run.shape.vocabulary_size).model_dump()
        job = {"gpt": gpt, "train": train, "first_context_length": params.first_context_length}
        job |= {"precision": precision, "data": where, "budget": run.budgets[0]}
        return "benchmarks.time_to_loss:train_ours", job
    job = {"contender": run.contender, "shape": asdict(run.shape), "learning_rate": run.learning_rate}
    job |= {"batch_size": params.batch_size * params.gradient_accumulation, "seed": params.seed}
    job |= {"precision": precision, "data": where, "budgets": list(run.budgets)}
    return "benchmarks.time_to_loss:train_peer", job


def best(evaluations: list[dict[str, Any]], contender: str, budget: float) -> dict[str, Any] | None:
    """A contender's evaluation with the lowest bits per byte at a budget; None where none has a number."""
    known = [
        evaluation
        for evaluation in evaluations
        if (evaluation["contender"], evaluation["budget"]) == (contender, budget)
    ]
    return min(
        (evaluation for evaluation in known if evaluation["bits_per_byte"]),
        key=lambda evaluation: evaluation["bits_per_byte"],
        default=None,
    )


def described(evaluation: dict[str, Any] | None) -> str:
    """A evaluation as a cell of the table."""
    if evaluation is None:
        return "failed"
    how = (
        ""
        if evaluation["learning_rate"] is None
        else f" ({evaluation['n_layer']} x {evaluation['n_embd']}, {evaluation['learning_rate']:g})"
    )
    return f"{evaluation['bits_per_byte']:.3f}{how}"


def finished(
    run: Run, task: str, job: dict[str, Any], kept: Path, threads: int, python: str = sys.executable
) -> tuple[list[dict[str, Any]], str | None]:
    """The evaluations of a run, from the file in which it is kept or made now, and why it failed."""
    if kept.exists():
        found = json.loads(kept.read_text())
    else:
        found = alone(task, job, threads, python)
        if "failed" in found:
            return [], found["failed"]
        write_atomic(kept, json.dumps(found))
    named = {"contender": run.contender, "learning_rate": run.learning_rate}
    named |= {name: getattr(run.shape, name) for name in ("n_layer", "n_head", "n_embd")}
    return [named | evaluation for evaluation in found["evaluations"]], None


def main(arguments: list[str] | None = None) -> None:
    """Run what has not run yet, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", type=peers_python, help="Python of the environment of benchmarks/requirements.txt; `book` needs it"
    )
    parser.add_argument("--only", nargs="+", choices=("ours", "book", "gpt2"), default=["ours", "book", "gpt2"])
    parser.add_argument("--budgets", nargs="+", type=float, default=[60.0, 120.0, 240.0], help="seconds of training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each run")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="whose foundation is ours")
    parser.add_argument("--data", type=Path, default=DATA, help="a corpus as `threestage preprocess corpus` leaves it")
    parser.add_argument("--state", type=Path, default=STATE, help="where finished runs are kept")
    parser.add_argument("--out", type=Path, default=report.results("time_to_loss"), help="where the numbers go")
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

    precision = TAKEN
    gpt = params.gpt(load_tokenizer(options.data / "tokenizer.json").n_vocab)
    evaluations, failures = [], {}

    def make(runs: list[Run]) -> None:
        for number, run in enumerate(runs, 1):
            task, job = task_of(run, params, precision, options.data)
            kept = options.state / f"{fingerprint(task, job, options.data, options.threads)}.json"
            python = options.peers if run.contender == "book" else sys.executable
            new, failed = finished(run, task, job, kept, options.threads, python)
            evaluations.extend(new)
            failures.update({str(run): failed} if failed else {})
            status = failed or ", ".join(f"{evaluation['bits_per_byte'] or math.nan:.3f}" for evaluation in new)
            sys.stdout.write(f"run {number} of {len(runs)}, {run}: {status}\n")
            sys.stdout.flush()

    make(list(plan(same_size(gpt), budgets, options.only)))
    make(list(shorter(same_size(gpt), budgets, evaluations)))
    won = {name: {f"{budget:g}": best(evaluations, name, budget) for budget in budgets} for name in options.only}
    columns = ("", *(f"{budget:g} s" for budget in budgets))
    rows = [(name, *(described(evaluation) for evaluation in each.values())) for name, each in won.items()]
    report.show("Validation bits per byte; in brackets the best layers x width and rate", columns, rows)
    results = {
        "machine": report.machine(["transformers"]) | {"threads": options.threads},
        "settings": {
            "budgets": budgets,
            "precision": precision,
            "batch_size": params.batch_size,
            "first_context_length": params.first_context_length,
        },
        "model": gpt.model_dump(),
        "best": won,
        "evaluations": evaluations,
        "failed": failures,
    }
    report.write(options.out, results)


if __name__ == "__main__":
    main()
