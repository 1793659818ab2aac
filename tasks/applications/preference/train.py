"""The assistant once more, tuned on right and wrong answers of its own to questions whose answers can be checked.

Direct preference optimisation (DPO, Rafailov et al. 2023) needs no model of rewards: an answer's reward is how much
likelier the tuned model makes it than the model that it started from, the reference. The loss needs one number a pair
of the reference, which is computed once, before training, so no second model stays in memory.

Tensor names end in their shape: B pairs, T positions, N tokens that count, R of them at a time, C width of the model,
V vocabulary.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import tiktoken
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from llm.chat import prompt_tokens, turn_ends
from llm.config import FinetuneConfig, TrainConfig
from llm.dataset import BatchSampler
from llm.device import Compute, choose_compute
from llm.errors import UserError
from llm.formats.model_folder import load_model
from llm.generation.request import Request
from llm.generation.sampling import Sampling
from llm.generation.text import MOST_AT_ONCE, run
from llm.kernels.training.cross_entropy import IGNORE, ROWS
from llm.model.gpt import GPT
from llm.model.lora import add_lora
from llm.objectives.assistant import Assistant, Example, answer_all, batch, build, encode_example, shown_answers
from llm.objectives.assistant.rows import is_right, questions_of
from llm.tokenizer import decode
from llm.training.loop import Objective, Row
from llm.training.workers import ALONE, Workers
from tasks.training.description import Training
from tasks.training.setup import Throughput, TrainingFiles, TrainingSetup, keeps_precision, split_file

AT_ONCE = 4 * MOST_AT_ONCE  # answers between two words of the progress bar

logger = logging.getLogger(__name__)


class Train(FinetuneConfig):
    """The pairs of answers that an assistant gives, and its tuning on them."""

    rows: int = Field(gt=0)
    """Training questions that are asked for pairs; only those whose answers can be checked."""
    validation_rows: int = Field(gt=0)
    """Validation questions that are asked for pairs, and answered at every evaluation."""
    samples: int = Field(ge=2)
    """Answers drawn to each question."""
    temperature: float = Field(default=1.0, gt=0)
    """The temperature of these draws: the higher, the more answers differ."""
    max_new_tokens: int = Field(gt=0)
    """A drawn answer of more tokens is none, and one at an evaluation is cut."""
    max_tokens: int = Field(gt=0)
    """Tokens of the longest conversation that is learned from; longer ones are left out."""
    beta: float = Field(default=0.1, gt=0)
    """The cost of moving away from the base: the higher, the closer the model stays to it."""
    nll: float = Field(default=0.0, ge=0)
    """Weight of the chosen answer's own cross-entropy a token beside the DPO loss; 0 is DPO alone."""


class Pair(NamedTuple):
    """Two answers to one question, each as its whole conversation."""

    chosen: Example
    """The better one."""
    rejected: Example


def _token_losses(x_RC: Tensor, weight_VC: Tensor, targets_R: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x_RC, weight_VC).float(), targets_R, reduction="none")


def log_probabilities(model: GPT, pairs: Sequence[Pair], compute: Compute) -> Tensor:
    """Log-probability, in nats, of all that the assistant says, float32 B2: the chosen answer's, the rejected one's.

    Logits exist for ROWS tokens at a time; the backward pass makes them again.
    """
    inputs_BT, targets_BT, *_ = (t.to(compute.device) for t in batch([[each] for pair in pairs for each in pair]))
    counted_BT = targets_BT != IGNORE
    with compute.autocast():
        x_NC, targets_N = model.hidden_states(inputs_BT)[counted_BT], targets_BT[counted_BT]
        pieces = zip(x_NC.split(ROWS), targets_N.split(ROWS), strict=True)
        losses = [
            checkpoint(_token_losses, x_RC, model.output_weight, targets_R, use_reentrant=False)
            for x_RC, targets_R in pieces
        ]
    losses_BT = torch.zeros(targets_BT.shape, device=compute.device).masked_scatter(counted_BT, torch.cat(losses))
    return -losses_BT.sum(dim=1).view(-1, 2)


def dpo_loss(margin_B: Tensor, reference_B: Tensor, beta: float) -> Tensor:
    """`-log sigmoid(beta * (margin - reference))` of each pair, B (Rafailov et al. 2023, equation 7).

    A margin is the log-probability of the chosen answer less that of the rejected one, in nats: `margin` the tuned
    model's, `reference` that of the model before.
    """
    return -F.logsigmoid(beta * (margin_B - reference_B))


