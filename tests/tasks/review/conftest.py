"""A project with test rows, and a registry of small models that ship their code."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
import pytest
import small_models
import yaml
from mlflow import MlflowClient
from projects import ROOT
from small_models import TEXT

from tasks.registry.record import Record, read_record, write_record
from tasks.registry.tracking import configure_tracking
from tasks.served import signature
from tasks.stages.hashes import Hashes, md5_of

DATASETS = {"assistant": "instructions", "classifier": "emails", "foundation": "corpus"}
WORDS = TEXT[0].split()
LOGGED = {
    "classifier": {"f1": 0.5, "f1_gain": 0.1, "f1_gain_low": 0.05, "f1_gain_high": 0.2, "baseline_f1": 0.4},
    "assistant": {"exact_match": 0.1, "baseline_exact_match": 0.05, "nearest_exact_match": 0.2}
    | {"response_loss": 2.0, "baseline_response_loss": 3.0},
    "foundation": {"bits_per_byte": 5.0, "bits_per_byte_low": 4.5, "bits_per_byte_high": 5.5}
    | {"baseline_bits_per_byte": 5.2, "ppmd_bits_per_byte": 5.3},
}


def write_model(folder: Path, model: str, seed: int) -> Path:
    """A smaller model folder still; the foundation's context is less than a piece of text has."""
    context = 64 if model == "foundation" else 256
    return small_models.write_model(folder, model, seed, context_length=context, n_layer=1)


