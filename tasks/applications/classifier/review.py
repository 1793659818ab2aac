"""Two versions of the classifier on the same mails: the test split, and the everyday ones that were written for it."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.measures.description import Evidence, Review, Sample
from tasks.measures.labels.baseline import MAIL
from tasks.measures.labels.behavioural import behavioural_files, read_behavioural
from tasks.measures.labels.evidence import lengths
from tasks.measures.tables import short_paths
from tasks.training.setup import split_file

PROBABILITY = "_probability"


def recall(actual: np.ndarray, predicted: np.ndarray, axis: int) -> np.ndarray:
    """Of what is 1 the share that is called so; 0 where nothing is."""
    return (actual * predicted).sum(axis) / np.maximum(1, actual.sum(axis))


def f1(actual: np.ndarray, predicted: np.ndarray, axis: int) -> np.ndarray:
    """The harmonic mean of precision and recall."""
    return 2 * (actual * predicted).sum(axis) / np.maximum(1, actual.sum(axis) + predicted.sum(axis))


def false_positive_rate(actual: np.ndarray, predicted: np.ndarray, axis: int) -> np.ndarray:
    """Of what is 0 the share that is called 1."""
    return ((1 - actual) * predicted).sum(axis) / np.maximum(1, (1 - actual).sum(axis))


@cache
def mean_f1(labels: tuple[str, ...]) -> Callable[..., np.ndarray]:
    """F1 of each label against the others, its mean over those that a row has or is given; labels are numbers."""

    def statistic(actual: np.ndarray, predicted: np.ndarray, axis: int) -> np.ndarray:
        pairs = [((actual == n).astype(float), (predicted == n).astype(float)) for n in range(len(labels))]
        seen = np.stack([(one + other).sum(axis) > 0 for one, other in pairs])
        return np.stack([f1(*pair, axis) for pair in pairs]).sum(0) / np.maximum(1, seen.sum(0))

    return statistic


@cache
def of_label(statistic: Callable[..., np.ndarray], label: str) -> Callable[..., np.ndarray]:
    """The same statistic as one of its own, for a label: F1 of spam is none of ham."""
    return lambda *columns, axis: statistic(*columns, axis=axis)


def rows(data: Path, columns: Sequence[str] = MAIL, behavioural: Sequence[str] = ("everyday",)) -> pd.DataFrame:
    """The texts of the test split, and after them behavioural ones, which count in metrics of their own alone.

    `behavioural` names files by the beginnings of their metrics; the column `metric` holds it, `everyday` their slice.
    """
    test = pd.read_parquet(split_file(data, "test"))[["id", "source", *columns, "label"]]
    test["words"] = lengths(test[columns[-1]])
    test["source"] = short_paths(test["source"])
    tables = [test.assign(everyday=None, metric=None)]
    for name, file in behavioural_files(data.name).items():
        if name not in behavioural:
            continue
        if (texts := read_behavioural(file, columns, set(test["label"]))) is not None:
            tables.append(texts.rename(columns={"slice": "everyday"}).assign(metric=name))
    table = pd.concat(tables, ignore_index=True).astype(object)
    table = table.where(table.notna(), None)
    table["expected"], table["text"] = table["label"], table[list(columns)].agg(" | ".join, axis=1)
    table.loc[table["everyday"].notna(), "label"] = None  # that slice is of the test split
    return table


def _labels(answers: pd.DataFrame) -> list[str]:
    return [name.removesuffix(PROBABILITY) for name in answers.columns if name.endswith(PROBABILITY)]


def _leaning(answers: pd.DataFrame) -> pd.Series:
    """The label that each answer leans to, where `label` may be unsure; older versions are always sure."""
    return answers["leaning" if "leaning" in answers else "label"]


def score(rows: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """1 for a mail whose answer leans to its label, and the answer with its probability.

    With two labels people see the probability of the second, whichever it gets: the threshold is for that one.
    """
    labels = _labels(answers)
    leaning = _leaning(answers)
    given = leaning.map({label: n for n, label in enumerate(labels)}).fillna(0).astype(int)
    chances = answers[[f"{label}{PROBABILITY}" for label in labels]].astype(float).fillna(0.0).to_numpy()
    confidence = chances[np.arange(len(rows)), given]
    if len(labels) == 2:
        named, shown = f"{labels[1]} ", chances[:, 1]
    else:
        named, shown = "", confidence
    texts = [
        f"{label} ({named}{chance:.3f})" if isinstance(label, str) else f"no answer: {error}"
        for label, chance, error in zip(answers["label"], shown, answers["error"], strict=True)
    ]
    right = (leaning == rows["expected"]).astype(float)
    return pd.DataFrame({"score": right, "answer": texts, "confidence": confidence}, index=rows.index)


def measure(rows: pd.DataFrame, answers: pd.DataFrame, one_passes: bool = False) -> dict[str, Sample]:
    """The evaluation's metrics of the labels that answers lean to; a row without an answer is wrong.

    `one_passes` says that the first of more than two labels passes; of two it always does.
    """
    labels = _labels(answers)
    number = {label: n for n, label in enumerate(labels)}
    is_test = rows["metric"].isna()
    actual = rows.loc[is_test, "expected"].map(number).to_numpy(float)
    predicted = _leaning(answers)[is_test].map(number).fillna(-1).to_numpy(float)
    right = score(rows, answers)["score"].to_numpy()
    samples = {
        "f1": Sample(mean_f1(tuple(labels)), (actual, predicted)),
        "accuracy": Sample(np.mean, (right[is_test],)),
    }
    statistics = {}
    if len(labels) == 2:
        statistics["f1"] = f1
    if len(labels) == 2 or one_passes:
        statistics["false_positive_rate"] = false_positive_rate
        statistics["recall"] = recall
    stopped = ", ".join(labels[1:])
    is_stopped = (actual > 0).astype(float), (predicted > 0).astype(float)
    for name, statistic in statistics.items():
        samples[name] = Sample(of_label(statistic, stopped), is_stopped)
    behavioural = rows.reset_index().groupby(["metric", "expected"]).indices
    for (metric, label), numbers in behavioural.items():
        samples[f"{metric}_{label}"] = Sample(np.mean, (right[numbers],))
    return samples


def evidence(rows: pd.DataFrame, folder: Path) -> Evidence | None:
    """The evaluation's `predictions.csv` and `behavioural.csv`, and its baseline's share of right mails by slice.

    Behavioural texts that the evaluation left out have no answer here.
    """
    if not (path := folder / "predictions.csv").exists():
        return None
    tested = rows["metric"].isna()
    test = pd.read_csv(path, dtype={"predicted": str}, keep_default_na=False).set_index(rows.index[tested])
    chances = [name for name in test if name.endswith(PROBABILITY)]
    found = [test[["predicted", *chances]].rename(columns={"predicted": "label"})]
    slices = pd.read_csv(folder / "slices.csv").set_index(["by", "slice"])["baseline_right"].to_dict()
    if (path := folder / "behavioural.csv").exists():
        mails = pd.read_csv(path, dtype={"id": str, "predicted": str}, keep_default_na=False)
        places = pd.Series(rows.index[~tested], rows.loc[~tested, "id"])
        mails = mails[mails["id"].isin(places.index)].set_index(mails["id"].map(places).dropna().astype(int))
        rest = (1 - mails["probability"]) / (len(chances) - 1)
        given = {each: mails["probability"].where(mails["predicted"] + PROBABILITY == each, rest) for each in chances}
        found.append(pd.DataFrame({"label": mails["predicted"], **given}))
        slices |= {("everyday", name): share for name, share in mails.groupby("slice")["baseline_right"].mean().items()}
    return pd.concat(found).assign(error=None), slices


REVIEW = Review(
    main="f1",
    unit="mails",
    columns=("subject", "body"),
    rows=rows,
    score=score,
    measure=measure,
    explained={
        "everyday_spam": "share right of today's spam, also written for this project",
        "sure_errors": "share wrong of the mails that are not called unsure",
        "short_ham": "share right of very short real mails, a third of them not in English",
        "short_spam": "share right of very short spam, a third of it not in English",
        "evasion_loss": "recall of the same spam as it was, minus that",
        "evasion_worst": "share of that recall which is left in the worst form",
        "evasion_other_parts": "share caught of spam in a second part, an attachment or a forwarded mail",
        "evasion_surrounded": "share caught of spam before, after or between harmless text",
        "evasion_hidden_text": "share caught of spam next to harmless text that a reader does not see",
        "evasion_disguised_words": "share caught of spam whose words are spelled with other signs",
        "evasion_encodings": "share caught of spam in a rare encoding",
        "evasion_links_alone": "share caught of spam that is a subject and two links",
        "accuracy": "share right of the mails of the test split",
        "calibration_error": "how far probabilities are from the share that is right, on average",
        "precision": "share of spam in what is called spam",
        "recall": "share of the spam that is called spam",
        "roc_auc": "how often a spam has a higher probability than another mail",
    },
    evidence=evidence,
    baseline="a linear model on TF-IDF of words and characters (logistic regression or a support vector machine, the "
    "stronger on validation), with a threshold by the same rule",
    slices=("label", "source", "words", "everyday"),
)