def preference_loss(
    model: GPT, pairs: Sequence[Pair], reference_B: Tensor, beta: float, nll: float, compute: Compute
) -> Tensor:
    """The sum over a batch's pairs of the DPO loss and `nll` times the chosen answer's mean cross-entropy a token.

    DPO alone may make both answers less likely; the second term keeps the better one up (Pang et al. 2024).
    """
    said_B2 = log_probabilities(model, pairs, compute)
    chosen_B, rejected_B = said_B2.unbind(dim=1)
    losses_B = dpo_loss(chosen_B - rejected_B, reference_B, beta)
    if nll:
        counted_B = torch.tensor([pair.chosen.counted for pair in pairs], device=compute.device)
        losses_B = losses_B - nll * chosen_B / counted_B
    return losses_B.sum()


@torch.no_grad()
def margins(model: GPT, pairs: Sequence[Pair], batch_size: int, compute: Compute) -> Tensor:
    """How much likelier the model finds each chosen answer than the rejected one, in nats, float32 B."""
    parts = [pairs[first : first + batch_size] for first in range(0, len(pairs), batch_size)]
    said_B2 = torch.cat([log_probabilities(model, part, compute) for part in parts])
    return said_B2[:, 0] - said_B2[:, 1]


def objective(
    model: Assistant,
    config: TrainConfig,
    pairs: Sequence[Pair],
    validation: Sequence[Pair],
    compute: Compute,
    *,
    beta: float,
    nll: float,
    exam: Callable[[], Row],
    workers: Workers = ALONE,
) -> Objective:
    """Learn from pairs; keep the weights with the highest `validation_exact_match`, which `exam` finds.

    The model as it comes is the reference, and its weights stay if no later ones are better.
    """
    order = BatchSampler(len(pairs), config.batch_size, config.seed)
    reference_B, validation_reference_B = (
        margins(model, part, config.batch_size, compute) for part in (pairs, validation)
    )

    def loss(training_model: Assistant, index: int) -> Tensor:
        rows = workers.part(order[index])
        total = preference_loss(training_model, [pairs[row] for row in rows], reference_B[rows], beta, nll, compute)
        return total * workers.count / config.batch_size

    def evaluate() -> Row:
        margin_B = margins(model, validation, config.batch_size, compute)
        gain_B = margin_B - validation_reference_B
        return {
            "validation_loss": dpo_loss(margin_B, validation_reference_B, beta).mean().item(),
            "validation_margin": gain_B.mean().item(),
            "validation_preferred": (gain_B > 0).float().mean().item(),
            **exam(),
        }

    return Objective(loss, evaluate, best="validation_exact_match", lower_is_better=False, start_counts=True)


def checkable_rows(
    path: Path, count: int, model: Assistant, encoding: tiktoken.Encoding, params: Train
) -> pd.DataFrame:
    """`count` rows of a split, or all, in an order of the seed: their answers can be checked, and have room.

    Raises UserError, naming the file, where there is none.
    """
    table = pd.read_parquet(path)
    table = table[table["answers"].map(len) > 0].sample(frac=1, random_state=params.seed)
    longest = min(params.max_tokens, model.config.context_length) - params.max_new_tokens
    prompts = (prompt_tokens(encoding, model.chat, asked.messages()) for asked in questions_of(table))
    fit = [len(tokens) <= longest for tokens in prompts]
    if not any(fit):
        raise UserError(
            f"{path}: no row has `answers` to check and leaves {params.max_new_tokens} of {params.max_tokens} tokens "
            "for one; preference tuning needs such rows"
        )
    return table[fit].head(count)


def draw_answers(
    model: Assistant, encoding: tiktoken.Encoding, table: pd.DataFrame, params: Train, split: str
) -> list[list[str]]:
    """What the model says to each row, `samples` times, each draw with a seed of its own; unended answers are left out.

    An answer that is cut would teach to end in the middle of a sentence.
    """
    prompts = [prompt_tokens(encoding, model.chat, asked.messages()) for asked in questions_of(table)]
    repeated = [prompt for prompt in prompts for _ in range(params.samples)]
    ends, first_seed = turn_ends(encoding, model.chat), params.seed * 1_000_003
    requests = [
        Request(prompt, params.max_new_tokens, Sampling(temperature=params.temperature, seed=first_seed + draw), ends)
        for draw, prompt in enumerate(repeated)
    ]
    texts: list[list[int]] = []
    with tqdm(total=len(requests), desc=f"answers to {split}", unit="answer", dynamic_ncols=True) as bar:
        for first in range(0, len(requests), AT_ONCE):
            texts += [text.tokens for text in run(model, requests[first : first + AT_ONCE])]
            bar.update(len(texts) - first)
    said = [None if len(text) == params.max_new_tokens else decode(encoding, text).strip() for text in texts]
    starts = range(0, len(said), params.samples)
    return [[text for text in said[start : start + params.samples] if text is not None] for start in starts]


