"""How good answers to instructions are, next to those of a prompted base and of the most similar training row."""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import tiktoken
from pydantic import Field
from sklearn.feature_extraction.text import TfidfVectorizer
from tqdm import tqdm

from llm.chat import turn_ends
from llm.config import Config
from llm.device import Compute
from llm.errors import UserError
from llm.formats.model_folder import load_model, read_config
from llm.generation.packed import pack_for_inference
from llm.generation.request import Request
from llm.generation.sampling import GREEDY
from llm.generation.text import run
from llm.loaded_model import LoadedModel
from llm.objectives.assistant import Assistant, Question, build
from llm.objectives.assistant.examples import Example
from llm.objectives.assistant.loops import has_loop
from llm.objectives.assistant.rows import contains_answer, examples_of, is_right, questions_of
from llm.tokenizer import decode, letterless_tokens
from tasks.applications.assistant import behaviour
from tasks.applications.assistant.baseline import Turns, brief, shots, with_shots
from tasks.applications.assistant.judge import Judge, judge_answers
from tasks.applications.assistant.rouge import rouge_l
from tasks.measures.description import Evaluation
from tasks.measures.intervals import Wordings, interval, lead, with_interval
from tasks.measures.tables import for_spreadsheets
from tasks.training.setup import split_file

MARGIN = 16  # tokens by which a checkable answer may be longer than all that count: it is wrong however it goes on
TOGETHER = 256  # questions that are asked at once: in the batch one takes the place of another that is answered

OTHERS = ("baseline_", "nearest_")
"""How the names of the others' metrics and columns begin."""
COLUMNS = {"exact_match": "correct", "contains_answer": "contains", "rouge_l": "rouge_l"}
"""The metrics of answers, and the columns of the evidence with each row's part in them."""
CHECKED = ("correct", "contains")
"""The columns that are blank for rows without right answers to compare with."""

logger = logging.getLogger(__name__)


class Evaluate(Config):
    """How the assistant is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Rows that are answered at once."""
    max_new_tokens: int = Field(gt=0)
    """An answer is cut after this many tokens, one that a rule checks when it is longer than what could be right."""
    samples: int = Field(default=30, ge=0)
    """Answers kept for people to read."""
    judge: Judge | None = None
    """Scores answers that no rule checks, by a language model at an endpoint; null leaves it out."""


@dataclass(frozen=True)
class _Contender:
    """A model that is measured, and what it is asked."""

    prefix: str
    """How the names of its metrics and columns begin."""
    name: str
    model: Assistant
    encoding: tiktoken.Encoding
    examples: Sequence[Sequence[Turns]]
    """The conversations that stand before each row of the test split."""
    questions: Sequence[Question]
    """What people ask."""


def _contenders(
    ours: _Contender, base: Path, compute: Compute, train: pd.DataFrame, test: pd.DataFrame
) -> list[_Contender]:
    """Ours and its base, untuned and prompted as baseline.py says; a base that is an assistant is asked as ours is."""
    context_length = ours.model.config.context_length
    model, encoding = load_model(base, compute.device, build=build, context_length=context_length)
    penalty = {"text_penalty": ours.model.chat.text_penalty}
    model.chat = model.chat.model_copy(update=penalty)  # both are decoded alike
    base_contender = replace(ours, prefix="baseline_", name="its base", model=model, encoding=encoding)
    if read_config(base)["objective"] != "assistant":
        questions = list(map(brief, ours.questions))
        base_contender = replace(base_contender, examples=shots(train, test), questions=questions)
    return [ours, base_contender]


