"""How fast a CPU trains LoRA: `python -m benchmarks.lora_speed --peers .peers-lora/bin/python`.

Training steps of SmolLM2-135M, rank 16 on all matrices of attention and MLP, on 4 x 512 tokens of short conversations:
this project as it trains its assistant against `peft` on `transformers`, each in fresh processes that take turns,
medians over all steps of all rounds. Tokens are random, a quarter of each text is learned, and all are given the same
texts; all train without dropout, with fused AdamW, and clip.

`peft` gets them padded: a text a row; packed: each text sees those before it in its row; separated: packed, with
positions of which `transformers` makes a mask. Its frozen weights are float32 or bfloat16 under autocast, or all is in
bfloat16; where the processor has no bfloat16, all are in float32. Ours, compiled, multiplies frozen weights in 8
bits where the pipeline does: with VNNI and without AMX. The loss of the first step shows that all compute the same, but
for packed texts, which see each other.
"""

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import report
from benchmarks.contenders import (
    DTYPES,
    LONG,
    TAKEN,
    Peer,
    alone,
    named,
    our_steps,
    peak_memory,
    peer_steps,
    peers_python,
)
from llm.errors import UserError

LEAST_STEPS = 3  # a round
PEERS = ("peft", "transformers")  # packages of the other environment
MAKE_PEERS = "python3 -m venv .peers-lora && .peers-lora/bin/pip install -r benchmarks/requirements-lora.txt"
RANK, ALPHA, RATE, CLIP = 16, 32, 8e-4, 1.0  # as params.yaml has them for the assistant
FROZEN = "bfloat16 weights" if TAKEN == "bf16" else "float32 weights"  # as the pipeline keeps them here
IGNORED = -100  # by the losses of transformers, as by ours

Text = tuple[list[int], int]
"""Tokens, and how many of the last are learned."""
Rows = list[list[Text]]
Given = dict[str, Tensor]
"""What a model of `transformers` is called with."""


class Contender(NamedTuple):
    """Ours, or `peft` with its weights in a precision and its texts in rows of a form."""

    library: str
    precision: str = FROZEN
    form: str = "separated"

    def __str__(self) -> str:
        return f"{self.library}, {self.precision}, {self.form}"


