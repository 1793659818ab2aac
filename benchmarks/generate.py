"""`python -m benchmarks.generate` tests that texts are made faster than by llama.cpp and `transformers`.

SmolLM2-135M continues one prompt, and 16 at once, of 32 random tokens by 128 greedy ones: ours as it is served, in 8
bits where decode.c generates; llama.cpp (PyPI `xllamacpp`) on the GGUF file that the weights came in, in its 4 bits;
`transformers` in the precision that torch multiplies fastest here. Shorter texts come first and do not count. A token
reads every weight once, so the memory's bandwidth limits a single text. Needs `dvc repro load_published`.
"""

import random
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import LESS, MORE, OURS, Figures, Job, Table, compare, make_parser, peak_memory
from llm.errors import UserError
from llm.formats.export_huggingface import export_huggingface
from llm.formats.model_folder import load_model
from llm.generation.text import generate
from llm.kernels.processor import processor
from llm.objectives import load_for_inference
from tasks.data.published import PUBLISHED, STATE

MODEL = "smollm2-135m"
PROMPT, NEW = 32, 128
"""Tokens of a prompt, and of its continuation."""
TEXTS = {"one text, tokens a second": 1, "16 texts, tokens a second": 16}
"""How many texts are made at once."""
Generate = Callable[[list[list[int]], int], Iterable[Any]]
"""Continues prompts by so many tokens each."""


def published_file() -> Path:
    """The GGUF file of the published weights, as `load_published` keeps it. Raises UserError where it is not here."""
    package = PUBLISHED[MODEL].package
    files = sorted(STATE.joinpath(package.sha256[:16]).rglob("*.gguf")) if package else []
    if not files:
        raise UserError(f"the file of {MODEL} is not here: run `dvc repro --force load_published`")
    return files[0]


def export(parser: ArgumentParser, base: Path, folder: Path) -> int:
    """Write a model folder as `transformers` loads it, and return the size of its vocabulary."""
    try:
        loaded = load_model(base, as_stored=True)
    except UserError as error:
        parser.error(f"{error}; `dvc repro load_published` makes models/published")
    export_huggingface(folder, loaded)
    return loaded.model.config.vocabulary_size


def speeds(continue_prompts: Generate, vocabulary_size: int) -> Figures:
    """Tokens a second, all texts together."""
    generator = random.Random(1)
    figures = {}
    for name, texts in TEXTS.items():
        prompts = [generator.choices(range(vocabulary_size), k=PROMPT) for _ in range(texts)]
        continue_prompts(prompts, 4)
        start = time.perf_counter()
        lengths = continue_prompts(prompts, NEW)
        figures[name] = sum(lengths) / (time.perf_counter() - start)
    return figures | {"peak memory, GB": peak_memory()}


def ours(*, base: str, vocabulary_size: int) -> Figures:
    """Ours, as it is served."""
    model, _ = load_for_inference(Path(base))

    def continue_prompts(prompts: list[list[int]], tokens: int) -> Iterable[int]:
        return map(len, generate(model, prompts, max_new_tokens=tokens))

    return speeds(continue_prompts, vocabulary_size)


def transformers(*, folder: str, vocabulary_size: int) -> Figures:
    """A folder in the layout of `transformers`, with the attention that it chooses."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=processor().dtype).eval()

    def continue_prompts(prompts: list[list[int]], tokens: int) -> Iterable[int]:
        prompts_BT = torch.tensor(prompts)
        length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        with torch.inference_mode():
            texts_BT = model.generate(prompts_BT, attention_mask=torch.ones_like(prompts_BT), do_sample=False, **length)
        return [len(text_T) - PROMPT for text_T in texts_BT]

    return speeds(continue_prompts, vocabulary_size)


def llama_cpp(*, gguf: str | None, vocabulary_size: int) -> Figures:
    """A GGUF file in its own precision, with as many threads as torch has."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = gguf or str(published_file())
    params.n_parallel, params.cont_batching = max(TEXTS.values()), True
    params.n_ctx = (PROMPT + NEW + 8) * params.n_parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    server = xllamacpp.Server(params)

    def continue_prompts(prompts: list[list[int]], tokens: int) -> Iterable[int]:
        options = {"n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}

        def continue_prompt(prompt: list[int]) -> int:
            return server.handle_completions(options | {"prompt": prompt})["usage"]["completion_tokens"]

        with ThreadPoolExecutor(len(prompts)) as threads:
            return list(threads.map(continue_prompt, prompts))

    return speeds(continue_prompts, vocabulary_size)


def main(arguments: list[str] | None = None) -> int:
    """Compare, print, write."""
    parser = make_parser("generate", __doc__)
    parser.add_argument("--base", type=Path, default=Path("models/published"), help="the model folder")
    parser.add_argument("--gguf", type=Path, help="its weights for llama.cpp; by default as they were fetched")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary_size = export(parser, options.base, Path(folder, "model"))
        size = {"vocabulary_size": vocabulary_size}
        jobs = {
            OURS: Job("generate.ours", {"base": options.base} | size),
            "llama.cpp": Job("generate.llama_cpp", {"gguf": options.gguf} | size),
            "transformers": Job("generate.transformers", {"folder": f"{folder}/model"} | size),
        }
        better = dict.fromkeys(TEXTS, MORE) | {"peak memory, GB": LESS}
        return compare(parser, options, [Table("generation", better, jobs)])


if __name__ == "__main__":
    sys.exit(main())
