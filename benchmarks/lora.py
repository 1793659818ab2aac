"""`python -m benchmarks.lora` tests that a step of LoRA is faster and takes less memory than one of `peft`.

Steps of SmolLM2-135M, rank 16 on all matrices of attention and MLP, on 4 x 512 tokens of short conversations, of which
a quarter is learned: ours as the assistant is trained on this kind of processor, against `peft` on `transformers`
(`.venv/bin/pip install peft`) in its fastest precision. `peft` gets the texts packed, with positions of which
`transformers` makes a mask, or padded, a text a row. All get the same texts of random tokens, and the loss of the first
step shows that all compute the same. Needs `dvc repro load_published`.
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


def labels(text: Example) -> list[int]:
    """The tokens that are learned; IGNORE elsewhere."""
    ignored = text.learned.count(False)
    return [IGNORE] * ignored + text.tokens[ignored:]


def packed(rows: Batch) -> dict[str, Tensor]:
    """Texts behind one another in their row, with positions that begin anew with each text; int64 BT."""
    inputs: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "position_ids": []}
    for row in rows:
        inputs["input_ids"].append([token for text in row for token in text.tokens])
        inputs["labels"].append([label for text in row for label in labels(text)])
        inputs["position_ids"].append([position for text in row for position in range(len(text))])
    return {name: torch.tensor(values) for name, values in inputs.items()}


def padded(rows: Batch) -> dict[str, Tensor]:
    """Each text a row, padded on the right; int64, texts x the longest."""
    texts = [text for row in rows for text in row]
    longest = max(map(len, texts))
    inputs: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for text in texts:
        padding = longest - len(text)
        inputs["input_ids"].append(text.tokens + [0] * padding)
        inputs["labels"].append(labels(text) + [IGNORE] * padding)
        inputs["attention_mask"].append([1] * len(text) + [0] * padding)
    return {name: torch.tensor(values) for name, values in inputs.items()}


FORMS = {"packed": packed, "padded": padded}


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


def theirs(*, folder: str, form: str, vocabulary_size: int, seconds: float) -> Figures:
    """Steps of `peft`."""
    from peft import LoraConfig, get_peft_model

    timer = StepTimer(seconds, ROWS * WINDOW)
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
    model = get_peft_model(their_model(Path(folder)), lora, autocast_adapter_dtype=False)
    losses: list[float] = []

    def loss(number: int) -> Tensor:
        value = model(**FORMS[form](conversations(number, vocabulary_size))).loss
        losses.append(value.item())
        return value

    time_theirs(model, loss, config=RECIPE, timer=timer)
    return timer.figures() | {"first loss": losses[0]}


def main(arguments: list[str] | None = None) -> int:
    """Compare, print, write."""
    parser = make_parser("lora", __doc__)
    parser.add_argument("--base", type=Path, default=Path("models/published"), help="the model folder to fine-tune")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary_size = export(parser, options.base, Path(folder, "model"))
        size = {"vocabulary_size": vocabulary_size, "seconds": 2.0 if options.quick else 10.0}
        jobs = {OURS: Job("lora.ours", {"base": options.base} | size)}
        for form in FORMS:
            jobs[f"peft, {form}"] = Job("lora.theirs", {"folder": f"{folder}/model", "form": form} | size)
        title = f"LoRA, {ROWS * WINDOW:,} tokens a step in {ROWS * TEXTS} texts"
        return compare(parser, options, [Table(title, STEP, jobs)])


if __name__ == "__main__":
    sys.exit(main())