def ship(folder: Path, changed: Mapping[str, tuple[str, str]]) -> list[str]:
    """The code that a version ships, with some of its text replaced: by file, what stood there and what stands now."""
    shutil.copytree(ROOT / "llm", folder / "llm", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tasks/data").mkdir(parents=True)
    for package in ("tasks", "tasks/data"):
        (folder / package / "__init__.py").touch()
    shutil.copy(ROOT / "tasks/data/mail.py", folder / "tasks/data")
    for path, (before, after) in changed.items():
        text = (folder / path).read_text()
        assert before in text
        (folder / path).write_text(text.replace(before, after))
    return [str(folder / "llm"), str(folder / "tasks")]


def register(
    weights: Path, model: str, *, changed: Mapping[str, tuple[str, str]] | None = None, bare: bool = False, **facts: str
) -> str:
    """A version as `register` leaves it, of logged metrics that are made up; `bare` ships no code. Its number.

    `facts` are those of its record, with two underscores for a point.
    """
    configure_tracking()
    client, name = MlflowClient(), f"threestage-{model}"
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    with TemporaryDirectory() as folder, mlflow.start_run() as run:
        logged = mlflow.pyfunc.log_model(
            name=model,
            python_model=str(ROOT / "tasks/served.py"),
            code_paths=None if bare else ship(Path(folder), changed or {}),
            artifacts={"model": str(weights)},
            signature=signature(weights),
            pip_requirements=["mlflow"],
        )
        mlflow.log_metrics(LOGGED[model])
        mlflow.log_params({"train.steps": 20, "train.seed": 1})
        Path(folder, "card.html").write_text("a card")
        mlflow.log_artifact(f"{folder}/card.html", "card")
        Path(folder, "roc.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
        mlflow.log_artifact(f"{folder}/roc.svg", "evaluation/evidence")
    data = f"data/processed/{DATASETS[model]}"
    hashes = Hashes({}, {data: md5_of(Path(data))}, {f"models/{model}": weights.parent.name})
    named = {name.replace("__", "."): value for name, value in facts.items()}
    write_record(run.info.run_id, Record("register", hashes, named))
    version = client.create_model_version(name, logged.model_uri, run.info.run_id, model_id=logged.model_id)
    return str(version.version)


def set_deps(model: str, number: str, **deps: str) -> None:
    """Record other hashes of what a version learned from, by dataset or folder below data/."""
    run_id = MlflowClient().get_model_version(f"threestage-{model}", number).run_id
    record = read_record(run_id)
    made = {
        f"data/processed/{name}" if name in DATASETS.values() else f"data/{name}": md5 for name, md5 in deps.items()
    }
    write_record(run_id, replace(record, hashes=replace(record.hashes, deps=record.hashes.deps | made)))


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """In a project's folder with its store, for fixtures that outlive a test."""
    mlflow.set_tracking_uri(None)
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
    mlflow.set_tracking_uri(None)


def mails(count: int) -> pd.DataFrame:
    """Mails of words that the tokenizer knows, half of them spam; one is empty, and can't be answered."""
    texts = [" ".join(WORDS[n % 9 : n % 9 + 6]) for n in range(count)]
    bodies = [" ".join(WORDS[n % 11 : n % 11 + n % 13]) for n in range(count)]
    labels = ["spam" if n % 2 else "ham" for n in range(count)]
    table = pd.DataFrame({"id": [f"mail-{n}" for n in range(count)], "source": "a/b/lists", "subject": texts})
    table = table.assign(body=bodies, label=labels)
    table.loc[count - 1, ["subject", "body"]] = ""
    return table


def questions(count: int) -> pd.DataFrame:
    """Questions of two kinds, of which the first has answers that a rule checks."""
    rows = [
        {
            "id": f"question-{n}",
            "source": "here",
            "kind": "counting" if n % 2 else "small_talk",
            "wording": f"wording {n // 4}",
            "instruction": " ".join(WORDS[n : n + 4]),
            "input": "" if n % 3 else "the moon",
            "output": "the cat sat",
            "answers": ["the cat sat"] if n % 2 else [],
            "history": ["hello", "how are you ?"] if n == 3 else [],
            "system": "",
        }
        for n in range(count)
    ]
    return pd.DataFrame(rows)


def write_project(folder: Path, corpus: Path) -> None:
    """Test rows, parameters, dvc.lock and the report on the data's quality."""
    shutil.copy(ROOT / "params.yaml", folder)
    for dataset, table in (("emails", mails(40)), ("instructions", questions(12))):
        (folder / "data/processed" / dataset).mkdir(parents=True)
        table.to_parquet(folder / "data/processed" / dataset / "test.parquet")
    shutil.copytree(corpus, folder / "data/processed/corpus")
    (folder / "data/behavioural/emails").mkdir(parents=True)
    everyday = mails(8).head(6).assign(slice=["thanks"] * 3 + ["offers"] * 3, id=[f"everyday-{n}" for n in range(6)])
    everyday.drop(columns="source").to_json(folder / "data/behavioural/emails/test.jsonl", orient="records", lines=True)
    stages = {}
    for dataset in DATASETS.values():
        made = f"data/processed/{dataset}"
        outs = [{"path": made, "md5": md5_of(folder / made)}]
        stages[f"preprocess@{dataset}"] = {"cmd": "preprocess", "outs": outs}
        report = folder / "reports/quality" / dataset / "validation.json"
        report.parent.mkdir(parents=True)
        check = {"column": "label", "expectation": "expect_column_values_to_be_in_set", "success": True}
        report.write_text(json.dumps({"dataset": dataset, "success": True, "expectations": [check]}))
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


@pytest.fixture(scope="session")
def reviewed_files(tmp_path_factory, token_files) -> Path:
    """The project's files, without a registry. Copy it to change it."""
    folder = tmp_path_factory.mktemp("reviewed_files")
    write_project(folder, token_files)
    return folder


@pytest.fixture(scope="session")
def reviewed(tmp_path_factory, reviewed_files) -> Path:
    """A project in which the assistant and the foundation have two versions, the classifier four. Look at it only.

    All versions of the classifier have the same weights. The second ships code that decides the other way, the third
    ships none, and the fourth answers with the names of the environment variables that it sees.
    """
    folder = shutil.copytree(reviewed_files, tmp_path_factory.mktemp("reviewed"), dirs_exist_ok=True)
    with inside(folder):
        weights = write_model(folder / "made/c1/classifier", "classifier", 3)
        other_way = ("labels[label], **{", "labels[1 - label], **{")
        register(weights, "classifier")
        register(weights, "classifier", changed={"llm/objectives/classifier/__init__.py": other_way})
        register(weights, "classifier", bare=True)
        seen = ("labels[label], **{", "' '.join(__import__('os').environ), **{")
        register(weights, "classifier", changed={"llm/objectives/classifier/__init__.py": seen})
        for model in ("assistant", "foundation"):
            for number in (1, 2):
                register(write_model(folder / f"made/{model}-{number}" / model, model, number), model)
    return folder


@pytest.fixture
def in_project(reviewed, monkeypatch) -> Path:
    """In that project, with its store."""
    monkeypatch.chdir(reviewed)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{reviewed / 'mlflow.db'}")
    configure_tracking()
    return reviewed
