"""How fast texts are made on a CPU: `python -m benchmarks.generate`.

GPT-2's shape with random weights, a prompt of 32 tokens, 128 greedy new ones, in tokens a second, prompt included:
`transformers` in float32 and bfloat16 against this project in float32, bfloat16 and 8 bits. bfloat16 is left out where
the processor lacks it. A token reads every weight once, so the memory's bandwidth limits a single text.

With `--pretrained FILE.gguf` also published weights, one text and many at once: tokens a second, megabytes, and the
perplexity of this project's everyday mails in each precision; with `--peer .peers-llama/bin/python`, a Python that has
xllamacpp, against llama.cpp on the same file.
"""

import argparse
import json
import math
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tiktoken
import torch
from torch.nn import functional as F

from benchmarks.harness import OURS, Figures, Table, finish, make_parser, positive, read_bandwidth, say, take_turns
from llm.config import GPTConfig
from llm.formats.huggingface import load_pretrained
from llm.generation.packed import PackedGPT, pack, pack_for_inference
from llm.generation.text import generate
from llm.kernels.processor import has_fast_bfloat16
from llm.kernels.serving.decode_library import load_library
from llm.model.gpt import GPT

SPEED = "tokens a second"
LLAMA_CPP = "llama.cpp"
MAILS = Path(__file__).parents[1] / "data" / "everyday-mail.jsonl"


@dataclass(frozen=True)
class Variant:
    """A precision in which this project computes."""

    bytes_a_weight: float
    change: Callable[[GPT], GPT]


VARIANTS = {
    "float32": Variant(4, lambda model: model),
    "bfloat16": Variant(2, lambda model: model.bfloat16()),
    "8 bits": Variant(8.5 / 8, pack_for_inference),
}
if not has_fast_bfloat16(torch.device("cpu")):  # in bfloat16 a token would take minutes
    del VARIANTS["bfloat16"]
FLOATS = [name for name in ("float32", "bfloat16") if name in VARIANTS]  # in which `transformers` takes part


def pack_exactly(model: GPT) -> GPT:
    """A model that decodes in C and in float32."""
    return pack(model, load_library(), exact=True)


PRECISIONS: dict[str, Callable[[GPT], GPT]] = {
    "float32": lambda model: model,
    "float32 in C": pack_exactly,
    "8 bits": pack_for_inference,
}
"""How published weights are changed."""
PEER = """
import json, sys, threading, time
import xllamacpp
file, texts, context, threads = sys.argv[1], *map(int, sys.argv[2:])
params = xllamacpp.CommonParams()
params.model.path, params.n_parallel, params.n_ctx, params.cont_batching = file, texts, context * texts, True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(params)
for line in sys.stdin:
    prompts, new = json.loads(line)
    options = {"n_predict": new, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    counts = []
    def ask(prompt):
        counts.append(server.handle_completions(options | {"prompt": prompt})["usage"]["completion_tokens"])
    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write(f"tokens a second {sum(counts) / (time.perf_counter() - start)}\\n")
    sys.stdout.flush()
"""


def our_speed(variant: str, config: GPTConfig, *, prompt: int, new: int, texts: int = 1) -> Callable[[], float]:
    """Measures this project's tokens a second, all texts together."""
    torch.manual_seed(0)
    model = VARIANTS[variant].change(GPT(config).eval())
    prompts = torch.randint(config.vocabulary_size, (texts, prompt)).tolist()
    return partial(generation_speed, model, prompts, new)


def generation_speed(model: GPT, prompts: list[list[int]], new: int) -> float:
    """Tokens a second of greedy texts, all together."""
    start = time.perf_counter()
    tokens = sum(map(len, generate(model, prompts, max_new_tokens=new)))
    return tokens / (time.perf_counter() - start)


def transformers_speed(dtype: torch.dtype, config: GPTConfig, *, prompt: int, new: int) -> Callable[[], float]:
    """Measures the tokens a second of `transformers`, for one text."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"n_positions": config.context_length, "vocab_size": config.vocabulary_size}
    shape |= {name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd")}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval().to(dtype)
    tokens = torch.randint(config.vocabulary_size, (1, prompt))
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "use_cache": True, "pad_token_id": 0}

    def measure() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
        return new / (time.perf_counter() - start)

    return measure


@contextmanager
def llama_cpp(
    python: Path, file: Path, prompts: list[list[int]], *, new: int, context: int
) -> Iterator[Callable[[], float]]:
    """Measures the tokens a second of llama.cpp, prompts of tokens together, while the block runs."""
    numbers = (len(prompts), context, torch.get_num_threads())
    command = [str(python), "-c", PEER, str(file), *map(str, numbers)]
    with subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:

        def measure() -> float:
            process.stdin.write(json.dumps([prompts, new]) + "\n")
            process.stdin.flush()
            answer = next(line for line in process.stdout if line.startswith(SPEED))
            return float(answer.split()[-1])

        yield measure
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


def megabytes(model: GPT) -> float:
    """The size of a model's weights as they are read."""
    if isinstance(model, PackedGPT):
        return model.decoder.nbytes / 1e6
    return sum(weight.nbytes for weight in model.parameters()) / 1e6


