"""Draw the book's pictures into docs/book/images: `python -m docs.book.pictures [NAME ...]`, by default all.

They need the models of `make run`. The name `loss.csv` stands for the training whose losses loss.svg shows: it needs
Moby-Dick (`dvc repro fetch@corpus`) and about two minutes.

Tensor names end in their shape: B texts, T positions of queries, S positions of keys, H heads, K heads of keys, D width
of a head, C width of the model, V tokens of the vocabulary, L likeliest tokens, N words or tokens, R rows of a matrix.
"""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from docs.book import diagrams
from docs.book.figure import BLUE, GREY, ORANGE, picture
from llm import from_scratch
from llm.config import TrainConfig
from llm.formats.model_folder import WEIGHTS, load_model
from llm.formats.weights import read_safetensors
from llm.loaded_model import LoadedModel
from llm.model.attention import Context, causal
from llm.model.gpt import GPT
from llm.training.optim import schedule

BOOK = Path(__file__).parent
IMAGES = BOOK / "images"
ROOT = BOOK.parents[1]
MODELS = ROOT / "models"
MOBY_DICK = ROOT / "data/raw/corpus/datasets-moby-dick/package/data/data.txt"


# ---- Losses of a training


def write_losses(text: str, path: Path, steps: int = 1000) -> None:
    """Run the training of `python llm/from_scratch.py` and write its losses in nats a token, a row every 25 steps.

    `train` is the mean since the row before, `unigram` the entropy of the tokens: what a model reaches that knows
    nothing but how frequent each one is.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    split = len(text) * 9 // 10
    tokenizer = from_scratch.Tokenizer(from_scratch.train_bpe(text[:split], vocabulary_size=2048))
    train_N = torch.tensor(tokenizer.encode(text[:split]))
    held_out_N = torch.tensor(tokenizer.encode(text[split:]))
    model = from_scratch.GPT(from_scratch.Config(vocabulary_size=len(tokenizer.bytes_of)))
    optimizer = from_scratch.optimizer_of(model)
    peaks = [group["lr"] for group in optimizer.param_groups]
    unigram = torch.distributions.Categorical(train_N.bincount().float()).entropy().item()
    rows: list[dict[str, float]] = []
    losses: list[float] = []
    for step in range(1, steps + 1):
        inputs_BT, targets_BT = from_scratch.draw_batch(train_N, 8, length=model.config.context_length)
        loss = from_scratch.cross_entropy(model(inputs_BT), targets_BT)
        loss.backward()
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * from_scratch.rate_at(step, steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step == 1 or step % 25 == 0:
            held_out = from_scratch.evaluate(model, held_out_N)
            train = sum(losses) / len(losses)
            rows.append({"step": step, "train": train, "held_out": held_out, "unigram": unigram})
            losses.clear()
    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4f", lineterminator="\n")


# ---- Numbers of models


WORDS = {
    "fruits": "orange apple lemon banana cherry pineapple",
    "colours": "pink yellow green blue black red",
    "animals": "dog horse cow tiger monkey sheep",
    "countries": "France Spain China Brazil Egypt",
}
LABELLED_LEFT = ("lemon", "cherry", "pineapple", "blue", "dog", "cow", "tiger", "France", "China", "Egypt")


def word_points(loaded: LoadedModel[GPT]) -> pd.DataFrame:
    """The group of each word and its place, x and y, on the plane that shows most of the words' variance (PCA)."""
    groups = {word: group for group, words in WORDS.items() for word in words.split()}
    tokens = [token for word in groups for token in loaded.encoding.encode_ordinary(f" {word}")]
    vectors_NC = loaded.model.embedding.token.weight.detach()[tokens]
    centred_NC = vectors_NC - vectors_NC.mean(dim=0)
    directions = torch.linalg.svd(centred_NC, full_matrices=False).Vh[:2]
    points_N2 = centred_NC @ directions.T
    farthest = points_N2.gather(0, points_N2.abs().argmax(dim=0, keepdim=True))
    points_N2 = points_N2 * farthest.sign()  # a direction has no sign of its own
    return pd.DataFrame(points_N2.numpy(), index=list(groups), columns=["x", "y"]).assign(group=groups)


REPEATING = "Anna lent Tom green books; Anna lent Tom green books"
HEADS = {"block 17, head 1:\nprevious token": (16, 0), "block 18, head 6:\ninduction": (17, 5)}


