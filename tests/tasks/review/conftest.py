"""A project with test rows, and a registry of small models that ship their code."""

import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils
from projects import ROOT
from small_models import TEXT, write_model

from tasks.registry.record import Record, read_record, write_record
from tasks.registry.store import configure_tracking
from tasks.review import compare
from tasks.review.answers import NoAnswerError
from tasks.served import signature
from tasks.stages.hashes import Hashes, md5_of

DATASETS = {"classifier": "emails", "foundation": "corpus"}
WORDS = TEXT[0].split()
WHOLE = {"git.commit": "a" * 40, "run.training": "b"} | {
    f"git.dirty.{part}": "false" for part in ("code", "params.yaml", "dvc.yaml")
}
LOGGED = {
    "classifier": {"f1": 0.5, "f1_gain": 0.1, "f1_gain_low": 0.05, "f1_gain_high": 0.2, "baseline_f1": 0.4},
    "foundation": {"bits_per_byte": 5.0, "bits_per_byte_low": 4.5, "bits_per_byte_high": 5.5}
    | {"baseline_bits_per_byte": 5.2, "ngram_bits_per_byte": 5.3},
}


def ship(folder: Path, changed: Mapping[str, tuple[str, str]]) -> list[str]:
    """The code that a version ships, with some of its text replaced: by file, what stood there and what stands now."""
    shutil.copytree(ROOT / "llm", folder / "llm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tasks/data/mail", folder / "tasks/data/mail")
    for package in ("tasks", "tasks/data"):
        (folder / package / "__init__.py").touch()
    for path, (before, after) in changed.items():
        text = (folder / path).read_text()
        assert before in text
        (folder / path).write_text(text.replace(before, after))
    return [str(folder / "llm"), str(folder / "tasks")]


def register(
    model: str, weights: Path | None = None, *, changed: Mapping[str, tuple[str, str]] | None = None, bare: bool = False
) -> str:
    """A version as `register` leaves it, of logged metrics that are made up. Its number.

    With `weights` it can be loaded; `bare` ships no code.
    """
    configure_tracking()
    client, name = MlflowClient(), f"threestage-{model}"
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    with TemporaryDirectory() as folder, mlflow.start_run() as run:
        source, model_id = run.info.artifact_uri, None
        if weights:
            logged = mlflow.pyfunc.log_model(
                name=model,
                python_model=str(ROOT / "tasks/served.py"),
                code_paths=None if bare else ship(Path(folder), changed or {}),
                artifacts={"model": str(weights)},
                signature=signature(weights),
                pip_requirements=["mlflow"],
            )
            source, model_id = logged.model_uri, logged.model_id
        mlflow.log_metrics(LOGGED[model])
        mlflow.log_params({"train.steps": 20, "train.seed": 1})
        Path(folder, "card.md").write_text("a card")
        mlflow.log_artifact(f"{folder}/card.md", "card")
        Path(folder, "roc.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
        mlflow.log_artifact(f"{folder}/roc.svg", "evaluation/evidence")
    data = f"data/processed/{DATASETS[model]}"
    hashes = Hashes({}, {data: md5_of(Path(data))}, {f"models/{model}": "m1.dir"})
    write_record(run.info.run_id, Record("register", hashes, WHOLE))
    return str(client.create_model_version(name, source, run.info.run_id, model_id=model_id).version)


def set_deps(model: str, number: str, **deps: str) -> None:
    """Record other hashes of what a version learned from, by dataset or folder below data/."""
    run_id = MlflowClient().get_model_version(f"threestage-{model}", number).run_id
    record = read_record(run_id)
    made = {}
    for name, md5 in deps.items():
        folder = "data/processed" if name in DATASETS.values() else "data"
        made[f"{folder}/{name}"] = md5
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
    labels = [("ham", "spam")[n % 2] for n in range(count)]
    table = pd.DataFrame({"id": [f"mail-{n}" for n in range(count)], "source": "a/b/lists", "subject": texts})
    table = table.assign(body=bodies, label=labels)
    table.loc[count - 1, ["subject", "body"]] = ""
    return table


def write_project(folder: Path, corpus: Path) -> None:
    """Test rows and parameters."""
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "data/processed/emails").mkdir(parents=True)
    mails(40).to_parquet(folder / "data/processed/emails/test.parquet")
    shutil.copytree(corpus, folder / "data/processed/corpus")
    (folder / "data/behavioural/emails").mkdir(parents=True)
    everyday = mails(8).head(6).assign(slice=["thanks"] * 3 + ["offers"] * 3, id=[f"everyday-{n}" for n in range(6)])
    everyday.drop(columns="source").to_json(folder / "data/behavioural/emails/test.jsonl", orient="records", lines=True)


