"""How fast texts are made on a CPU: `python -m benchmarks.generate`.

GPT-2's shape with random weights, a prompt of 32 tokens, 128 greedy new ones, in tokens a second, prompt included:
`transformers` in float32 and bfloat16 against this project in float32, bfloat16 and in C, one text and many at
once; bfloat16 is left out where the processor lacks it. A token reads every weight once, so what the memory gives is
the limit of a single text.

With `--pretrained FILE.gguf` also published weights: what each precision takes and how well it predicts this project's
everyday mails; how long a talk's next turn waits for its first token; with `--peer .peers-llama/bin/python`, a Python
that has xllamacpp, against llama.cpp on the same file.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import tiktoken
import torch
from torch.nn import functional as F

from benchmarks import report
from llm.config import GPTConfig
from llm.formats.huggingface import load_pretrained
from llm.generation.engine import Engine
from llm.generation.packed import PackedGPT, pack, pack_for_inference
from llm.generation.request import Request
from llm.generation.text import generate
from llm.kernels.processor import has_fast_bfloat16
from llm.kernels.serving.decode import load_library
from llm.model.gpt import GPT

VARIANTS: dict[str, tuple[float, Callable[[GPT], GPT]]] = {
    "float32": (4, lambda model: model),
    "bfloat16": (2, lambda model: model.bfloat16()),
    "8 bits": (8.5 / 8, pack_for_inference),
}
"""Bytes a weight, and how a model is changed."""
if not has_fast_bfloat16(torch.device("cpu")):  # in bfloat16 a token would take minutes
    del VARIANTS["bfloat16"]
FLOATS = [name for name in ("float32", "bfloat16") if name in VARIANTS]  # in which `transformers` takes part


PEER = """
import json, sys, threading, time
import xllamacpp
file, texts, context, threads = sys.argv[1], *map(int, sys.argv[2:])
params = xllamacpp.CommonParams()
params.model.path, params.n_parallel, params.n_ctx, params.cont_batching = file, texts, context * texts, True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(params)
for line in sys.stdin:
    prompts, new, known = json.loads(line)
    options = {"n_predict": new, "temperature": 0, "ignore_eos": True, "cache_prompt": known}
    made = []
    def ask(prompt):
        made.append(server.handle_completions(options | {"prompt": prompt})["usage"]["completion_tokens"])
    asking = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
    started = time.perf_counter()
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    sys.stdout.write(f"tokens a second {sum(made) / (time.perf_counter() - started)}\\n")
    sys.stdout.flush()
"""
MAILS = Path(__file__).parents[1] / "data" / "everyday-mail.jsonl"


PRECISIONS: dict[str, Callable[[GPT], GPT]] = {
    "float32": lambda model: model,
    "float32 in C": lambda model: pack(model, load_library(), exact=True),
    "8 bits": pack_for_inference,
}
"""How published weights are changed."""


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


@contextmanager
def llama_cpp(python: Path, file: Path, texts: int, context: int) -> Iterator[Callable[..., float]]:
    """Measure the tokens a second of llama.cpp, prompts of tokens together, while the block runs.

    `known`: what it has read of a prompt before is not read again.
    """
    command = [str(python), "-c", PEER, str(file), *map(str, (texts, context, torch.get_num_threads()))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as process:

        def run(prompts: list[list[int]], new: int, known: bool = False) -> float:
            process.stdin.write(json.dumps([prompts, new, known]) + "\n")
            process.stdin.flush()
            said = next(line for line in process.stdout if line.startswith("tokens a second "))
            return float(said.split()[-1])

        yield run
        process.stdin.close()


def perplexity(model: GPT, encoding: tiktoken.Encoding, mails: int = 60) -> float:
    """Of the first everyday mails, each by itself: e to the mean loss of a token, in nats."""
    loss = count = 0
    for line in MAILS.read_text().splitlines()[:mails]:
        mail = json.loads(line)
        tokens_1T = torch.tensor([encoding.encode_ordinary(f"{mail['subject']}\n\n{mail['body']}")])
        with torch.inference_mode():
            logits_TV = model(tokens_1T)[0, :-1].float()
        loss += float(F.cross_entropy(logits_TV, tokens_1T[0, 1:], reduction="sum"))
        count += tokens_1T.shape[1] - 1
    return math.exp(loss / count)


def compare_published(
    file: Path, peer: Path | None, *, prompt: int, new: int, texts: int, rounds: int
) -> dict[str, Any]:
    """Medians in tokens a second, one text and many, of each precision and of llama.cpp; perplexity and megabytes."""
    context = prompt + new + 8
    contenders: dict[str, Callable[[], float]] = {}
    found: dict[str, Any] = {"perplexity": {}, "megabytes": {}}
    prompts = torch.randint(1000, 40_000, (texts, prompt), generator=torch.Generator().manual_seed(0)).tolist()
    for name, change in PRECISIONS.items():
        model, encoding = load_pretrained(file, context_length=1024)
        model = change(model)
        found["perplexity"][name] = perplexity(model, encoding)
        plain = sum(weight.nbytes for weight in model.parameters())
        found["megabytes"][name] = (model.decoder.nbytes if isinstance(model, PackedGPT) else plain) / 1e6
        for several in (1, texts):
            contenders[f"{name}, {several}"] = partial(_generated, model, prompts[:several], new)
    with ExitStack() as stack:
        for several in (1, texts) if peer else ():
            run = stack.enter_context(llama_cpp(peer, file, several, context))
            contenders[f"llama.cpp, {several}"] = partial(run, prompts[:several], new)
        found["tokens_per_second"] = medians = report.take_turns(contenders, rounds)
    if peer:
        found["to_llama.cpp"] = {
            f"{name}, {several}": medians[f"{name}, {several}"] / medians[f"llama.cpp, {several}"]
            for name in PRECISIONS
            for several in (1, texts)
        }
    return found


def compare_turns(file: Path, peer: Path | None, rounds: int) -> dict[str, float]:
    """Medians of the seconds to the first token of a talk's next turn: 60 tokens behind 600, known or read anew."""
    model = pack_for_inference(load_pretrained(file, context_length=1024)[0])
    talk = torch.randint(1000, 40_000, (660,), generator=torch.Generator().manual_seed(0)).tolist()

    def ours(known: bool) -> float:
        engine = Engine(model, 1)
        if known:
            _first_token(engine, talk[:600])
        return _first_token(engine, talk)

    contenders = {"known": partial(ours, True), "read anew": partial(ours, False)}
    with ExitStack() as stack:
        if peer:
            run = stack.enter_context(llama_cpp(peer, file, 1, 1024))

            def theirs() -> float:
                run([talk[:600]], 1, known=False)
                return 1 / run([talk], 1, known=True)

            contenders["llama.cpp, known"] = theirs
        return report.take_turns(contenders, rounds)


