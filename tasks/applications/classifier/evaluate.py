"""How good the classifier is, beside the baseline that a user would pick instead."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import tiktoken
import torch
from pydantic import Field
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    confusion_matrix,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union

from llm.config import Config
from llm.device import Compute
from llm.generation.packed import pack_for_reading
from llm.objectives.classifier.calibration import best_threshold, fit_scale, unsure_bounds
from llm.objectives.classifier.explanations import in_words, moved_by
from llm.objectives.classifier.model import (
    Classifier,
    ClassifierConfig,
    email_text,
    email_texts,
    f1_score,
    probabilities,
)
from tasks.applications import Evaluation
from tasks.data.mail import RowError, clean_mail, parse_message
from tasks.evaluation.classifier.evasions import FORMS, Spam, draw, message
from tasks.evaluation.statistics import for_spreadsheets, interval, picture, short_paths, with_interval
from tasks.training.setup import split_file

RUN = 6  # words in a row that no behavioural mail may share with what was learned from
LEAST = 1e-12  # probability: of none there is no logarithm
BEHAVIOURAL = {"everyday": "test.jsonl", "short": "short.jsonl"}  # files of mails that were written to try a classifier


logger = logging.getLogger(__name__)


class Evaluate(Config):
    """How the classifier is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Emails a forward pass."""


def _words() -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)


def _characters(fewest: int = 3) -> TfidfVectorizer:
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=fewest, sublinear_tf=True)


def _fitted(features: TfidfVectorizer | FeatureUnion, train: pd.DataFrame) -> Pipeline | None:
    """Logistic regression on features of the mails; None where no term is in enough of them."""
    try:
        known = features.fit_transform(_texts(train))
    except ValueError as error:
        if "no terms remain" in str(error) or "empty vocabulary" in str(error):
            return None
        raise
    regression = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
    return make_pipeline(features, regression.fit(known, train["label"]))


def _baseline(train: pd.DataFrame, validation: pd.DataFrame, labels: Sequence[str]) -> Pipeline:
    """What a user would pick instead: logistic regression on TF-IDF of words, or of words and characters.

    The one of the two that has the better F1 on validation. Mails that share no words, a few or of a script without
    spaces, are told apart by characters.
    """
    both = (_fitted(features, train) for features in (_words(), make_union(_words(), _characters())))
    models = list(filter(None, both)) or [_fitted(_characters(fewest=1), train)]
    actual = _numbers(validation["label"], labels)
    return max(models, key=lambda m: f1_score(actual, _numbers(m.predict(_texts(validation)), labels), len(labels)))


def _calibration(probability: np.ndarray, actual: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """How to turn a model's probabilities, N x K, into such as fit these labels, by which the classifier's are fitted,
    too."""

    def logits(probability: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(probability).clamp_min(LEAST).log()

    scale, bias = fit_scale(logits(probability), torch.from_numpy(actual))
    return lambda given: (scale * logits(given) + torch.tensor(bias)).softmax(dim=-1).numpy()


def _as_decided(config: ClassifierConfig, probability: np.ndarray, actual: np.ndarray) -> ClassifierConfig:
    """A configuration whose threshold and bounds these labels choose, as the classifier's were chosen."""
    if config.false_positive_rate is None:
        return config
    second, wanted = probability[:, 1], actual == 1
    found = {"threshold": best_threshold(second, wanted, config.false_positive_rate)}
    if config.unsure_rates is not None:
        found["unsure"] = unsure_bounds(second, wanted, found["threshold"], config.unsure_rates)
    return config.model_copy(update=found)


def _texts(table: pd.DataFrame) -> list[str]:
    return email_texts(table["subject"], table["body"])


def _numbers(names: Iterable[str], labels: Sequence[str]) -> np.ndarray:
    return np.array([labels.index(name) for name in names])


def _recall_at(actual: np.ndarray, probability: np.ndarray, false_positive_rate: float) -> float:
    """The recall of the lowest threshold that calls at most that share of the ham spam."""
    spam = actual == 1
    found = probability[spam] > best_threshold(probability, spam, false_positive_rate)
    return float(found.sum() / max(1, spam.sum()))


