"""How many emails a second a CPU classifies: `python -m benchmarks.classify_speed`, after `make run`.

1,000 mails of the test split to the classifier as a registered version serves it, an MLflow pyfunc with its checks of
columns and its text cleaning, in one request and in many: one mail each, 10, 100. Beside it TF-IDF of words and
logistic regression of scikit-learn, called with the same mails in the same batches. Both in this process, in turns.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from benchmarks import report
from benchmarks.contenders import ROOT
from llm.errors import UserError
from llm.objectives.classifier.texts import row_texts
from tasks.served import ERROR, example, signature
from tasks.training.setup import split_file

BATCHES = (1, 10, 100)  # mails a request, beside all in one

Classify = Callable[[pd.DataFrame], Any]
"""Labels mails, a table with `subject` and `body`."""


def served(model: Path, folder: Path) -> Classify:
    """A model folder as the registry keeps it, in a new folder, and loads it. Raises UserError for another's model."""
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(ROOT / "tasks/served.py"),
        artifacts={"model": str(model)},
        signature=signature(model),
        input_example=example(model),
        pip_requirements=[],  # those of this process
    )
    loaded = mlflow.pyfunc.load_model(str(folder))

    def classify(mails: pd.DataFrame) -> list[str]:
        answers = loaded.predict(mails)
        if reasons := list(answers[ERROR].dropna()):
            raise UserError(f"{model}: {len(reasons)} of {len(mails)} mails have no answer; the first: {reasons[0]}")
        return list(answers["label"])

    return classify


def tfidf(train: pd.DataFrame) -> Classify:
    """Logistic regression on TF-IDF of words and pairs of them: a usual and fast filter."""
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    model: Pipeline = make_pipeline(words, LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000))
    model.fit(row_texts([train["subject"], train["body"]]), train["label"])
    return lambda mails: model.predict(row_texts([mails["subject"], mails["body"]]))


def speed(classify: Classify, mails: pd.DataFrame, batch: int) -> float:
    """Mails a second, in requests of at most `batch`."""
    requests = [mails.iloc[first : first + batch] for first in range(0, len(mails), batch)]
    start = time.perf_counter()
    for request in requests:
        classify(request)
    return len(mails) / (time.perf_counter() - start)


def compare(classifiers: dict[str, Classify], mails: pd.DataFrame, rounds: int) -> dict[str, dict[str, float]]:
    """Medians in mails a second, by classifier and mails a request."""
    sizes = [size for size in BATCHES if size < len(mails)] + [len(mails)]
    each = [(name, size) for size in sizes for name in classifiers]
    medians = report.take_turns(
        {f"{name}, {size}": partial(speed, classifiers[name], mails, size) for name, size in each}, rounds
    )
    return {name: {str(size): medians[f"{name}, {size}"] for size in sizes} for name in classifiers}


def main(arguments: list[str] | None = None) -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each contender, after one that warms up")
    parser.add_argument("--mails", type=int, default=1000, help="mails of a measurement; repeated if there are fewer")
    parser.add_argument("--model", type=Path, default=Path("models/classifier"), help="the classifier's folder")
    parser.add_argument("--data", type=Path, default=Path("data/processed/emails"), help="the mails' folder")
    parser.add_argument("--out", type=Path, default=report.results("classify_speed"), help="where the numbers go")
    options = parser.parse_args(arguments)
    for name in ("rounds", "mails"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: at least one measures something")

    try:
        train, test = (pd.read_parquet(split_file(options.data, split)) for split in ("train", "test"))
        mails = test[["subject", "body"]].sample(options.mails, replace=options.mails > len(test), random_state=1)
        with tempfile.TemporaryDirectory() as temporary:
            classifiers = {"served": served(options.model, Path(temporary, "model")), "TF-IDF": tfidf(train)}
            found = compare(classifiers, mails, options.rounds)
    except UserError as error:
        parser.error(str(error))
    columns = ("mails a request", *(f"{name}, mails/s" for name in found))
    rows = [(size, *(speeds[size] for speeds in found.values())) for size in found["served"]]
    report.show(f"{options.mails:,} emails", columns, rows)
    settings = {name: getattr(options, name) for name in ("rounds", "mails")}
    machine = report.machine(["mlflow", "scikit-learn"])
    report.write(options.out, {"machine": machine, "settings": settings, "mails_per_second": found})


if __name__ == "__main__":
    main()
