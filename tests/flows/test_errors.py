"""A user's mistake is one clear error that names the place, a non-zero exit, and no output of the stage."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from projects import change_params


@pytest.fixture
def fail(stage_line, mlflow_store: Path) -> Callable[[Path, str], str]:
    """Run a stage that must fail; the one line in which it says why."""

    def run(folder: Path, stage: str) -> str:
        code, said = stage_line(folder, stage)
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert code == 1
        assert len(errors) == 1, said
        assert "Traceback" not in said
        return errors[0]

    return run


def _raw(folder: Path, dataset: str, name: str, text: str) -> None:
    """Put a file where `fetch` would."""
    path = folder / "data/raw" / dataset / name
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_a_value_that_is_no_number_is_named(small_project: Path, fail) -> None:
    change_params(small_project, {"foundation": {"train": {"learning_rate": "fast"}}})
    (small_project / "data/processed/corpus").mkdir(parents=True)
    error = fail(small_project, "pretrain")
    assert error.startswith("error: params.yaml: foundation.train.learning_rate: ")
    assert error.endswith("not 'fast'")
    assert not (small_project / "models").exists()


def test_an_unknown_key_is_named_with_the_near_one(small_project: Path, fail) -> None:
    change_params(small_project, {"foundation": {"train": {"leraning_rate": 1}}})
    (small_project / "data/processed/corpus").mkdir(parents=True)
    error = fail(small_project, "pretrain")
    assert error == "error: params.yaml: foundation.train.leraning_rate: unknown key; did you mean learning_rate?"
    assert not (small_project / "models").exists()


def test_a_broken_row_of_a_corpus_is_named(small_project: Path, prefect_api: str, fail) -> None:
    _raw(small_project, "corpus", "mine.jsonl", '{"text": "good"}\n{"text": "bro\n')
    error = fail(small_project, "preprocess@corpus")
    assert error.startswith("error: data/raw/corpus/mine.jsonl, row 2: not JSON")
    assert not (small_project / "data/processed").exists() or not list((small_project / "data/processed").iterdir())


def test_a_label_that_does_not_exist_is_named(small_project: Path, prefect_api: str, fail) -> None:
    path = small_project / "mine.csv"
    with path.open("w", newline="") as file:
        rows = [["label", "subject", "body"], ["ham", "Hi", "Lunch?"], ["smap", "Win", "Click"]]
        csv.writer(file).writerows(rows)
    _raw(small_project, "emails", "mine.csv", path.read_text())
    error = fail(small_project, "preprocess@emails")
    assert error == "error: data/raw/emails/mine.csv, row 3: label 'smap' is not one of ham, spam"
    assert not (small_project / "data/processed/emails").exists()
    assert not (small_project / "reports/quality/emails").exists()


def test_failed_expectations_are_listed(small_project: Path, prefect_api: str, fail) -> None:
    rows = [{"label": "ham", "subject": f"Number {i}", "body": f"Words {i} of a message {i * 7}"} for i in range(40)]
    _raw(small_project, "emails", "mine.jsonl", "\n".join(map(json.dumps, rows)))
    error = fail(small_project, "preprocess@emails")
    assert error == "error: emails: 2 checks failed"
    assert not (small_project / "data/processed/emails").exists()


def test_an_archive_with_a_wrong_hash_is_refused(small_project: Path, prefect_api: str, fail) -> None:
    change_params(small_project, lambda params: params["datasets"]["corpus"]["sources"][0].update(sha256="0" * 64))
    error = fail(small_project, "fetch@corpus")
    assert "corpus.tgz" in error
    assert "0" * 64 in error
    assert not (small_project / "data/raw/corpus").exists()


def test_no_npm_on_path_says_what_to_install(small_project: Path, prefect_api: str, fail, monkeypatch) -> None:
    source = {"source": "npm:some-words@1.0.0", "sha256": "0" * 64}
    change_params(small_project, {"datasets": {"corpus": {"sources": [source]}}})
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    error = fail(small_project, "fetch@corpus")
    assert error.startswith("error: npm is not on PATH")
    assert not (small_project / "data/raw/corpus").exists()