def right_and_wrong(said: Sequence[str], answers: Sequence[str], output: str) -> tuple[str, str] | None:
    """A right and a wrong answer to one question, of those that were said; None where none of them is wrong.

    Where none is right, it is the data's own `output`.
    """
    right = [text for text in said if is_right(text, answers)]
    wrong = [text for text in said if not is_right(text, answers)]
    return (right[0] if right else output, wrong[0]) if wrong else None


def _of_the_answer(example: Example) -> Example:
    """The same conversation, of which only the last turn is learned: the earlier ones are in both of a pair."""
    end = len(example.learned) - example.learned[::-1].index(True)
    start = end - example.learned[:end][::-1].index(False)
    return replace(example, learned=[start <= place < end for place in range(len(example))])


def make_pairs(
    model: Assistant, encoding: tiktoken.Encoding, table: pd.DataFrame, params: Train, compute: Compute, split: str
) -> list[Pair]:
    """A pair of each row whose drawn answers give one; the log says how many do, and how many needed the data's own.

    Raises UserError where no row does.
    """
    with compute.autocast():
        drawn = draw_answers(model, encoding, table, params, split)
    longest = min(params.max_tokens, model.config.context_length)
    pairs: list[Pair] = []
    own = wrong = 0
    for asked, said, answers, output in zip(questions_of(table), drawn, table["answers"], table["output"], strict=True):
        if (answered := right_and_wrong(said, answers, output)) is None:
            continue
        wrong += 1
        examples = [encode_example(encoding, model.chat, asked, text) for text in answered]
        if max(map(len, examples)) <= longest:
            pairs.append(Pair(*map(_of_the_answer, examples)))
            own += answered[0] not in said
    if wrong and not pairs:
        raise UserError(
            f"{split}: {wrong} of {len(table)} questions got a wrong answer, and with it or the right one none fits "
            f"{longest} tokens: raise `max_tokens`, or bring shorter rows"
        )
    if not pairs:
        raise UserError(
            f"{split}: none of {len(table)} questions got a wrong answer in {params.samples} draws at temperature "
            f"{params.temperature}: raise `rows` and `validation_rows`, `samples` or `temperature`"
        )
    logger.info(
        "%s: %d questions gave %d pairs (%.0f %%), %d of them (%.0f %%) with the right answer from the data; "
        "%d more are longer than %d tokens",
        *(split, len(table), len(pairs), 100 * len(pairs) / len(table), own, 100 * own / len(pairs)),
        *(wrong - len(pairs), longest),
    )
    return pairs


def prepare(params: Train, files: TrainingFiles, workers: Workers) -> TrainingSetup:
    """The base and the pairs that it makes itself, the same ones for the same seed."""
    compute = choose_compute()
    torch.manual_seed(params.seed)
    model, encoding = load_model(
        files.base,
        compute.device,
        build=build,
        dropout=params.dropout,
        as_stored=keeps_precision(params, compute, workers),
    )
    tables = {
        split: checkable_rows(split_file(files.dataset, split), rows, model, encoding, params)
        for split, rows in {"train": params.rows, "validation": params.validation_rows}.items()
    }
    train, validation = (make_pairs(model, encoding, table, params, compute, split) for split, table in tables.items())
    if params.lora:
        add_lora(model, params.lora)
    table = tables["validation"]
    questions = questions_of(table)

    def exam() -> Row:
        with compute.autocast():
            said = answer_all(model, encoding, questions, max_new_tokens=params.max_new_tokens)
        right = list(map(is_right, said, table["answers"]))
        return {"validation_exact_match": sum(right) / len(right)}

    goal = objective(
        *(model, params, train, validation, compute), beta=params.beta, nll=params.nll, exam=exam, workers=workers
    )
    return TrainingSetup(
        *(model, encoding, goal, compute), Throughput("pairs", params.batch_size * params.gradient_accumulation)
    )


def samples(setup: TrainingSetup, data: Path, evaluate: Mapping[str, Any]) -> list[str]:
    """Some questions of the validation split with the model's answers."""
    table = pd.read_parquet(split_file(data, "validation"))
    return shown_answers(setup.model, setup.encoding, questions_of(table), setup.compute)


TRAINING = Training(objective="assistant", train=Train, prepare=prepare, samples=samples)
