"""How fast a CPU trains LoRA: `python -m benchmarks.lora_speed`.

Training steps of SmolLM2-135M, rank 16 on all matrices of attention and MLP, on 4 x 512 tokens of short conversations:
this project as it trains its assistant, against `peft` on `transformers` where `pip install peft` has added it. Each
contender runs in fresh processes that take turns; figures are medians over all steps of all rounds. Tokens are random,
a quarter of each text is learned, and all get the same texts. All train without dropout, with fused AdamW, and clip.

`peft` gets the texts padded (a text a row), packed (each text sees those before it in its row), or separated (packed,
with positions of which `transformers` makes a mask). Its frozen weights are float32 or bfloat16 under autocast, or
everything is bfloat16; a processor without bfloat16 runs float32 alone. Ours, compiled, multiplies frozen weights in 8
bits where the pipeline does: with VNNI and without AMX. The loss of the first step shows that all compute the same,
except for packed texts, which see each other.
"""

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contenders import (
    DTYPES,
    ENDLESS,
    LONG,
    PRECISION,
    Peer,
    StepTimer,
    our_steps,
    peer_steps,
    step_figures,
)
from benchmarks.harness import (
    FAILED,
    OURS,
    Figures,
    Job,
    Table,
    choose,
    finish,
    make_parser,
    run_in_turns,
)

PEFT = "peft"
RANK, ALPHA, RATE, CLIP = 16, 32, 8e-4, 1.0  # as params.yaml has them for the assistant
FROZEN = "bfloat16 weights" if PRECISION == "bf16" else "float32 weights"  # as the pipeline keeps them here
IGNORED = -100  # by the losses of transformers, as by ours


@dataclass(frozen=True)
class Text:
    """A conversation."""

    tokens: list[int]
    learned: int
    """How many of the last tokens are learned."""

    @property
    def is_learned(self) -> list[bool]:
        """Whether each token is learned."""
        return [label != IGNORED for label in self.labels]

    @property
    def labels(self) -> list[int]:
        """The tokens that are learned; IGNORED elsewhere."""
        ignored = len(self.tokens) - self.learned
        return [IGNORED] * ignored + self.tokens[ignored:]


Rows = list[list[Text]]
Inputs = dict[str, Tensor]
"""The keyword arguments of a model of `transformers`."""


@dataclass(frozen=True)
class Contender:
    """Ours, or `peft` with its weights in a precision and its texts in rows of a form."""

    library: str
    precision: str = FROZEN
    form: str = "separated"

    def __str__(self) -> str:
        return f"{self.library}, {self.precision}, {self.form}"


