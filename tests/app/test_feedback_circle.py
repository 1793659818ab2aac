"""The whole circle: a mail that was got wrong, what a person says of it, and a version that learned it."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from projects import ROOT, run

from app.settings import Settings
from tasks.measures.intervals import interval
from tasks.measures.label_metrics import f1_of
from tests.app.conftest import post, running, tracked, wait_until

SPLITS = ("train", "validation", "test")


def classify(address: str, mails: list[dict]) -> tuple[str, list[dict]]:
    """The version that answers, and its verdicts."""
    emails = [{"subject": mail["subject"], "body": mail["body"]} for mail in mails]
    answer = post(address, "/classify", {"emails": emails})
    assert answer.status_code == 200, answer.text
    return answer.json()["model"], answer.json()["verdicts"]


def predictions(folder: Path) -> pd.DataFrame:
    """What the version here says of each mail of test."""
    return pd.read_csv(folder / "reports/evaluation/classifier/evidence/predictions.csv")


def is_spam(labels: pd.Series) -> np.ndarray:
    """1 for spam, 0 for ham."""
    return (labels == "spam").to_numpy(int)


def lead_in_f1(actual: np.ndarray, predicted: np.ndarray, guessed: np.ndarray) -> float:
    return f1_of(actual, predicted, 2) - f1_of(actual, guessed, 2)


def splits(folder: Path) -> dict[str, str]:
    """The hash of each split of the emails."""
    files = {split: folder / f"data/processed/emails/{split}.parquet" for split in SPLITS}
    return {split: hashlib.sha256(file.read_bytes()).hexdigest() for split, file in files.items()}


@pytest.fixture
def copied(project: Path, tmp_path: Path) -> Path:
    return shutil.copytree(project, tmp_path / "project", symlinks=True)


def test_accepted_feedback_is_learned_by_the_next_version(copied: Path, prefect_api: str) -> None:
    mails = [json.loads(line) for line in (ROOT / "data/everyday-mail.jsonl").read_text().splitlines()[::10]]
    guessed, drawn = predictions(copied), splits(copied)
    settings = Settings(quarantine=copied / "data/feedback", poll_seconds=2)
    with tracked(copied), running(settings) as address:
        first, verdicts = classify(address, mails)
        assert first == "threestage-classifier/1"
        decided = zip(verdicts, mails, strict=True)
        learned, *others = [mail for verdict, mail in decided if verdict["label"] != mail["label"]]
        body = {"about": "email", **{name: learned[name] for name in ("subject", "body", "label")}}
        kept = post(address, "/feedback", body)
        assert kept.json() == {"kept": True, "dataset": "emails", "model": first}
        accepted = run(copied, *["cli", "feedback", "accept", "all", "--yes"])
        assert accepted.stdout.splitlines()[0] == "1 rows accepted", accepted.stderr
        (copied / "data/inbox/emails/mine.jsonl").write_text("".join(f"{json.dumps(mail)}\n" for mail in others))

        done = run(copied, "cli", "run", PREFECT_API_URL=prefect_api)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        ran = re.findall(r"Beginning flow run '(.+)' for flow", done.stderr)
        assert ran[:4] == ["retrain", "preprocess-emails", "finetune-classifier", "evaluate-classifier"]
        train = pd.read_parquet(copied / "data/processed/emails/train.parquet")
        assert train["id"].str.startswith("inbox/feedback.jsonl#1").sum() == 5, "feedback_weight"
        assert train["id"].str.startswith("inbox/mine.jsonl#").sum() > 0.9 * len(others)
        assert (copied / "data/inbox/emails/mine.jsonl.dvc").exists()

        def is_replaced() -> bool:
            return classify(address, [learned])[0] != first

        wait_until(is_replaced, 300)
        second, says = classify(address, others)
        assert second == "threestage-classifier/2"
        right = [verdict["label"] == mail["label"] for verdict, mail in zip(says, others, strict=True)]
        assert sum(right) > len(right) / 2, "all were wrong before"
    registry = MlflowClient(f"sqlite:///{copied}/mlflow.db")
    assert int(registry.get_model_version_by_alias("threestage-classifier", "challenger").version) == 2

    hashes = splits(copied)
    assert hashes["train"] != drawn["train"]
    assert [hashes[split] for split in SPLITS[1:]] == [drawn[split] for split in SPLITS[1:]]
    after = predictions(copied)
    assert after["id"].tolist() == guessed["id"].tolist()
    columns = [is_spam(labels) for labels in (after["actual"], after["predicted"], guessed["predicted"])]
    assert interval(lead_in_f1, *columns)[1] >= 0, "no worse than chance alone would have it, mail by mail"
