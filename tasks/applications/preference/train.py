"""The assistant once more, tuned on right and wrong answers of its own to questions whose answers can be checked."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import tiktoken
import torch
from pydantic import Field
from tqdm import tqdm

from llm.chat import prompt_tokens, turn_ends
from llm.device import Compute, choose_compute
from llm.errors import UserError
from llm.formats.model_folder import load_model
from llm.generation.engine import Request
from llm.generation.sampling import Sampling
from llm.generation.text import MOST_AT_ONCE, run
from llm.model.lora import add_lora
from llm.objectives.assistant import Assistant, Example, answer_all, build, encode_example
from llm.objectives.preference import Pair, objective
from llm.tokenizer import decode
from llm.training.loop import Row
from llm.training.workers import Workers
from tasks.applications import Training
from tasks.data.conversations import is_right, questions_of
from tasks.training.setup import FinetuneConfig, Throughput, TrainingSetup, keeps_precision, split_file

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
    """Of these draws: the higher, the more an answer differs from the next."""
    max_new_tokens: int = Field(gt=0)
    """A drawn answer of more tokens is none, and one at an evaluation is cut."""
    max_tokens: int = Field(gt=0)
    """Tokens of the longest conversation that is learned from; longer ones are left out."""
    beta: float = Field(default=0.1, gt=0)
    """How dear it is to move away from the base: the higher, the closer the model stays to it."""
    nll: float = Field(default=0.0, ge=0)
    """Weight of the chosen answer's own cross-entropy a token beside the DPO loss; 0 is DPO alone."""


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


def prepare(params: Train, data: Path, base: Path, workers: Workers) -> TrainingSetup:
    """The base and the pairs that it makes itself, the same ones for the same seed."""
    compute = choose_compute()
    torch.manual_seed(params.seed)
    model, encoding = load_model(
        base, compute.device, build=build, dropout=params.dropout, as_stored=keeps_precision(params, compute, workers)
    )
    tables = {
        split: checkable_rows(split_file(data, split), rows, model, encoding, params)
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
        shown = zip(questions[:5], said[:5], strict=True)
        return {
            "validation_exact_match": sum(right) / len(right),
            "samples": [f"{' '.join([asked.instruction, asked.input]).strip()} -> {text}" for asked, text in shown],
        }

    goal = objective(
        *(model, params, train, validation, compute), beta=params.beta, nll=params.nll, exam=exam, workers=workers
    )
    return TrainingSetup(
        *(model, encoding, goal, compute), Throughput("pairs", params.batch_size * params.gradient_accumulation)
    )


TRAINING = Training(objective="assistant", train=Train, prepare=prepare)