class Answering:
    """Answers in this process: each version gives the rows of a table, or none. `acts` happen meanwhile."""

    def __init__(self) -> None:
        self.tables: dict[str, pd.DataFrame] = {}
        self.asked: list[tuple[str, int]] = []
        self.acts: list[Callable[[], object]] = []

    def __call__(self, name: str, version: str | int, rows: pd.DataFrame, **_: object) -> tuple[pd.DataFrame, float]:
        version = str(version)
        self.asked.append((version, len(rows)))
        while self.acts:
            self.acts.pop()()
        if version not in self.tables:
            raise NoAnswerError(f"models:/{name}/{version} gives no answers")
        return self.tables[version].loc[rows.index], 0.01


def labelled(labels: pd.Series) -> pd.DataFrame:
    """Answers of a classifier that gives these labels, each at a probability of 0.75."""
    columns = {f"{label}_probability": labels.map({label: 0.75}).fillna(0.25) for label in ("ham", "spam")}
    return pd.DataFrame({"label": labels, **columns, "error": None})


@pytest.fixture
def answering(monkeypatch) -> Answering:
    """Versions answer in this process."""
    answering = Answering()
    monkeypatch.setattr(compare, "answers", answering)
    return answering


@pytest.fixture(scope="session")
def reviewed_files(tmp_path_factory, token_files) -> Path:
    """The project's files, without a registry. Copy it to change it."""
    folder = tmp_path_factory.mktemp("reviewed_files")
    write_project(folder, token_files)
    return folder


@pytest.fixture(scope="session")
def reviewed(tmp_path_factory, reviewed_files) -> Path:
    """A project with two versions of the classifier and one of the foundation, which no test loads. Look at it only."""
    folder = shutil.copytree(reviewed_files, tmp_path_factory.mktemp("reviewed"), dirs_exist_ok=True)
    with inside(folder):
        for model in ("classifier", "classifier", "foundation"):
            register(model)
    return folder


@pytest.fixture(scope="session")
def shipped(tmp_path_factory, reviewed_files) -> Path:
    """A project with versions of the classifier that can be loaded: one answers with the names of the environment
    variables that it sees, the other ships no code."""
    folder = shutil.copytree(reviewed_files, tmp_path_factory.mktemp("shipped"), dirs_exist_ok=True)
    with inside(folder):
        weights = write_model(folder / "made/classifier", "classifier", 3, context_length=256, n_layer=1)
        seen = ("UNSURE if unsure else leaning", "' '.join(__import__('os').environ)")
        register("classifier", weights, changed={"llm/objectives/classifier/serve.py": seen})
        register("classifier", weights, bare=True)
    return folder


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go into a project's folder, with its store, for the rest of a test."""
    monkeypatch.setattr(utils, "_artifact_repos_cache", OrderedDict())  # MLflow's, of where runs were
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    configure_tracking()
    return folder


@pytest.fixture
def in_project(reviewed, monkeypatch) -> Path:
    """In that project, with its store."""
    return enter(reviewed, monkeypatch)


@pytest.fixture
def copied(reviewed, tmp_path, monkeypatch) -> Path:
    """In a copy of the project, to change."""
    return enter(shutil.copytree(reviewed, tmp_path / "project"), monkeypatch)