def _first_token(engine: Engine, prompt: list[int]) -> float:
    start = time.perf_counter()
    engine.submit(Request(prompt, 1))
    while engine.busy:
        engine.step()
    return time.perf_counter() - start


def _generated(model: GPT, prompts: list[list[int]], new: int) -> float:
    return _speed(lambda: sum(map(len, generate(model, prompts, max_new_tokens=new))))


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


def compare(config: GPTConfig, *, prompt: int, new: int, texts: int, rounds: int) -> dict[str, Any]:
    """Medians in tokens a second, what they are to each other, and the limit that memory sets."""
    many = f"8 bits, {texts} texts"
    contenders = {
        **{f"transformers {name}": theirs(getattr(torch, name), config, prompt, new) for name in FLOATS},
        **{variant: ours(variant, config, prompt, new) for variant in VARIANTS},
        many: ours("8 bits", config, prompt, new, texts),
    }
    medians = report.take_turns(contenders, rounds)
    bandwidth, weights = report.read_bandwidth(), weights_a_token(config)
    limits = {variant: bandwidth / (weights * size) for variant, (size, _) in VARIANTS.items()}
    best = max(VARIANTS, key=lambda variant: medians[variant])
    theirs_best = max(medians[f"transformers {name}"] for name in FLOATS)
    return {
        "tokens_per_second": medians,
        "ratios": {
            **{
                f"{name} to {other}": medians[name] / medians[other]
                for name, other in [
                    *((name, f"transformers {name}") for name in FLOATS),
                    ("8 bits", f"transformers {FLOATS[-1]}"),
                ]
            },
            f"{best} to the better transformers": medians[best] / theirs_best,
            f"{many}, to one": medians[many] / medians["8 bits"],
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
    parser.add_argument("--pretrained", type=Path, help="a GGUF file or folder of published weights")
    parser.add_argument("--peer", type=Path, help="a Python that has xllamacpp, for the GGUF file of --pretrained")
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
        sys.stdout.write("Published weights: left out, name a file with --pretrained\n")
    else:
        results["published"] = published = compare_published(options.pretrained, options.peer, **settings)
        report.show("Published weights, tokens a second", ("", "median"), list(published["tokens_per_second"].items()))
        published["next_turn_seconds"] = turns = compare_turns(options.pretrained, options.peer, options.rounds)
        report.show("A talk's next turn, its first token", ("", "s"), list(turns.items()))
        rows = [(name, published["megabytes"][name], published["perplexity"][name]) for name in PRECISIONS]
        report.show("Their precisions", ("", "megabytes", "perplexity"), rows)
    report.write(options.out, results)


if __name__ == "__main__":
    main()