def _answers(contender: _Contender, test: pd.DataFrame, file: Path, params: Evaluate) -> tuple[list[str], float, int]:
    """Greedy answers, empty where the context has no room for one; the loss of those that are in the rows, in nats a
    token, but for rows that are too long; and how many questions had no room.

    Before each row stand its examples, as many as fit. Answers and loss come at once, so that what is asked is read one
    time. Untuned weights would write on to the last token. Raises UserError where no question has room.
    """
    model, encoding, name, shown = contender.model, contender.encoding, contender.name, contender.examples
    context, ends = model.config.context_length, turn_ends(encoding, model.chat)
    sampling, exempt = GREEDY.with_default_penalty(model.chat.text_penalty), letterless_tokens(encoding)
    counted = (encoding.encode_ordinary_batch(list(each)) for each in test["answers"])
    most = [min(params.max_new_tokens, max(map(len, each), default=sys.maxsize) + MARGIN) for each in counted]
    rows = zip(questions_of(test), test["output"], shown, most, strict=True)
    examples = [
        with_shots(encoding, model.chat, question, output, turns, context - new)
        for question, output, turns, new in rows
    ]
    long = sum(len(example) > context for example in examples)
    if long == len(examples):
        examples_of(
            encoding,
            model.chat,
            test,
            longest=context,
            file=file,
            way_out="raise train.context_length, or bring shorter rows",
        )
    if long:
        logger.warning(
            "%s: %d of %d rows are longer than %d tokens: no part of its loss", name, long, len(test), context
        )
    requests, roomy = dict[int, Request](), set[int]()
    for n in sorted(range(len(examples)), key=lambda n: (shown[n], len(examples[n]))):  # shared beginnings, no padding
        example = examples[n]
        asked = max((place for place, learned in enumerate(example.learned, 1) if not learned), default=0)
        if asked + most[n] <= context:
            roomy.add(n)
        if n in roomy or len(example) <= context:
            request = _request(example, asked, most[n] if n in roomy else 1, context, ends)
            requests[n] = replace(request, sampling=sampling, exempt=exempt)
    if not roomy:
        raise UserError(
            f"{file}: no question of its {len(test)} leaves {min(most)} of {context} tokens for an answer: lower "
            "evaluate.max_new_tokens, or raise train.context_length"
        )
    if unanswered := len(examples) - len(roomy):
        logger.warning(
            "%s: %d of %d questions leave no room for an answer, and count as wrong", name, unanswered, len(test)
        )
    answers, nats, tokens, order = [""] * len(examples), 0.0, 0, list(requests)
    with tqdm(total=len(order), desc=name, unit="answer") as bar:
        for first in range(0, len(order), TOGETHER):
            part = order[first : first + TOGETHER]
            written = run(model, [requests[n] for n in part], params.batch_size)
            for n, (text, scored) in zip(part, written, strict=True):
                answers[n] = decode(encoding, text).strip() if n in roomy else ""
                learned = examples[n].learned[len(examples[n]) - len(scored) :]
                logprobs = [value for value, learns in zip(scored, learned, strict=True) if learns]
                nats -= sum(logprobs)
                tokens += len(logprobs)
            bar.update(len(part))
    return answers, nats / tokens, unanswered


def _request(example: Example, asked: int, new: int, context: int, ends: frozenset[int]) -> Request:
    """Ask what an example's first `asked` tokens ask; and, where it fits the context, how likely all is that its
    assistant says, which has no first token."""
    prompt = example.tokens[:asked]
    if len(example) > context:
        return Request(prompt, new, GREEDY, ends)
    first_learned = next(position for position, learned in enumerate(example.learned) if learned and position)
    prompt_scored = max(0, asked - first_learned)
    return Request(prompt, new, GREEDY, ends, scored=example.tokens[asked:], prompt_scored=prompt_scored)


def _nearest(train: pd.DataFrame, questions: Sequence[Question]) -> list[str]:
    """For each question the answer to the training row that asks most alike: TF-IDF of words, cosine.

    What is asked is all that the assistant reads: system prompt and earlier turns, too.
    """

    def text(question: Question) -> str:
        return "\n".join(turn.content for turn in question.messages())

    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+")
    known, wanted = words.fit_transform(map(text, questions_of(train))), words.transform(map(text, questions))
    outputs = train["output"].to_numpy()
    return [outputs[int((row @ known.T).toarray().argmax())] for row in wanted]