@torch.inference_mode()
def head_weights(model: GPT, tokens: list[int], block: int, head: int) -> Tensor:
    """How much each token looks at each, TS; blocks and heads count from 0."""
    layer = model.blocks[block].attention
    inputs: list[tuple[Tensor, Context]] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments))
    model(torch.tensor([tokens]))
    hook.remove()
    x_BTC, context = inputs[0]
    q_BHTD, k_BKTD, _ = layer.project_qkv(x_BTC, context.angles)
    q_TD = q_BHTD[0, head]
    k_SD = k_BKTD[0, head * layer.heads[1] // layer.heads[0]]  # several heads of queries share one of keys
    scores_TS = q_TD @ k_SD.T / math.sqrt(q_TD.shape[-1])
    return scores_TS.masked_fill(~causal(len(tokens)), -math.inf).softmax(dim=-1)


PROMPT = "She looked out of the window and saw a"
TEMPERATURES = (0.5, 1.0, 2.0)


@torch.inference_mode()
def next_tokens(loaded: LoadedModel[GPT], count: int = 8) -> pd.DataFrame:
    """The likeliest tokens after the prompt, and their probability at each temperature."""
    tokens_BT = torch.tensor([loaded.encoding.encode_ordinary(PROMPT)])
    logits_V = loaded.model(tokens_BT)[0, -1]
    likeliest_L = logits_V.topk(count).indices
    table = pd.DataFrame(index=[loaded.encoding.decode([token]) for token in likeliest_L.tolist()])
    for temperature in TEMPERATURES:
        table[temperature] = (logits_V / temperature).softmax(dim=-1)[likeliest_L].numpy()
    return table


LORA_MATRIX = "blocks.15.mlp.expand.weight"


def singular_values(before_RC: Tensor, after_RC: Tensor, count: int = 48) -> pd.DataFrame:
    """The largest singular values of a matrix and of what a fine-tune added to it."""
    matrices = {"matrix": before_RC.float(), "change": after_RC.float() - before_RC.float()}
    return pd.DataFrame({name: torch.linalg.svdvals(matrix)[:count].numpy() for name, matrix in matrices.items()})


# ---- Pictures


def neighbours(path: Path, loaded: LoadedModel[GPT]) -> None:
    """Words as points, placed by SmolLM2's embedding: groups stand together, and `orange` near the colours."""
    points = word_points(loaded)
    with picture(path, height=4.2) as figure:
        axes = figure.add_subplot(xticks=[], yticks=[])
        for (group, rows), marker in zip(points.groupby("group", sort=False), "os^D", strict=True):
            axes.plot(rows["x"], rows["y"], marker, markersize=5, label=group)
        for word, point in points.iterrows():
            side, alignment = (-1, "right") if word in LABELLED_LEFT else (1, "left")
            where = {"xytext": (5 * side, 0), "textcoords": "offset points", "ha": alignment, "va": "center"}
            axes.annotate(str(word), (point["x"], point["y"]), **where)
        axes.margins(x=0.1)
        figure.legend(loc="outside upper center", ncols=4, handletextpad=0, columnspacing=1)


def attention(path: Path, loaded: LoadedModel[GPT]) -> None:
    """Where two heads of SmolLM2 look, darker for more: one at the token before, one at what followed the last time.

    The second is an induction head (Olsson et al. 2022): the words come again, and it finds the next one. Where nothing
    came before it looks at the first token. Blocks and heads count from 1 in the picture.
    """
    tokens = loaded.encoding.encode_ordinary(REPEATING)
    labels = [loaded.encoding.decode([token]).strip() for token in tokens]
    places = np.arange(len(tokens))
    with picture(path) as figure:
        panels = figure.subplots(ncols=2, sharey=True)
        for axes, (title, (block, head)) in zip(panels, HEADS.items(), strict=True):
            weights_TS = head_weights(loaded.model, tokens, block=block, head=head)
            axes.imshow(weights_TS.numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="none")
            axes.set(title=title, xlabel="looks at")
            axes.set_xticks(places, labels, rotation=90)
            axes.set_yticks(places, labels)
            axes.grid(visible=False)
            axes.set_xticks(places[1:] - 0.5, minor=True)
            axes.set_yticks(places[1:] - 0.5, minor=True)
            axes.grid(which="minor")
            axes.tick_params(which="both", length=0)


def temperature(path: Path, loaded: LoadedModel[GPT]) -> None:
    """Bars show how likely each of eight tokens is. A low temperature favours the first; a high one evens them out."""
    table = next_tokens(loaded)
    with picture(path, height=4.2) as figure:
        axes = figure.add_subplot(title=f"{PROMPT} …", xlabel="probability")
        places = np.arange(len(table))
        for number, (degree, color) in enumerate(zip(TEMPERATURES, (BLUE, GREY, ORANGE), strict=True)):
            label = f"temperature {degree:g}; all other tokens: {1 - table[degree].sum():.0%}"
            axes.barh(places + 0.27 * (number - 1), table[degree], height=0.25, color=color, label=label)
        axes.set_yticks(places, table.index.str.strip())
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.legend(loc="lower right")


def learning_rates(path: Path, steps: int = 1000) -> None:
    """Two lines over the steps of a training: both rise at once, one stays at the top for a third, both fall to 0."""
    config = TrainConfig(steps=steps, batch_size=8, learning_rate=1e-3, evaluate_every=steps, checkpoint_every=steps)
    numbers = range(steps + 1)
    with picture(path, height=2.6) as figure:
        axes = figure.add_subplot(xlabel="step", ylabel="share of the learning rate")
        axes.plot(numbers, [from_scratch.rate_at(step, steps) for step in numbers], label="from_scratch.rate_at")
        axes.plot(numbers, [schedule(step, config) for step in numbers], "--", label="llm.training.optim.schedule")
        axes.legend(loc="lower left")


def loss(path: Path, losses: Path = BOOK / "loss.csv") -> None:
    """Two curves that fall fast, then slowly, far below the line of a model that knows only how frequent tokens are."""
    table = pd.read_csv(losses)
    with picture(path) as figure:
        axes = figure.add_subplot(xlabel="step", ylabel="loss (nats a token)")
        axes.plot(table["step"], table["train"], label="training text")
        axes.plot(table["step"], table["held_out"], "--", label="held-out text")
        axes.plot(table["step"], table["unigram"], ":", color=GREY, label="frequencies of tokens alone")
        axes.legend()


def gains(path: Path, losses: Path = BOOK / "gains.csv") -> None:
    """A row for each change on the way from GPT-2 to our model: a dot for each seed, and a bar at their mean."""
    table = pd.read_csv(losses)
    means = table.groupby("step", sort=False)["loss"].mean()
    with picture(path, height=1 + 0.3 * len(means)) as figure:
        axes = figure.add_subplot(xlabel="held-out loss (nats a token)")
        axes.plot(means, means.index, "|", color=ORANGE, markersize=14, markeredgewidth=2, label="mean")
        axes.plot(table["loss"], table["step"], "o", color=BLUE, markersize=4, label="one seed")
        axes.invert_yaxis()
        axes.legend()


def few_shot(path: Path, counts: Path = BOOK / "few-shot.csv") -> None:
    """A line that rises: with examples before a question more answers are right, and their choice matters less."""
    table = pd.read_csv(counts)
    questions = table["questions"].max()
    examples = table["examples"].astype(str)
    with picture(path, height=2.6) as figure:
        axes = figure.add_subplot(xlabel="examples before the question", ylabel=f"right answers of {questions}")
        axes.plot(examples, table["right"], "o-", label="mean")
        axes.fill_between(examples, table["lowest"], table["highest"], alpha=0.2, label="range by choice of examples")
        axes.set_ylim(0, questions)
        axes.legend(loc="lower right")


def lora(path: Path, before_RC: Tensor, after_RC: Tensor) -> None:
    """Singular values on a logarithmic axis: those of a matrix fall gently, those of its change drop at LoRA's rank."""
    values = singular_values(before_RC, after_RC)
    falls = values["change"] / values["change"].shift(-1)
    rank = int(falls.argmax()) + 1  # so many stand before the steepest fall
    with picture(path) as figure:
        axes = figure.add_subplot(xlabel="singular value, largest first", ylabel="size", yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        numbers = values.index + 1
        axes.plot(numbers, values["matrix"], ".", label="the matrix before the fine-tune")
        axes.plot(numbers, values["change"], "s", markersize=3, label="what the fine-tune added")
        axes.axvline(rank + 0.5, color=GREY, linestyle=":")
        axes.annotate(f"rank {rank}", (rank + 1, values["change"].iloc[0]))
        axes.legend(loc="center right", handletextpad=0)


OF_FILES = {"schedule": learning_rates, "loss": loss, "gains": gains, "few-shot": few_shot} | diagrams.DIAGRAMS
OF_SMOLLM2 = {"neighbours": neighbours, "attention": attention, "temperature": temperature}
NAMES = {*OF_FILES, *OF_SMOLLM2, "lora"}


def main() -> None:
    """Draw what the command line names."""
    names = set(sys.argv[1:]) or NAMES
    if unknown := names - {*NAMES, "loss.csv"}:
        sys.exit(f"{', '.join(sorted(unknown))}: the pictures are {', '.join(sorted(NAMES))}")
    if "loss.csv" in names:
        write_losses(MOBY_DICK.read_text(encoding="utf-8"), BOOK / "loss.csv")
    for name in OF_FILES.keys() & names:
        OF_FILES[name](IMAGES / f"{name}.svg")
    if of_smollm2 := OF_SMOLLM2.keys() & names:
        smollm2 = load_model(MODELS / "published")
        for name in of_smollm2:
            OF_SMOLLM2[name](IMAGES / f"{name}.svg", smollm2)
    if "lora" in names:
        before = read_safetensors(MODELS / "published" / WEIGHTS)
        after = read_safetensors(MODELS / "assistant" / WEIGHTS)
        lora(IMAGES / "lora.svg", before[LORA_MATRIX].read(), after_RC=after[LORA_MATRIX].read())


if __name__ == "__main__":
    main()
