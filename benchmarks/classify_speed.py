"""How many emails a second a CPU classifies: `python -m benchmarks.classify_speed`, after `make run`.

1,000 mails of the test split go to the classifier as a registered version serves it, an MLflow pyfunc with its checks
of columns and its text cleaning: in requests of one mail, of 10, of 100, and in one. Next to it stands scikit-learn's
logistic regression on TF-IDF of words, called with the same mails in the same batches. Both run in this process, in
turns.
"""

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
from sklearn.pipeline import make_pipeline

from benchmarks.harness import OURS, ROOT, Table, finish, make_parser, positive, take_turns
from llm.errors import UserError
from llm.objectives.classifier.texts import row_texts
from tasks.served import ERROR, example, signature
from tasks.training.setup import split_file

BATCHES = (1, 10, 100)  # mails a request, next to all in one

Classify = Callable[[pd.DataFrame], Any]
"""Labels mails, a table with `subject` and `body`."""


def served(model: Path, folder: Path) -> Classify:
    """A model folder, saved in `folder` as the registry keeps it and loaded. Raises UserError for another's model."""
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
    model = make_pipeline(words, LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000))
    model.fit(row_texts([train["subject"], train["body"]]), train["label"])

    def classify(mails: pd.DataFrame) -> list[str]:
        texts = row_texts([mails["subject"], mails["body"]])
        return list(model.predict(texts))

    return classify


def speed(classify: Classify, mails: pd.DataFrame, batch: int) -> float:
    """Mails a second, in requests of at most `batch`."""
    requests = [mails.iloc[first : first + batch] for first in range(0, len(mails), batch)]
    start = time.perf_counter()
    for request in requests:
        classify(request)
    return len(mails) / (time.perf_counter() - start)


def compare(classifiers: dict[str, Classify], mails: pd.DataFrame, rounds: int) -> list[Table]:
    """A table for each number of mails a request."""
    sizes = [*(size for size in BATCHES if size < len(mails)), len(mails)]
    tables = []
    for size in sizes:
        contenders = {name: partial(speed, classify, mails, size) for name, classify in classifiers.items()}
        medians = take_turns(contenders, rounds)
        figures = {name: {"mails a second": median} for name, median in medians.items()}
        tables.append(Table(f"Mails a second, {size:,} a request", "mails a second", figures))
    return tables


def main(arguments: list[str] | None = None) -> None:
    """Compare, print, write."""
    parser = make_parser("classify_speed", __doc__, rounds=5)
    parser.add_argument(
        "--mails", type=positive, default=1000, help="mails of a measurement; repeated if there are fewer"
    )
    parser.add_argument("--model", type=Path, default=Path("models/classifier"), help="the classifier's folder")
    parser.add_argument("--data", type=Path, default=Path("data/processed/emails"), help="the mails' folder")
    options = parser.parse_args(arguments)
    try:
        train = pd.read_parquet(split_file(options.data, "train"))
        test = pd.read_parquet(split_file(options.data, "test"))
        mails = test[["subject", "body"]].sample(options.mails, replace=options.mails > len(test), random_state=1)
        with tempfile.TemporaryDirectory() as temporary:
            classifiers = {f"{OURS}, served": served(options.model, Path(temporary, "model")), "TF-IDF": tfidf(train)}
            tables = compare(classifiers, mails, options.rounds)
    except UserError as error:
        parser.error(str(error))
    finish(options, tables, packages=["mlflow", "scikit-learn"])


if __name__ == "__main__":
    main()