def measure(
    model: Assistant,
    encoding: tiktoken.Encoding,
    data: Path,
    base: Path,
    params: Evaluate,
    compute: Compute,
    evidence: Path,
) -> dict[str, float]:
    """Response loss in nats a token; exact match of checkable rows, and the share whose answer contains a right one
    (`contains_answer`); mean ROUGE-L of the other rows; answers as evidence.

    The model is measured as it is served: on a CPU in the weights that decode.c has. The baseline is the base in its
    own template, untuned and prompted as baseline.py says; both choose tokens in the same way. `nearest_…` answers as
    the training row most alike does. A `…_gain` is the lead over the baseline, paired by row. Intervals resample
    wordings, and rows within them. `unanswered` counts rows that leave no room for an answer, where there are any.
    Where data/behavioural has questions for this dataset, they are asked, too. `loops` is the share of answers with a
    loop among these and the rows that are not checkable.
    """
    train, test = (pd.read_parquet(split_file(data, split)) for split in ("train", "test"))
    metrics: dict[str, float] = {}
    behavioural = behaviour.read(Path("data/behavioural") / data.name)
    questions = [behaviour.question_of(row) for rows in behavioural.values() for row in rows]
    answers_to_questions: dict[str, list[str]] = {}
    file = split_file(data, "test")
    ours = _Contender("", "assistant", model, encoding, [()] * len(test), questions)
    for contender in _contenders(ours, base, compute, train, test):
        packed = replace(contender, model=pack_for_inference(contender.model))
        name = packed.prefix
        answers, loss, unanswered = _answers(packed, test, file, params)
        test[f"{name}answer"], metrics[f"{name}response_loss"] = answers, loss
        metrics |= {f"{name}unanswered": unanswered} if unanswered else {}
        if questions:
            loaded = LoadedModel(packed.model, packed.encoding)
            answers_to_questions[name] = behaviour.answer(loaded, packed.questions, params.max_new_tokens)
    test["nearest_answer"] = _nearest(train, questions_of(test))
    if questions:
        answers_to_questions["nearest_"] = _nearest(train, questions)
        asked = behaviour.judged(behavioural, answers_to_questions)
        metrics |= behaviour.measure_shares(asked)
        behaviour.write_evidence(asked, evidence)
    checkable = test["answers"].map(len) > 0
    for name in ("", *OTHERS):
        answers = test[f"{name}answer"]
        test[f"{name}correct"] = list(map(is_right, answers, test["answers"]))
        test[f"{name}contains"] = list(map(contains_answer, answers, test["answers"]))
        test[f"{name}rouge_l"] = list(map(rouge_l, test["output"], answers))
    for metric, column in COLUMNS.items():
        rows = test[~checkable if metric == "rouge_l" else checkable]
        if rows.empty:
            continue
        wordings = Wordings(rows["kind"].to_numpy(), rows["wording"].to_numpy())
        scores = rows[column].to_numpy(float)
        baseline_scores = rows[f"baseline_{column}"].to_numpy(float)
        ends = interval(np.mean, scores, wordings=wordings)
        metrics |= with_interval(metric, float(scores.mean()), ends)
        metrics |= lead(metric, scores, baseline_scores, wordings)
        metrics |= {f"{name}{metric}": float(rows[f"{name}{column}"].mean()) for name in OTHERS}
    for name in ("", "baseline_"):
        free_answers = [*test.loc[~checkable, f"{name}answer"], *answers_to_questions.get(name, ())]
        if free_answers:
            metrics[f"{name}loops"] = float(np.mean(list(map(has_loop, free_answers))))
    if params.judge:
        metrics |= judge_answers(test[~checkable], params.judge, evidence)
    write_evidence(test, checkable, evidence)
    read = asked[asked["set"] == "general"] if questions else test.assign(expected=test["output"])
    write_samples(read, params, evidence)
    return metrics


def write_evidence(test: pd.DataFrame, checkable: pd.Series, evidence: Path) -> None:
    """All answers (their history as JSON, as a served model takes it; the columns CHECKED only where a rule checks the
    row); a row a kind; and the kinds in which the model is not ahead of the baseline."""
    columns = [f"{who}{name}" for who in ("", *OTHERS) for name in ("answer", *COLUMNS.values())]
    history = [json.dumps(list(turns), ensure_ascii=False) if len(turns) else "" for turns in test["history"]]
    rows = test.assign(history=history)
    rows = rows[["id", "kind", "wording", "system", "history", "instruction", "input", "output", *columns]]
    marks = [f"{who}{name}" for who in ("", *OTHERS) for name in CHECKED]
    rows = rows.assign(**{mark: rows[mark].where(checkable) for mark in marks})
    for_spreadsheets(rows).to_csv(evidence / "answers.csv", index=False, float_format="%.4f")
    scores = {
        f"{who}{metric}": test[f"{who}{column}"].where(checkable | (metric == "rouge_l")).astype(float)
        for metric, column in COLUMNS.items()
        for who in ("", *OTHERS)
    }
    by_kind = pd.DataFrame({"kind": test["kind"], "rows": 1, **scores}).groupby("kind")
    by_kind = by_kind.agg({"rows": "sum", **dict.fromkeys(scores, "mean")})
    for metric in COLUMNS:
        by_kind[f"{metric}_gain"] = by_kind[metric] - by_kind[f"baseline_{metric}"]
    by_kind.to_csv(evidence / "by_kind.csv", float_format="%.4f")
    gain = by_kind["exact_match_gain"].fillna(by_kind["rouge_l_gain"])
    by_kind[gain <= 0].dropna(axis="columns", how="all").to_csv(evidence / "not_ahead.csv", float_format="%.4f")


def write_samples(table: pd.DataFrame, params: Evaluate, evidence: Path) -> None:
    """A draw of questions with the answer, what was expected, and what the base says, for people to read."""
    shown = table.sample(min(params.samples, len(table)), random_state=1).sort_index()
    lines = [
        f"**{' '.join([*row.history, row.instruction, row.input]).strip()}**\n\n"
        f"- answer: {' '.join(row.answer.split())}\n- expected: {' '.join(row.expected.split())}\n"
        f"- its base says: {' '.join(row.baseline_answer.split())}"
        for row in shown.itertuples()
    ]
    (evidence / "samples.md").write_text("\n\n".join(["# Answers of the assistant", *lines]) + "\n")


EVALUATION = Evaluation(params=Evaluate, measure=measure)