class Size(NamedTuple):
    """What a step reads."""

    rows: int
    window: int
    """Tokens a row."""
    texts: int
    """Texts a row, an even number."""
    vocabulary: int
    """Tokens that a text may have."""

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.rows * self.texts * (self.window // self.texts)


def conversations(number: int, size: Size) -> Rows:
    """The texts of step `number`, of random tokens: 40 to 88 where the mean is 64, and rows that they fill."""
    draw, mean = random.Random(number), size.window // size.texts
    rows = []
    for _ in range(size.rows):
        lengths = [draw.randint(mean * 5 // 8, mean) for _ in range(size.texts // 2)]
        lengths += [2 * mean - length for length in lengths]
        draw.shuffle(lengths)
        rows.append([(draw.choices(range(size.vocabulary), k=length), length // 4) for length in lengths])
    return rows


def padded(rows: Rows) -> Given:
    """Each text a row, padded on the right, as a collator makes them; int64, 32 texts x the longest."""
    texts = [text for row in rows for text in row]
    longest = max(len(tokens) for tokens, _ in texts)
    given: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for tokens, learned in texts:
        padding = longest - len(tokens)
        given["input_ids"].append(tokens + [0] * padding)
        given["attention_mask"].append([1] * len(tokens) + [0] * padding)
        given["labels"].append(_labels(tokens, learned) + [IGNORED] * padding)
    return {name: torch.tensor(values) for name, values in given.items()}


def packed(rows: Rows) -> Given:
    """Texts behind one another in their row, each seeing those before it; int64 BT."""
    given = {
        "input_ids": [[token for tokens, _ in row for token in tokens] for row in rows],
        "labels": [[label for text in row for label in _labels(*text)] for row in rows],
    }
    return {name: torch.tensor(values) for name, values in given.items()}


def separated(rows: Rows) -> Given:
    """The same with positions that begin anew with each text, which `transformers` takes for its end; int64 BT."""
    positions = [[position for tokens, _ in row for position in range(len(tokens))] for row in rows]
    return packed(rows) | {"position_ids": torch.tensor(positions)}


def _labels(tokens: list[int], learned: int) -> list[int]:
    return [IGNORED] * (len(tokens) - learned) + tokens[len(tokens) - learned :]


FORMS: dict[str, Callable[[Rows], Given]] = {"padded": padded, "packed": packed, "separated": separated}
# Of the frozen weights and of what is trained, and whether autocast multiplies in bfloat16.
PRECISIONS = {FROZEN: (torch.float32, torch.float32, False)}
if TAKEN == "bf16":
    PRECISIONS = {
        "autocast": (torch.float32, torch.float32, True),
        FROZEN: (torch.bfloat16, torch.float32, True),
        "all bfloat16": (torch.bfloat16, torch.bfloat16, False),
    }
OURS, COMPILED = Contender("ours"), Contender("ours", form="separated, compiled")
OTHERS = [Contender("peft", precision, form) for precision in PRECISIONS for form in FORMS]


def transformers_model(folder: Path, precision: str) -> nn.Module:
    """A folder in Hugging Face's layout, with the attention that `transformers` chooses."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=PRECISIONS[precision][0], use_cache=False)


def with_peft(model: nn.Module, precision: str) -> nn.Module:
    """Its matrices frozen, each with an update of RANK beside it; `peft` keeps updates in float32 unless told."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
    return get_peft_model(model, lora, autocast_adapter_dtype=PRECISIONS[precision][1] == torch.float32)


def their_loss(model: nn.Module, precision: str, given: Given) -> Tensor:
    """The loss that `transformers` computes, the mean over what is learned."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=PRECISIONS[precision][2]):
        return model(**given).loss


def our_model(folder: Path, window: int) -> nn.Module:
    """A model folder as the assistant is trained: what LoRA freezes stays as it is stored, where bfloat16 is fast."""
    from llm.config import LoRAConfig
    from llm.formats.model_folder import load_model
    from llm.model.lora import add_lora
    from llm.objectives.assistant import build

    model, _ = load_model(folder, build=build, context_length=window, as_stored=TAKEN == "bf16")
    targets = ("query_key_value", "projection", "gate", "expand")
    add_lora(model, LoRAConfig(rank=RANK, alpha=ALPHA, targets=targets))
    return model


def our_loss(model: nn.Module, rows: Rows) -> Tensor:
    """The assistant's loss of packed windows, the mean over what is learned."""
    from llm.device import Compute
    from llm.objectives.assistant.examples import Example
    from llm.objectives.assistant.loss import response_loss

    compute = Compute(torch.device("cpu"), DTYPES[TAKEN], "as the benchmark asks")
    windows = [
        [Example(tokens, [place >= len(tokens) - learned for place in range(len(tokens))]) for tokens, learned in row]
        for row in rows
    ]
    total = response_loss(model, windows, compute, cross_entropy=model.backend.cross_entropy)
    return total / sum(example.counted for row in windows for example in row)


def measure(*, contender: list, folders: dict, size: list, warmup: int, seconds: float) -> dict[str, Any]:
    """Seconds of each step, for at least `seconds` after `warmup` steps, in this process."""
    library, precision, form = contender
    sizes, folder = Size(*size), Path(folders[library])
    torch.manual_seed(1)
    taken: list[float] = []
    losses: list[float] = []

    def enough() -> bool:
        return len(taken) >= warmup + LEAST_STEPS and sum(taken[warmup:]) >= seconds

    def noted(loss: Tensor) -> Tensor:
        losses.append(loss.item())
        return loss

    if library == "ours":
        from llm.config import TrainConfig

        ever = {"steps": 10**6, "evaluate_every": 10**6, "checkpoint_every": 10**6}  # the clock ends a run
        config = TrainConfig(
            seed=1, batch_size=sizes.rows, learning_rate=RATE, weight_decay=0, gradient_clip=CLIP, **ever
        )
        network = our_model(folder, sizes.window)
        our_steps(
            network,
            config,
            lambda model, index: noted(our_loss(model, conversations(index, sizes))),
            taken.append,
            enough,
            tokens=LONG if form == COMPILED.form else 0,
            dtype=DTYPES[TAKEN],
        )
    else:
        network = with_peft(transformers_model(folder, precision), precision)
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, fused=True)
        steps = peer_steps(
            Peer(network),
            lambda given: noted(their_loss(network, precision, given)),
            optimizer,
            lambda number: (FORMS[form](conversations(number, sizes)),),
            clip=CLIP,
        )
        for step_seconds in steps:
            taken.append(step_seconds)
            if enough():
                break
    return {
        "step_seconds": taken[warmup:],
        "first_loss": losses[-len(taken)],  # before it the compiler had its own
        "trained_weights": sum(weight.numel() for weight in network.parameters() if weight.requires_grad),
        "peak_memory": peak_memory(),
    }


def export(base: Path, folder: Path) -> int:
    """Write a model folder as `transformers` loads it, in the precision that it is stored in; its vocabulary's size."""
    from llm.formats.huggingface import export_huggingface
    from llm.formats.model_folder import load_model

    loaded = load_model(base, as_stored=True)
    export_huggingface(folder, loaded)
    return loaded.model.config.vocabulary_size


def summary(rounds: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    """What a contender's rounds come to."""
    if failed := [found for found in rounds if "failed" in found]:
        return failed[0]
    seconds = [value for found in rounds for value in found["step_seconds"]]
    return {
        "seconds_a_step": statistics.median(seconds),
        "steps": len(seconds),
        "tokens_per_second": tokens / statistics.median(seconds),
        "peak_memory_bytes": max(found["peak_memory"] for found in rounds),
        "trained_weights": rounds[0]["trained_weights"],
        "first_loss": rounds[0]["first_loss"],
    }


def compare(
    size: Size, folders: dict[str, str], contenders: list[Contender], options: argparse.Namespace
) -> dict[str, Any]:
    """Let the contenders take turns; one that failed does not start again."""
    job = {"folders": folders, "size": size, "warmup": options.warmup, "seconds": options.seconds}
    found: dict[Contender, list[dict[str, Any]]] = {each: [] for each in contenders}
    for number in range(1, options.rounds + 1):
        for contender, rounds in found.items():
            if any("failed" in each for each in rounds):
                continue
            python = sys.executable if contender.library == "ours" else options.peers
            rounds.append(
                alone("benchmarks.lora_speed:measure", {"contender": contender, **job}, options.threads, python)
            )
            last = rounds[-1]
            status = last.get("failed") or f"{statistics.median(last['step_seconds']):.3g} s a step"
            sys.stdout.write(f"round {number} of {options.rounds}, {contender}: {status}\n")
            sys.stdout.flush()
    results = {str(contender): summary(rounds, size.tokens) for contender, rounds in found.items()}
    ours = results.get(str(COMPILED), {"failed": "nobody asked for it"})  # as a long training is
    for each in results.values():
        if "failed" not in each and "failed" not in ours:
            each["ours_is_faster_by"] = each["seconds_a_step"] / ours["seconds_a_step"]
    return results


def table(size: Size, contenders: dict[str, dict[str, Any]]) -> None:
    """Print the results."""
    columns = ("", "s a step", "tokens/s", "ours is", "peak GB", "trained weights", "first loss", "")
    rows = []
    for contender, each in contenders.items():
        if "failed" in each:
            rows.append((contender, "failed", *[""] * 5, each["failed"]))
            continue
        times = f"{each['ours_is_faster_by']:.2f} x" if "ours_is_faster_by" in each else ""
        memory, trained = each["peak_memory_bytes"] / 1e9, f"{each['trained_weights']:,}"
        found = (each["seconds_a_step"], each["tokens_per_second"], times, memory, trained, f"{each['first_loss']:.3f}")
        rows.append((contender, *found, ""))
    report.show(f"LoRA: {size.tokens:,} tokens a step, {size.rows * size.texts} texts", columns, rows)


def main(arguments: list[str] | None = None) -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers",
        type=partial(peers_python, packages=PEERS, makes=MAKE_PEERS),
        help="Python of benchmarks/requirements-lora.txt; without it ours alone",
    )
    parser.add_argument("--only", nargs="+", metavar="CONTENDER", help="of those in the table")
    parser.add_argument("--base", type=Path, default=Path("models/published"), help="a model folder to fine-tune")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each contender")
    parser.add_argument("--seconds", type=float, default=10, help="a process trains so long after its warm-up")
    parser.add_argument("--warmup", type=int, default=2, help="steps of a process that do not count")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each process")
    parser.add_argument("--rows", type=int, default=4, help="packed rows a step")
    parser.add_argument("--window", type=int, default=512, help="tokens of a packed row")
    parser.add_argument("--texts", type=int, default=8, help="texts of a packed row")
    parser.add_argument("--out", type=Path, default=report.results("lora_speed"), help="where the numbers go")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least one measures something")
    if options.texts < 2 or options.texts % 2 or options.window < 8 * options.texts:
        parser.error(f"--texts {options.texts}: an even number, each of at least 8 of --window {options.window} tokens")
    if not (options.base / "config.json").exists():
        parser.error(f"--base {options.base}: no model folder; `dvc repro load_published` makes models/published")
    there = [OURS, COMPILED, *(OTHERS if options.peers else [])]
    try:
        contenders = named(options.only, there) if options.only else there
    except UserError as error:
        parser.error(f"--only {error}")

    with tempfile.TemporaryDirectory() as temporary:
        folders = {"ours": str(options.base.absolute()), "peft": str(Path(temporary, "model"))}
        vocabulary = export(options.base, Path(folders["peft"]))
        size = Size(options.rows, options.window, options.texts, vocabulary)
        found = compare(size, folders, contenders, options)
    table(size, found)
    machine = report.machine([]) | {"threads": options.threads}
    if options.peers:
        machine["peers"] = alone(
            "benchmarks.contenders:versions", {"packages": ["torch", *PEERS]}, options.threads, options.peers
        )
    settings = {name: getattr(options, name) for name in ("rounds", "seconds", "warmup")} | {"rank": RANK}
    report.write(options.out, {"machine": machine, "settings": settings, "size": size._asdict(), "contenders": found})


if __name__ == "__main__":
    main()