@dataclass(frozen=True)
class Size:
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
    generator = random.Random(number)
    mean = size.window // size.texts
    rows = []
    for _ in range(size.rows):
        lengths = [generator.randint(mean * 5 // 8, mean) for _ in range(size.texts // 2)]
        lengths += [2 * mean - length for length in lengths]
        generator.shuffle(lengths)
        row = []
        for length in lengths:
            tokens = generator.choices(range(size.vocabulary), k=length)
            row.append(Text(tokens, learned=length // 4))
        rows.append(row)
    return rows


def padded(rows: Rows) -> Inputs:
    """Each text a row, padded on the right, as a collator makes them; int64, 32 texts x the longest."""
    texts = [text for row in rows for text in row]
    longest = max(len(text.tokens) for text in texts)
    inputs: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for text in texts:
        padding = longest - len(text.tokens)
        inputs["input_ids"].append(text.tokens + [0] * padding)
        inputs["attention_mask"].append([1] * len(text.tokens) + [0] * padding)
        inputs["labels"].append(text.labels + [IGNORED] * padding)
    return {name: torch.tensor(values) for name, values in inputs.items()}


def packed(rows: Rows) -> Inputs:
    """Texts behind one another in their row, each seeing those before it; int64 BT."""
    inputs: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for row in rows:
        inputs["input_ids"].append([token for text in row for token in text.tokens])
        inputs["labels"].append([label for text in row for label in text.labels])
    return {name: torch.tensor(values) for name, values in inputs.items()}


def separated(rows: Rows) -> Inputs:
    """The same with positions that begin anew with each text, which `transformers` takes for its end; int64 BT."""
    positions = []
    for row in rows:
        positions.append([position for text in row for position in range(len(text.tokens))])
    return packed(rows) | {"position_ids": torch.tensor(positions)}


FORMS: dict[str, Callable[[Rows], Inputs]] = {"padded": padded, "packed": packed, "separated": separated}


@dataclass(frozen=True)
class Precision:
    """How `peft` computes."""

    frozen: torch.dtype
    trained: torch.dtype
    autocast: bool
    """Whether products are bfloat16."""


PRECISIONS = {FROZEN: Precision(torch.float32, torch.float32, autocast=False)}
if PRECISION == "bf16":
    PRECISIONS = {
        "autocast": Precision(torch.float32, torch.float32, autocast=True),
        FROZEN: Precision(torch.bfloat16, torch.float32, autocast=True),
        "all bfloat16": Precision(torch.bfloat16, torch.bfloat16, autocast=False),
    }
EAGER, COMPILED = Contender(OURS), Contender(OURS, form="separated, compiled")
OTHERS = [Contender(PEFT, precision, form) for precision in PRECISIONS for form in FORMS]


def transformers_model(folder: Path, precision: Precision) -> nn.Module:
    """A folder in Hugging Face's layout, with the attention that `transformers` chooses."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=precision.frozen, use_cache=False)


def with_peft(model: nn.Module, precision: Precision) -> nn.Module:
    """Its matrices frozen, each with an update of RANK beside it; `peft` keeps updates in float32 unless told."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
    return get_peft_model(model, lora, autocast_adapter_dtype=precision.trained == torch.float32)


def their_loss(model: nn.Module, precision: Precision, inputs: Inputs) -> Tensor:
    """The loss that `transformers` computes, the mean over what is learned."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision.autocast):
        return model(**inputs).loss


def our_model(folder: Path, window: int) -> nn.Module:
    """A model folder as the assistant is trained: what LoRA freezes stays as it is stored, where bfloat16 is fast."""
    from llm.config import LoRAConfig
    from llm.formats.model_folder import load_model
    from llm.model.lora import add_lora
    from llm.objectives.assistant import build

    model, _ = load_model(folder, build=build, context_length=window, as_stored=PRECISION == "bf16")
    targets = ("query_key_value", "projection", "gate", "expand")
    add_lora(model, LoRAConfig(rank=RANK, alpha=ALPHA, targets=targets))
    return model


def our_loss(model: nn.Module, rows: Rows) -> Tensor:
    """The assistant's loss of packed windows, the mean over what is learned."""
    from llm.device import Compute
    from llm.objectives.assistant.examples import Example
    from llm.objectives.assistant.loss import response_loss

    compute = Compute(torch.device("cpu"), DTYPES[PRECISION], "as the benchmark asks")
    windows = []
    for row in rows:
        windows.append([Example(text.tokens, text.is_learned) for text in row])
    total = response_loss(model, windows, compute, cross_entropy=model.backend.cross_entropy)
    return total / sum(example.counted for row in windows for example in row)


def measure(
    *, contender: dict[str, Any], folders: dict[str, str], size: dict[str, Any], timer: dict[str, Any]
) -> Figures:
    """Train in this process until the timer has enough steps."""
    contestant, step_timer, step_size = Contender(**contender), StepTimer(**timer), Size(**size)
    folder = Path(folders[contestant.library])
    torch.manual_seed(1)
    losses: list[float] = []

    def noted(loss: Tensor) -> Tensor:
        losses.append(loss.item())
        return loss

    if contestant.library == OURS:
        from llm.config import TrainConfig

        config = TrainConfig(
            seed=1, batch_size=step_size.rows, learning_rate=RATE, weight_decay=0, gradient_clip=CLIP, **ENDLESS
        )
        network = our_model(folder, step_size.window)

        def loss_of_step(model: nn.Module, index: int) -> Tensor:
            return noted(our_loss(model, conversations(index, step_size)))

        our_steps(
            network,
            config,
            loss=loss_of_step,
            report=step_timer.seconds.append,
            stop=step_timer.is_enough,
            tokens=LONG if contestant == COMPILED else 0,
            dtype=DTYPES[PRECISION],
        )
    else:
        precision = PRECISIONS[contestant.precision]
        network = with_peft(transformers_model(folder, precision), precision)
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, fused=True)

        def loss(inputs: Inputs) -> Tensor:
            return noted(their_loss(network, precision, inputs))

        def batches(number: int) -> tuple[Inputs]:
            rows = conversations(number, step_size)
            return (FORMS[contestant.form](rows),)

        step_timer.run(peer_steps(Peer(network), loss=loss, optimizer=optimizer, batches=batches, clip=CLIP))
    first_loss = losses[-len(step_timer.seconds)]  # the compiler had its own before
    trained_weights = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    return step_timer.figures() | {"first_loss": first_loss, "trained_weights": trained_weights}


def export(base: Path, folder: Path) -> int:
    """Write a model folder as `transformers` loads it, in the precision that it is stored in; its vocabulary's size."""
    from llm.formats.export_huggingface import export_huggingface
    from llm.formats.model_folder import load_model

    loaded = load_model(base, as_stored=True)
    export_huggingface(folder, loaded)
    return loaded.model.config.vocabulary_size


def _figures(rounds: list[Figures], tokens: int) -> Figures:
    figures = step_figures(rounds, tokens)
    if FAILED in figures:
        return figures
    return figures | {"trained weights": rounds[0]["trained_weights"], "first loss": rounds[0]["first_loss"]}


def main(arguments: list[str] | None = None) -> None:
    """Compare, print, write."""
    parser = make_parser("lora_speed", __doc__, rounds=3)
    parser.add_argument("--only", nargs="+", metavar="CONTENDER", help="of those in the table")
    parser.add_argument("--base", type=Path, default=Path("models/published"), help="a model folder to fine-tune")
    parser.add_argument("--seconds", type=float, default=10, help="a process trains so long after its warm-up")
    parser.add_argument("--warmup", type=int, default=2, help="steps of a process that do not count")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each process")
    parser.add_argument("--rows", type=int, default=4, help="packed rows a step")
    parser.add_argument("--window", type=int, default=512, help="tokens of a packed row")
    parser.add_argument("--texts", type=int, default=8, help="texts of a packed row")
    options = parser.parse_args(arguments)
    if options.texts < 2 or options.texts % 2 or options.window < 8 * options.texts:
        parser.error(f"--texts {options.texts}: an even number, each of at least 8 of --window {options.window} tokens")
    if not (options.base / "config.json").exists():
        parser.error(f"--base {options.base}: no model folder; `dvc repro load_published` makes models/published")
    has_peft = find_spec(PEFT) is not None
    here = [EAGER, COMPILED, *(OTHERS if has_peft else [])]
    contenders = {str(contender): contender for contender in here}
    names = choose(parser, options.only, contenders)

    with tempfile.TemporaryDirectory() as temporary:
        folders = {OURS: str(options.base.absolute()), PEFT: str(Path(temporary, "model"))}
        vocabulary = export(options.base, Path(folders[PEFT]))
        size = Size(options.rows, window=options.window, texts=options.texts, vocabulary=vocabulary)
        timer = StepTimer(options.warmup, options.seconds)
        jobs = {}
        for name in names:
            arguments_of_job = {"contender": contenders[name], "folders": folders, "size": size, "timer": timer}
            jobs[name] = Job("benchmarks.lora_speed:measure", arguments_of_job, options.threads)
        measured = run_in_turns(jobs, options.rounds)
    figures = {name: _figures(rounds, size.tokens) for name, rounds in measured.items()}
    title = f"LoRA: {size.tokens:,} tokens a step, {size.rows * size.texts} texts"
    packages = ["transformers", PEFT] if has_peft else ["transformers"]
    finish(options, [Table(title, "seconds a step", figures, less_is_better=True)], packages)


if __name__ == "__main__":
    main()
