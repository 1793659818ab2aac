"""How fast texts are made on a CPU: `python -m benchmarks.generate`.

GPT-2's shape with random weights, a prompt of 32 tokens, 128 greedy new ones, in tokens a second, prompt included:
`transformers` in float32 and bfloat16 against this project in float32, bfloat16, packed bfloat16 and int8, one text and
many at once. A token reads every weight once, so what the memory gives is the limit of a single text.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from llm.config import GPTConfig
from llm.generation.packed import prepack, quantize_int8
from llm.generation.text import generate
from llm.model.gpt import GPT

VARIANTS: dict[str, tuple[int, Callable[[GPT], GPT]]] = {
    "float32": (4, lambda model: model),
    "bfloat16": (2, lambda model: model.bfloat16()),
    "packed": (2, prepack),
    "int8": (1, quantize_int8),
}
"""Bytes a weight, and how a model is changed."""

FIRST_TOKEN = """
import sys, time
from pathlib import Path
from llm.generation.text import stream_text
from llm.formats.huggingface import load_pretrained
start = time.perf_counter()
model, encoding = load_pretrained(Path(sys.argv[1]), context_length=256)
next(stream_text(model, encoding, sys.argv[2], max_new_tokens=9))
print(time.perf_counter() - start)
"""


def ours(variant: str, config: GPTConfig, prompt: int, new: int, texts: int = 1) -> Callable[[], float]:
    """Measure this project's tokens a second, all texts together."""
    torch.manual_seed(0)
    model = VARIANTS[variant][1](GPT(config).eval())
    prompts = torch.randint(config.vocabulary_size, (texts, prompt)).tolist()
    return lambda: _speed(lambda: sum(map(len, generate(model, prompts, max_new_tokens=new))))


def theirs(dtype: torch.dtype, config: GPTConfig, prompt: int, new: int) -> Callable[[], float]:
    """Measure the tokens a second of `transformers`, for one text."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"n_positions": config.context_length, "vocab_size": config.vocabulary_size}
    shape |= {name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd")}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval().to(dtype)
    tokens = torch.randint(config.vocabulary_size, (1, prompt))
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "use_cache": True, "pad_token_id": 0}

    def run() -> int:
        with torch.inference_mode():
            return model.generate(tokens, attention_mask=torch.ones_like(tokens), **options).shape[1] - prompt

    return lambda: _speed(run)


def _speed(run: Callable[[], int]) -> float:
    start = time.perf_counter()
    tokens = run()
    return tokens / (time.perf_counter() - start)


def weights_a_token(config: GPTConfig) -> int:
    """Weights that a token reads: all but the tables of which it takes a row, the output layer among them."""
    with torch.device("meta"):
        model = GPT(config)
    tables = sum(weight.numel() for weight in model.embedding.parameters())
    tied_output = config.vocabulary_size * config.n_embd if config.tied else 0
    return sum(weight.numel() for weight in model.parameters()) - tables + tied_output


def first_token_seconds(source: Path, prompt: str = "The capital of France is") -> dict[str, float]:
    """Seconds to the first piece of text of published weights, in a fresh process whose files are in memory.

    `load` starts where reading the weights starts, `process` before Python does.
    """
    start = time.perf_counter()
    command = [sys.executable, "-c", FIRST_TOKEN, str(source), prompt]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.PIPE, text=True)
    return {"load": float(done.stdout), "process": time.perf_counter() - start}


def compare(config: GPTConfig, *, prompt: int, new: int, texts: int, rounds: int) -> dict[str, Any]:
    """Medians in tokens a second, what they are to each other, and the limit that memory sets."""
    many = f"packed, {texts} texts"
    contenders = {
        "transformers float32": theirs(torch.float32, config, prompt, new),
        "transformers bfloat16": theirs(torch.bfloat16, config, prompt, new),
        **{variant: ours(variant, config, prompt, new) for variant in VARIANTS},
        many: ours("packed", config, prompt, new, texts),
    }
    medians = report.take_turns(contenders, rounds)
    bandwidth, weights = report.read_bandwidth(), weights_a_token(config)
    limits = {variant: bandwidth / (weights * size) for variant, (size, _) in VARIANTS.items()}
    best = max(VARIANTS, key=lambda variant: medians[variant])
    return {
        "tokens_per_second": medians,
        "ratios": {
            "float32 to transformers float32": medians["float32"] / medians["transformers float32"],
            "bfloat16 to transformers bfloat16": medians["bfloat16"] / medians["transformers bfloat16"],
            "packed to transformers bfloat16": medians["packed"] / medians["transformers bfloat16"],
            "int8 to transformers bfloat16": medians["int8"] / medians["transformers bfloat16"],
            f"{best} to the better transformers": medians[best]
            / max(medians["transformers float32"], medians["transformers bfloat16"]),
            f"{many}, to one": medians[many] / medians["packed"],
        },
        "memory": {"gigabytes_per_second": bandwidth / 1e9, "weights_per_token": weights, "limits": limits},
    }


def main(arguments: list[str] | None = None) -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each contender, after one that warms up")
    parser.add_argument("--prompt", type=int, default=32, help="prompt tokens")
    parser.add_argument("--new", type=int, default=128, help="new tokens")
    parser.add_argument("--texts", type=int, default=16, help="texts at once in the last comparison")
    parser.add_argument("--pretrained", type=Path, help="a GGUF file or folder whose first token is timed")
    parser.add_argument("--out", type=Path, default=report.results("generate"), help="where the numbers go")
    shape = {"context_length": 1024, "n_layer": 12, "n_head": 12, "n_embd": 768, "vocabulary_size": 50257}
    for name, value in shape.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help="of the model")
    options = parser.parse_args(arguments)

    config = GPTConfig(**{name: getattr(options, name) for name in shape})
    settings = {name: getattr(options, name) for name in ("rounds", "prompt", "new", "texts")}
    found = compare(config, **settings)
    results = {"machine": report.machine(["transformers"]), "settings": settings, "model": config.model_dump(), **found}

    limits = found["memory"]["limits"]
    rows = [(name, speed, limits.get(name, "")) for name, speed in found["tokens_per_second"].items()]
    report.show("Tokens a second", ("", "median", "limit of the memory"), rows)
    report.show("Ratios", ("", "times"), list(found["ratios"].items()))
    if options.pretrained is None:
        sys.stdout.write("First token of published weights: left out, name a file with --pretrained\n")
    else:
        results["first_token_seconds"] = first_token_seconds(options.pretrained)
        report.show("First token of published weights", ("since", "s"), list(results["first_token_seconds"].items()))
    report.write(options.out, results)


if __name__ == "__main__":
    main()
