"""Little data, and much of one kind: the stages go through, and say what is thin."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from projects import ROOT, change_params


@pytest.fixture
def go(command_line, mlflow_store: Path, prefect_api: str) -> Callable[..., None]:
    """Run a stage that must go through."""

    def run(folder: Path, *words: str) -> None:
        code, _, error = command_line(folder, *words)
        assert code == 0, error

    return run


def warned(folder: Path, dataset: str) -> set[str]:
    """The columns of which the report only warns; nothing in it failed."""
    report = json.loads((folder / f"reports/quality/{dataset}/validation.json").read_text())
    failed = [expectation for expectation in report["expectations"] if not expectation["success"]]
    assert {expectation["level"] for expectation in failed} <= {"warn"}
    return {expectation["column"] for expectation in failed}


def test_classifier_learns_from_one_spam_mail_in_each_split(small_project: Path, go: Callable[..., None]) -> None:
    rows = [
        {"label": "spam" if n % 100 == 0 else "ham", "subject": f"Number {n}", "body": f"a{n} b{n} c{n} d{n} e{n}"}
        for n in range(300)
    ]
    wrong = [("x" * 3_000, "one"), ("two", "the same"), ("two", "the same"), ("", "")]
    rows += [{"label": "ham", "subject": subject, "body": body} for subject, body in wrong]
    raw = small_project / "data/raw/emails"
    raw.mkdir(parents=True)
    (raw / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    go(small_project, "flows.preprocess", "emails")
    left_out = pd.read_parquet(small_project / "reports/quality/emails/dropped.parquet")
    assert left_out[["id", "rule", "reason"]].to_numpy().tolist() == [
        ["mine.jsonl#304", "blank", "no text"],
        ["mine.jsonl#301", "lengths", "subject has 3000 characters, not 0 to 2,000"],
        ["mine.jsonl#303", "near_duplicates", "as mine.jsonl#302"],
    ]
    experiments = [experiment.experiment_id for experiment in MlflowClient().search_experiments()]
    (run,) = MlflowClient().search_runs(experiments)
    assert {name: value for name, value in run.data.metrics.items() if name.startswith("dropped.")} == {
        "dropped.blank": 1,
        "dropped.lengths": 1,
        "dropped.near_duplicates": 1,
    }
    assert run.data.metrics["quality.warnings"] == 1
    artifacts = {artifact.path for artifact in MlflowClient().list_artifacts(run.info.run_id)}
    assert {"summary.json", "validation.json", "data_docs"} <= artifacts
    for split in ("train", "validation", "test"):
        labels = pd.read_parquet(small_project / f"data/processed/emails/{split}.parquet")["label"]
        assert (labels == "spam").sum() == 1
    assert warned(small_project, "emails") == {"rows_of_spam"}
    few = {"steps": 2, "evaluate_every": 1, "checkpoint_every": 1}
    change_params(small_project, {"applications": {"classifier": {"base": "published", "train": few}}})
    go(small_project, "flows.load_published")
    go(small_project, "flows.finetune", "classifier")
    go(small_project, "flows.evaluate", "classifier")
    metrics = json.loads((small_project / "reports/evaluation/classifier/metrics.json").read_text())
    assert all(0 <= metrics[name] <= 1 for name in ("f1", "recall", "false_positive_rate"))


def test_foundation_is_trained_and_measured_on_one_short_book(small_project: Path, go: Callable[..., None]) -> None:
    with tarfile.open(ROOT / "tests/data/corpus.tgz") as archive:
        names = ("1793_george_washington_n", "1790_george_washington_n")
        book = "\n\n".join(archive.extractfile(f"speeches/{name}.txt").read().decode() for name in names)
    assert len(book) < 20_000
    raw = small_project / "data/raw/corpus/book"
    raw.mkdir(parents=True)
    (raw / "book.txt").write_text(book)
    change_params(
        small_project,
        {
            "datasets": {"corpus": {"preprocess": {"validation": 0.02, "test": 0.02}}},
            "foundation": {"train": {"context_length": 2048, "steps": 2, "evaluate_every": 1, "batch_size": 1}},
        },
    )
    go(small_project, "flows.preprocess", "corpus")
    assert warned(small_project, "corpus") == {"train_rows", "validation_rows", "test_rows"}
    meta = json.loads((small_project / "data/processed/corpus/meta.json").read_text())
    assert all(0 < meta["splits"][split]["tokens"] < 2048 for split in ("validation", "test"))
    go(small_project, "flows.pretrain")
    go(small_project, "flows.evaluate", "foundation")
    metrics = json.loads((small_project / "reports/evaluation/foundation/metrics.json").read_text())
    assert metrics["bits_per_byte"] > 1
    assert "bits_per_byte_low" not in metrics, "one window has no interval"