def _calibration_error(actual: np.ndarray, probability: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of the likeliest label (Guo et al. 2017): mean gap of confidence and accuracy, by bin.

    `actual` are numbers, N, `probability` is N x K.
    """
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == actual
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[place == n].mean() - right[place == n].mean()) * (place == n).mean() for n in set(place)]
    return float(sum(gaps))


def _behavioural(name: str, file: str, labels: Sequence[str]) -> pd.DataFrame | None:
    """The mails that were written to try a classifier of a dataset of this name and labels; None without any."""
    file = Path("data/behavioural") / name / file
    if not file.exists():
        return None
    table = pd.read_json(file, lines=True, dtype=False)
    if not set(table["label"]) <= set(labels):
        return None
    cleaned = [clean_mail(*row) for row in zip(table["subject"], table["body"], strict=True)]
    return table.assign(subject=[subject for subject, _ in cleaned], body=[body for _, body in cleaned])


def _thinned(curve: pd.DataFrame, points: int = 200) -> pd.DataFrame:
    """At most `points` rows of a curve, its ends among them."""
    return curve.iloc[np.unique(np.linspace(0, len(curve) - 1, points).astype(int))]


def _slices(test: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Rows, the share of each label, and how many of its rows are right, by label, by source and by length."""
    words = test["body"].str.split().map(len)
    lengths = pd.cut(words, [-1, 50, 200, 500, np.inf], labels=["to 50", "51 to 200", "201 to 500", "over 500"])
    parts = {"label": test["label"], "source": short_paths(test["source"]), "words": lengths.astype(str)}
    tables = []
    for name, values in parts.items():
        rows, columns = test.assign(slice=values), {"rows": ("right", "size")}
        for label in labels:
            rows[f"share_of_{label}"] = rows["label"] == label
            rows[f"right_of_{label}"] = rows["right"].where(rows["label"] == label)
            columns |= {each: (each, "mean") for each in (f"share_of_{label}", f"right_of_{label}")}
        columns["baseline_right"] = ("baseline_right", "mean")
        tables.append(rows.groupby("slice").agg(**columns).astype(float).reset_index().assign(by=name))
    return pd.concat(tables).set_index(["by", "slice"]).reset_index()


def _worst(test: pd.DataFrame, model: Classifier, encoding: tiktoken.Encoding, count: int = 6) -> str:
    """The mails that were got wrong with the greatest confidence, to read, and the phrases that moved them most."""
    read = partial(probabilities, model, encoding)
    wrong = test[~test["right"]]
    lines = ["# The worst errors of the classifier"]
    for row in wrong.sort_values("probability", ascending=False, kind="stable").head(count).itertuples():
        text = " ".join(f"{row.subject} | {row.body}".split())[:400]
        moved = in_words(moved_by(read, model.config.labels, *_texts(wrong.loc[[row.Index]]))[:8])
        verdict = f"labelled {row.label}; the classifier says {row.predicted}, with probability {row.probability:.3f}"
        lines.append(f"**{row.id}**: {verdict}\n\n> {text}\n\nIt looks {moved}")
    return "\n\n".join(lines) + "\n"


def _curves(actual: np.ndarray, found: dict[str, np.ndarray], evidence: Path) -> None:
    """ROC, precision and recall, and reliability of two labels, of the classifier and its baseline."""
    with picture(evidence / "roc.svg", "false positive rate", "true positive rate") as axes:
        for name, probability in found.items():
            axes.plot(*roc_curve(actual, probability)[:2], label=name)
        axes.set(xlim=(-0.002, 0.1), ylim=(0.5, 1.01))
    with picture(evidence / "precision_recall.svg", "recall", "precision") as axes:
        for name, probability in found.items():
            precision, recall, _ = precision_recall_curve(actual, probability)
            axes.plot(recall, precision, label=name)
        axes.set(xlim=(0.5, 1.01), ylim=(0.5, 1.01))
    with picture(evidence / "reliability.svg", "probability", "share that is so") as axes:
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        for name, probability in found.items():
            place = np.minimum((probability * 10).astype(int), 9)
            points = sorted((probability[place == n].mean(), actual[place == n].mean()) for n in set(place))
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
    false_positive, true_positive, _ = roc_curve(actual, found["classifier"])
    precision, recall, _ = precision_recall_curve(actual, found["classifier"])
    roc = pd.DataFrame({"false_positive_rate": false_positive, "true_positive_rate": true_positive})
    _thinned(roc).to_csv(evidence / "roc.csv", index=False, float_format="%.5f")
    precision_recall = pd.DataFrame({"recall": recall, "precision": precision})
    _thinned(precision_recall).to_csv(evidence / "precision_recall.csv", index=False, float_format="%.5f")


def _confusion(actual: np.ndarray, predicted: np.ndarray, labels: Sequence[str], path: Path) -> None:
    counts = confusion_matrix(actual, predicted, labels=range(len(labels)))
    with picture(path, "predicted", "actual") as axes:
        axes.imshow(counts, cmap="Blues", vmin=0)
        axes.set_xticks(range(len(labels)), labels, parse_math=False)
        axes.set_yticks(range(len(labels)), labels, parse_math=False)
        for (row, column), count in np.ndenumerate(counts):
            light = count > counts.max() / 2
            axes.text(column, row, str(count), ha="center", va="center", color="white" if light else "black")


def measure(
    model: Classifier,
    encoding: tiktoken.Encoding,
    data: Path,
    base: Path,
    params: Evaluate,
    compute: Compute,
    evidence: Path,
) -> dict[str, float]:
    """Accuracy and F1 on test beside the baseline's, and all that a reviewer reads as evidence.

    F1 is that of the second of two labels, such as spam, and the mean over the labels where there are more. `f1` has
    its interval, and `f1_gain` is its lead over the baseline, paired by mail. Of two labels there are precision,
    recall, ROC-AUC, `false_positive_rate`, the share of ham that is called spam by the threshold that validation chose,
    and `recall_at_fpr_0.005`, what is caught where one ham in 200 is lost. `everyday_ham` and `everyday_spam` are the
    shares of the behavioural mails that are right. The model reads them as it is served. The baseline has its threshold
    by the same rule, from the same share of validation's ham, and its probabilities are calibrated there, too.
    """
    model.gpt = pack_for_reading(model.gpt)
    train, validation, test = (pd.read_parquet(split_file(data, split)) for split in ("train", "validation", "test"))
    labels = model.config.labels
    actual = _numbers(test["label"], labels)
    baseline = _baseline(train, validation, labels)
    order = _numbers(labels, list(baseline.classes_))
    its_validation = baseline.predict_proba(_texts(validation))[:, order]
    known = _numbers(validation["label"], labels)
    calibrated = _calibration(its_validation, known)
    its = _as_decided(model.config, calibrated(its_validation), known)

    def both(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of the labels, the model's and the baseline's."""
        ours = probabilities(model, encoding, texts, params.batch_size)
        return ours, calibrated(baseline.predict_proba(texts)[:, order])

    probability, its_probability = both(_texts(test))
    predicted, its_predicted = model.config.decide(probability), its.decide(its_probability)
    names = np.array(labels)
    given = {"id": test["id"], "actual": test["label"], "predicted": names[predicted]}
    each = {f"{label}_probability": probability[:, n].round(4) for n, label in enumerate(labels)}
    for_spreadsheets(pd.DataFrame(given | each)).to_csv(evidence / "predictions.csv", index=False)
    test = test.assign(
        predicted=names[predicted],
        probability=probability[np.arange(len(test)), predicted],
        right=predicted == actual,
        baseline_right=its_predicted == actual,
    )
    _slices(test, labels).to_csv(evidence / "slices.csv", index=False, float_format="%.4f")
    (evidence / "errors.md").write_text(_worst(test, model, encoding))
    _confusion(actual, predicted, labels, evidence / "confusion.svg")

    def f1(actual: np.ndarray, predicted: np.ndarray) -> float:
        return f1_score(actual, predicted, len(labels))

    def lead(actual: np.ndarray, ours: np.ndarray, its: np.ndarray) -> float:
        return _recall_at(actual, ours, 0.005) - _recall_at(actual, its, 0.005)

    gain = interval(lambda a, p, b: f1(a, p) - f1(a, b), actual, predicted, its_predicted)
    metrics = {
        "accuracy": float((predicted == actual).mean()),
        **with_interval("f1", f1(actual, predicted), interval(f1, actual, predicted)),
        **with_interval("f1_gain", f1(actual, predicted) - f1(actual, its_predicted), gain),
        "calibration_error": _calibration_error(actual, probability),
        "baseline_accuracy": float((its_predicted == actual).mean()),
        "baseline_f1": f1(actual, its_predicted),
        "baseline_calibration_error": _calibration_error(actual, its_probability),
    }
    if len(labels) == 2:
        spam, its_spam, ham = probability[:, 1], its_probability[:, 1], actual == 0
        _curves(actual, {"classifier": spam, "baseline": its_spam}, evidence)
        lost, its_lost = predicted[ham], its_predicted[ham]
        metrics |= {
            **with_interval("false_positive_rate", float(lost.mean()), interval(np.mean, lost)),
            "baseline_false_positive_rate": float(its_lost.mean()),
            "precision": precision_score(actual, predicted, zero_division=0),
            "recall": recall_score(actual, predicted),
            "roc_auc": roc_auc_score(actual, spam),
            "baseline_roc_auc": roc_auc_score(actual, its_spam),
            "recall_at_fpr_0.005": _recall_at(actual, spam, 0.005),
            "baseline_recall_at_fpr_0.005": _recall_at(actual, its_spam, 0.005),
            **with_interval(
                "recall_at_fpr_0.005_gain", lead(actual, spam, its_spam), interval(lead, actual, spam, its_spam)
            ),
        }
    if model.config.unsure is not None:
        for name, config, found in (("", model.config, probability), ("baseline_", its, its_probability)):
            unsure, wrong = config.is_unsure(found), config.decide(found) != actual
            metrics[f"{name}unsure_share"] = float(unsure.mean())
            metrics[f"{name}sure_errors"] = float((wrong & ~unsure).sum() / max(1, (~unsure).sum()))
    tables = []
    for name, file in BEHAVIOURAL.items():
        if (mails := _behavioural(data.name, file, labels)) is not None:
            mails = unlike(mails, pd.concat([train, validation]))
            shares, table = _measure_behavioural(name, mails, model.config, its, *both(_texts(mails)))
            metrics |= shares
            tables.append(table)
    if tables:
        for_spreadsheets(pd.concat(tables)).to_csv(evidence / "behavioural.csv", index=False)
    if spams := draw(test, *labels) if len(labels) == 2 else []:

        def caught(texts: Sequence[str]) -> tuple[float, float]:
            ours, others = both(texts)
            return float(model.config.decide(ours).mean()), float(its.decide(others).mean())

        metrics |= _measure_evasions(spams, caught, evidence)
    return metrics


def unlike(mails: pd.DataFrame, learned: pd.DataFrame) -> pd.DataFrame:
    """The behavioural mails that share neither their subject nor RUN words in a row with what was learned from."""

    def runs(table: pd.DataFrame) -> pd.Series:
        words = (table["subject"] + " " + table["body"]).str.lower().str.findall(r"[^\W_]+")
        return words.map(lambda each: {tuple(each[first : first + RUN]) for first in range(len(each) - RUN + 1)})

    def subjects(table: pd.DataFrame) -> pd.Series:
        return table["subject"].str.lower().str.replace(r"^(?:\s*(?:re|fwd?)\s*:)+|[\W_]+", "", regex=True)

    known, said = set().union(*runs(learned)), set(subjects(learned)) - {""}
    alike = ~runs(mails).map(known.isdisjoint) | subjects(mails).isin(said)
    if alike.any():
        logger.warning(
            "%d of %d behavioural mails left out: their subject or %d words in a row stand in train or validation: %s",
            alike.sum(), len(mails), RUN, ", ".join(mails.loc[alike, "id"]),
        )  # fmt: skip
    return mails[~alike].reset_index(drop=True)


def _measure_evasions(
    spams: Sequence[Spam], caught: Callable[[Sequence[str]], tuple[float, float]], evidence: Path
) -> dict[str, float]:
    """What is caught of spam that is written to pass, by form, of model and baseline; a row a form as evidence.

    `evasion_recall` is the mean over all forms, `evasion_loss` by how much that is below the recall of the same spam as
    it was, and `evasion_worst` the share of that recall which is left in the worst form. A message that can't be read
    counts as passed.
    """
    rows = []
    for name, form in {"as it was": lambda spam: message(spam.subject, spam.body), **FORMS}.items():
        ours, its = caught([_text_of(form(spam)) for spam in spams])
        rows.append({"form": name, "mails": len(spams), "caught": ours, "baseline_caught": its})
    table = pd.DataFrame(rows)
    table.to_csv(evidence / "evasions.csv", index=False, float_format="%.4f")
    plain, found = table["caught"][0], table["caught"][1:]
    return {
        "evasion_recall": float(found.mean()),
        "evasion_loss": float(plain - found.mean()),
        "evasion_worst": float(found.min() / plain) if plain else 0.0,
        "baseline_evasion_recall": float(table["baseline_caught"][1:].mean()),
    }


def _text_of(raw: bytes) -> str:
    try:
        return email_text(*parse_message(raw))
    except RowError:
        return email_text("", "")


def _measure_behavioural(
    name: str,
    mails: pd.DataFrame,
    config: ClassifierConfig,
    its: ClassifierConfig,
    probability: np.ndarray,
    its_probability: np.ndarray,
) -> tuple[dict[str, float], pd.DataFrame]:
    """The shares of each label's behavioural mails that are right, of model and baseline, and a row a mail."""
    actual, predicted = _numbers(mails["label"], config.labels), config.decide(probability)
    right, its_right = predicted == actual, its.decide(its_probability) == actual
    columns = {
        "predicted": np.array(config.labels)[predicted],
        "probability": probability[np.arange(len(mails)), predicted].round(4),
        "right": right,
        "baseline_right": its_right,
    }
    shares = {}
    for number, label in enumerate(config.labels):
        if (actual == number).any():
            shares[f"{name}_{label}"] = float(right[actual == number].mean())
            shares[f"baseline_{name}_{label}"] = float(its_right[actual == number].mean())
    return shares, mails[["id", "label", "slice"]].assign(**columns)


EVALUATION = Evaluation(params=Evaluate, measure=measure)
