"""How good answers to instructions are, next to those of a prompted base and of the most similar training row."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from llm.config import Config
from llm.formats.model_folder import load_model, read_config
from llm.loaded_model import LoadedModel
from llm.objectives.assistant import Assistant, build
from llm.objectives.assistant.loops import has_loop
from llm.objectives.assistant.rows import contains_answer, is_right, questions_of
from tasks.applications.assistant.answers import Asked, Turns, answer, brief, nearest_answers, shots
from tasks.applications.assistant.rubrics import failures, read_questions
from tasks.measures.description import Evaluation, Measured, Subject
from tasks.measures.metrics import Metric
from tasks.measures.scores import ANSWER, BASELINE, NEAREST, OURS, TEST, score_table
from tasks.training.setup import split_file

FOLDER = Path("data/behavioural")
PEOPLE = {"general": "general_right", "harmless": "harmless_useful"}
"""The files of what people ask, with the metric of each: the share with a good answer."""
RULE, WORDS, RUBRIC = "rule", "words", "rubric"
"""What checks an answer: a rule that knows right answers, the words that it shares with the expected one, a rubric."""
MEASURES = {"exact": "exact_match", "contains": "contains_answer", "rouge_l": "rouge_l"}
"""The measures of the test split, with the metric of each."""
SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")  # how the names of their letters begin


class Evaluate(Config):
    """How the assistant is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Rows that are answered at once."""
    max_new_tokens: int = Field(gt=0)
    """An answer is cut after this many tokens, one that a rule checks when it is longer than what could be right."""
    samples: int = Field(default=30, ge=0)
    """Answers kept for people to read."""


def measure(subject: Subject) -> Measured:
    """The scores of answers to the test split and to what people ask, and the response loss in nats a token.

    The baseline is the base in its own template, untuned and prompted as answers.py says; both choose tokens in the
    same way. `nearest` answers as the training row most alike does. `unanswered` counts rows that leave no room for an
    answer, where there are any.
    """
    train = pd.read_parquet(split_file(subject.data, "train"))
    test = pd.read_parquet(split_file(subject.data, TEST))
    rows = assistant_rows(test, subject.data.name)
    questions = questions_of(rows)
    asked: list[Asked] = []
    for question, output, accepted in zip(questions, rows["output"], rows["answers"], strict=True):
        asked.append(Asked(question=question, output=output, accepted=accepted))
    assert subject.base is not None, "an assistant has a base"
    asked_of_base = asked
    if read_config(subject.base)["objective"] != "assistant":
        asked_of_base = prompted_for_base(asked, shots(train, test))
    params = subject.params
    answered = partial(answer, max_new_tokens=params.max_new_tokens, batch_size=params.batch_size)
    ours = answered("assistant", subject.loaded, asked)
    baseline = answered("its base", load_base(subject.base, subject), asked_of_base)
    scored = {
        OURS: score_answers(rows, ours.texts),
        BASELINE: score_answers(rows, baseline.texts),
        NEAREST: score_answers(rows, nearest_answers(train, questions)).drop(columns="loop", errors="ignore"),
    }
    slices = ["part", "id", "kind", "wording", "behavioural", "checked_by", "question", "expected"]
    scores = score_table(rows[slices], **scored)
    write_evidence(rows[slices], scored, samples=params.samples, evidence=subject.evidence)
    further: dict[str, float] = {"response_loss": ours.loss, "baseline_response_loss": baseline.loss}
    if ours.unanswered:
        further["unanswered"] = ours.unanswered
    if baseline.unanswered:
        further["baseline_unanswered"] = baseline.unanswered
    return Measured(scores, further)


def assistant_rows(test: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """The rows of the test split, and after them what people ask, each with its rubric.

    `answers` are the right answers that a rule compares with; free rows have none.
    """
    tables = [test.assign(part=TEST, behavioural=None, rubric=None, expected=test["output"])]
    for part in PEOPLE:
        file = FOLDER / dataset / f"{part}.jsonl"
        if not file.exists():
            continue
        table = pd.DataFrame(map(dict, read_questions(file)))
        table = table.assign(part=part, output="", system="", kind=None, wording=None)
        table["answers"] = [() for _ in table["id"]]
        table["expected"] = "such as: " + table["example"]
        tables.append(table.assign(behavioural=f"{part}: " + table["slice"]))
    rows = pd.concat(tables, ignore_index=True)
    is_checkable = rows["answers"].map(len) > 0
    rows["checked_by"] = np.where(is_checkable, RULE, np.where(rows["part"] == TEST, WORDS, RUBRIC))
    turns = rows["history"].map(" ".join) + " " + rows["instruction"] + " " + rows["input"]
    return rows.assign(question=turns.str.strip())


def load_base(base: Path, subject: Subject) -> LoadedModel[Assistant]:
    """The model that training started from, in its own template, decoded as ours is."""
    ours = subject.loaded.model
    loaded = load_model(base, subject.compute.device, build=build, context_length=ours.config.context_length)
    penalty = {"text_penalty": ours.chat.text_penalty}
    loaded.model.chat = loaded.model.chat.model_copy(update=penalty)
    return loaded


def prompted_for_base(asked: Sequence[Asked], examples: Sequence[tuple[Turns, ...]]) -> list[Asked]:
    """The questions as a base is asked them that is no assistant: those of the test split after their examples, what
    people ask under a prompt to be brief."""
    count = len(examples)
    test = [replace(row, examples=turns) for row, turns in zip(asked[:count], examples, strict=True)]
    people = [replace(row, question=brief(row.question)) for row in asked[count:]]
    return [*test, *people]


def score_answers(rows: pd.DataFrame, answers: Sequence[str]) -> pd.DataFrame:
    """The measures of answers.

    Rows of the test split have `rouge_l`, and with right answers to compare with `exact` and `contains`; what people
    ask has `right`. Free answers have `loop`, too.
    """
    scored = []
    for row, text in zip(rows.to_dict("records"), answers, strict=True):
        measures: dict[str, float] = {}
        if row["checked_by"] == RUBRIC:
            measures["right"] = float(not failures(row["rubric"], text))
        else:
            measures["rouge_l"] = rouge_l(row["expected"], text)
        if row["checked_by"] == RULE:
            measures["exact"] = float(is_right(text, row["answers"]))
            measures["contains"] = float(contains_answer(text, row["answers"]))
        else:
            measures["loop"] = float(has_loop(text))
        scored.append({**measures, ANSWER: text})
    return pd.DataFrame(scored, index=rows.index)


class Words(Tokenizer):
    """Words of letters, marks and digits; of scripts without spaces each sign by itself.

    Words in ASCII come out as rouge_score's own tokenizer, which knows no others, has them: in lower case, stemmed.
    """

    def __init__(self) -> None:
        self.english = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        words = "".join(map(_spaced, unicodedata.normalize("NFC", text.lower()))).split()
        tokens: list[str] = []
        for word in words:
            tokens += self.english.tokenize(word) if word.isascii() else [word]
        return tokens


@cache
def _spaced(sign: str) -> str:
    if unicodedata.category(sign)[0] not in "LMN":
        return " "
    return f" {sign} " if unicodedata.name(sign, "").startswith(SPACELESS) else sign


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rougeL"], tokenizer=Words())


def rouge_l(expected: str, text: str) -> float:
    """The F-measure of the longest common subsequence of words (Lin 2004), 0 to 1; 1 for the same text."""
    if expected.strip() == text.strip():  # which may have no words, as "+" has none
        return 1.0
    return _scorer().score(expected, text)["rougeL"].fmeasure


def write_evidence(rows: pd.DataFrame, scored: Mapping[str, pd.DataFrame], *, samples: int, evidence: Path) -> None:
    """`answers.csv` and `by_kind.csv` of the test split, and `samples.md` of what people ask."""
    answers = rows.copy()
    means = pd.DataFrame({"kind": rows["kind"]})
    for contender, measures in scored.items():
        prefix = "" if contender == OURS else f"{contender}_"
        answers = answers.join(measures.reindex(columns=[ANSWER, *MEASURES]).add_prefix(prefix))
        named = measures.reindex(columns=list(MEASURES)).rename(columns=MEASURES)
        means = means.join(named.add_prefix(prefix))
    test = answers[rows["part"] == TEST]
    test.dropna(axis="columns", how="all").to_csv(evidence / "answers.csv", index=False, float_format="%.4f")
    by_kind = means.groupby("kind").mean()
    by_kind.insert(0, "rows", means["kind"].value_counts())
    checked = by_kind["exact_match"] - by_kind["baseline_exact_match"]
    by_kind["gain"] = checked.fillna(by_kind["rouge_l"] - by_kind["baseline_rouge_l"])
    by_kind.sort_values("gain").to_csv(evidence / "by_kind.csv", float_format="%.4f")
    people = answers[rows["part"] == "general"]
    write_samples(test if people.empty else people, samples, evidence)


def write_samples(table: pd.DataFrame, samples: int, evidence: Path) -> None:
    """A draw of questions with the answer, what was expected, and what the base says, for people to read."""
    shown = table.sample(min(samples, len(table)), random_state=1).sort_index()
    texts = shown[["question", ANSWER, "expected", f"{BASELINE}_{ANSWER}"]]
    entries = ["# Answers of the assistant"]
    for question, text, expected, baseline in texts.map(_on_one_line).itertuples(index=False):
        entries.append(f"**{question}**\n\n- answer: {text}\n- expected: {expected}\n- its base says: {baseline}")
    (evidence / "samples.md").write_text("\n\n".join(entries) + "\n")


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def metrics(scores: pd.DataFrame) -> list[Metric]:
    """The metrics of a score table: intervals of the test split resample wordings, and rows within them.

    `exact_match` and `contains_answer` are of the rows that a rule checks, `rouge_l` of the others. `loops` is the
    share of free answers with a loop.
    """
    return [
        *(Metric(name, ("right",), where={"part": part}) for part, name in PEOPLE.items()),
        Metric("exact_match", ("exact",), over_wordings=True),
        Metric("contains_answer", ("contains",), over_wordings=True),
        Metric("rouge_l", ("rouge_l",), where={"checked_by": WORDS}, over_wordings=True),
        Metric("loops", ("loop",), where={}, logs=frozenset({BASELINE})),
    ]


EVALUATION = Evaluation(
    params=Evaluate,
    measure=measure,
    metrics=metrics,
    main="exact_match",
    unit="questions",
    judged_by=("exact", "rouge_l", "right"),
    step=0.5,
    slices=("kind", "behavioural"),
    baseline="the model that training started from, asked in its own template",
)
