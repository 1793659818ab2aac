"""`python -m benchmarks.lora` tests that a step of LoRA is faster and takes less memory than one of `peft`.

Steps of SmolLM2-135M, rank 16 on all matrices of attention and MLP, on 4 x 512 tokens of short conversations, of which
a quarter is learned: ours as the assistant is trained on this kind of processor, against `peft` on `transformers`
(`.venv/bin/pip install peft`) in the precision that is fastest here, on texts that are packed, with positions of which
`transformers` makes a mask: its fastest form that keeps texts apart. Both get the same texts of random tokens, and the
loss of the first step shows that both compute the same. Needs `dvc repro load_published`.
"""

import random
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.generate import export
from benchmarks.harness import OURS, Figures, Job, Table, compare, make_parser
from benchmarks.train import ENDLESS, STEP, StepTimer, time_ours, time_theirs
from llm.config import LoRAConfig, TrainConfig
from llm.device import Compute
from llm.formats.model_folder import load_model
from llm.kernels.processor import processor
from llm.model.gpt import GPT
from llm.model.lora import add_lora
from llm.objectives.assistant import Example, build
from llm.objectives.assistant.examples import IGNORE
from llm.objectives.assistant.loss import response_loss

ROWS, WINDOW, TEXTS = 4, 512, 8
"""Packed rows a step, tokens a row, texts a row."""
RANK, ALPHA = 16, 32
TARGETS = ("query_key_value", "projection", "gate", "expand")
RECIPE = TrainConfig(batch_size=ROWS, learning_rate=8e-4, weight_decay=0.0, **ENDLESS)
Batch = list[list[Example]]


def conversations(number: int, vocabulary_size: int) -> Batch:
    """The rows of step `number`: texts of 40 to 88 random tokens that fill them."""
    generator = random.Random(number)
    mean = WINDOW // TEXTS
    rows = []
    for _ in range(ROWS):
        lengths = [generator.randint(mean * 5 // 8, mean) for _ in range(TEXTS // 2)]
        lengths += [2 * mean - length for length in lengths]
        row = []
        for length in lengths:
            tokens = generator.choices(range(vocabulary_size), k=length)
            row.append(Example(tokens, [position >= length * 3 // 4 for position in range(length)]))
        rows.append(row)
    return rows


def packed(rows: Batch) -> dict[str, Tensor]:
    """Texts behind one another in their row, with positions that begin anew with each text; int64 BT."""
    inputs: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "position_ids": []}
    for row in rows:
        inputs["input_ids"].append([token for text in row for token in text.tokens])
        inputs["labels"].append([label for text in row for label in [IGNORE, *text.targets]])
        inputs["position_ids"].append([position for text in row for position in range(len(text))])
    return {name: torch.tensor(values) for name, values in inputs.items()}


def our_model(base: Path) -> GPT:
    """The base as the assistant is trained: frozen weights stay as they are stored where bfloat16 is fast."""
    as_stored = processor().dtype == torch.bfloat16
    model, _ = load_model(base, build=build, context_length=WINDOW, as_stored=as_stored)
    add_lora(model, LoRAConfig(rank=RANK, alpha=ALPHA, targets=TARGETS))
    return model


def our_loss(model: GPT, rows: Batch, compute: Compute) -> Tensor:
    """The assistant's loss, the mean over the tokens that are learned."""
    total = response_loss(model, rows, compute, cross_entropy=model.backend.cross_entropy)
    return total / sum(text.counted for row in rows for text in row)


def their_model(folder: Path) -> nn.Module:
    """A model folder of `transformers`, all in the precision that is fastest here."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=processor().dtype, use_cache=False)


def ours(*, base: str, vocabulary_size: int, seconds: float) -> Figures:
    """Steps of ours."""
    timer = StepTimer(seconds, ROWS * WINDOW)
    losses: list[float] = []

    def loss(model: GPT, number: int, compute: Compute) -> Tensor:
        value = our_loss(model, conversations(number, vocabulary_size), compute)
        losses.append(value.item())
        return value

    time_ours(our_model(Path(base)), RECIPE, loss, timer=timer, lora=True)
    return timer.figures() | {"first loss": losses[-len(timer.seconds)]}  # the compiler had some before


def theirs(*, folder: str, vocabulary_size: int, seconds: float) -> Figures:
    """Steps of `peft`."""
    from peft import LoraConfig, get_peft_model

    timer = StepTimer(seconds, ROWS * WINDOW)
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
    model = get_peft_model(their_model(Path(folder)), lora, autocast_adapter_dtype=False)
    losses: list[float] = []

    def loss(number: int) -> Tensor:
        value = model(**packed(conversations(number, vocabulary_size))).loss
        losses.append(value.item())
        return value

    time_theirs(model, loss, config=RECIPE, timer=timer)
    return timer.figures() | {"first loss": losses[0]}


def main(arguments: list[str] | None = None) -> int:
    """Compare, print, write."""
    parser = make_parser("lora", __doc__, seconds=10)
    parser.add_argument("--base", type=Path, default=Path("models/published"), help="the model folder to fine-tune")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary_size = export(parser, options.base, Path(folder, "model"))
        size = {"vocabulary_size": vocabulary_size, "seconds": options.seconds}
        jobs = {
            OURS: Job("lora.ours", {"base": options.base} | size),
            "peft": Job("lora.theirs", {"folder": f"{folder}/model"} | size),
        }
        return compare(parser, options, [Table("LoRA", STEP, jobs)])


if __name__ == "__main__":
    sys.exit(main())