def compare_published(file: Path, peer: Path | None, options: argparse.Namespace) -> list[Table]:
    """Tables of one text and of many: each precision, and llama.cpp."""
    size = (options.texts, options.prompt)
    prompts = torch.randint(1000, 40_000, size, generator=torch.Generator().manual_seed(0)).tolist()
    models: dict[str, GPT] = {}
    figures: dict[str, Figures] = {}
    for name, change in PRECISIONS.items():
        model, encoding = load_pretrained(file, context_length=1024)
        models[name] = change(model)
        figures[name] = {"megabytes": megabytes(models[name]), "perplexity": perplexity(models[name], encoding)}
    tables = []
    for texts in (1, options.texts):
        contenders = {
            f"{OURS}, {name}": partial(generation_speed, model, prompts[:texts], options.new)
            for name, model in models.items()
        }
        with ExitStack() as stack:
            if peer:
                context = options.prompt + options.new + 8
                server = llama_cpp(peer, file, prompts[:texts], new=options.new, context=context)
                contenders[LLAMA_CPP] = stack.enter_context(server)
            medians = take_turns(contenders, options.rounds)
        measured = {}
        for name, median in medians.items():
            measured[name] = {SPEED: median} | figures.get(name.removeprefix(f"{OURS}, "), {})
        tables.append(Table(f"Published weights, texts at once: {texts}", SPEED, measured))
    return tables


def weights_a_token(config: GPTConfig) -> int:
    """Weights that a token reads: all but the tables of which it takes a row, the output layer among them."""
    with torch.device("meta"):
        model = GPT(config)
    tables = sum(weight.numel() for weight in model.embedding.parameters())
    tied_output = config.vocabulary_size * config.n_embd if config.tied else 0
    return sum(weight.numel() for weight in model.parameters()) - tables + tied_output


def compare(config: GPTConfig, options: argparse.Namespace) -> Table:
    """One text of random weights, with the limit that memory sets."""
    size = {"prompt": options.prompt, "new": options.new}
    contenders = {f"transformers, {name}": transformers_speed(getattr(torch, name), config, **size) for name in FLOATS}
    for variant in VARIANTS:
        contenders[f"{OURS}, {variant}"] = our_speed(variant, config, **size)
    medians = take_turns(contenders, options.rounds)
    figures = {name: {SPEED: median} for name, median in medians.items()}
    bandwidth = read_bandwidth()
    weights = weights_a_token(config)
    for name, variant in VARIANTS.items():
        figures[f"{OURS}, {name}"]["limit of the memory"] = bandwidth / (weights * variant.bytes_a_weight)
    return Table(f"Random weights, one text; memory {bandwidth / 1e9:.3g} GB/s", SPEED, figures)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print, write."""
    parser = make_parser("generate", __doc__, rounds=5)
    parser.add_argument("--prompt", type=positive, default=32, help="prompt tokens")
    parser.add_argument("--new", type=positive, default=128, help="new tokens")
    parser.add_argument("--texts", type=positive, default=16, help="texts at once in the last comparison")
    parser.add_argument("--pretrained", type=Path, help="a GGUF file or folder of published weights")
    parser.add_argument("--peer", type=Path, help="a Python that has xllamacpp, for the GGUF file of --pretrained")
    shape = {"context_length": 1024, "n_layer": 12, "n_head": 12, "n_embd": 768, "vocabulary_size": 50257}
    for name, value in shape.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help="of the model")
    options = parser.parse_args(arguments)

    config = GPTConfig(**{name: getattr(options, name) for name in shape})
    tables = [compare(config, options)]
    if options.pretrained is None:
        say("Published weights: left out, name a file with --pretrained\n")
    else:
        tables += compare_published(options.pretrained, options.peer, options)
    finish(options, tables, packages=["transformers"])


if __name__ == "__main__":
    main()
