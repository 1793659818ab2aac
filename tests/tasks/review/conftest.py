"""A project with a classifier that is registered for each of its evaluations."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from projects import ROOT, git
from small_models import write_model

from llm.config import Config
from tasks.measures.description import Evaluation, Measured
from tasks.measures.metrics import Metric
from tasks.measures.scores import score_table, write_scores
from tasks.registry.decide import approve
from tasks.registry.register import register_model
from tasks.review import compare
from tasks.review.review import review
from tasks.stages.hashes import md5_of
from tests.tasks.registry.conftest import enter

ROWS = 60
GATES: dict[str, Any] = {"at_least": {"f1": 0.5}, "no_loss": ["f1"], "drift": 0.25}


def scores_of(right, *, question="a mail", seed=1):
    """A score table in which the baseline is right in four of five rows."""
    generator = np.random.default_rng(seed)
    rows = pd.DataFrame({"part": "test", "id": [f"mail-{number}" for number in range(len(right))]})
    rows["question"] = [f"{question} {number}" for number in range(len(right))]
    rows["expected"] = "ham"
    rows["slice"] = np.where(rows.index % 3 == 0, "short", "long")
    answers = np.where(right, "ham", "spam")
    by_chance = generator.random(len(right)) < 0.8
    ours = pd.DataFrame({"right": np.array(right, float), "answer": answers})
    baseline = pd.DataFrame({"right": by_chance.astype(float), "answer": np.where(by_chance, "ham", "spam")})
    return score_table(rows, ours=ours, baseline=baseline)


def measure(subject):
    """Read what a test wrote for these weights."""
    return Measured(pd.read_parquet(subject.data / "measured.parquet"))


def metrics(table):
    """The share of right answers, under the name that the gates have."""
    return [Metric("f1", ("right",))]


EVALUATION = Evaluation(
    params=Config,
    measure=measure,
    metrics=metrics,
    main="f1",
    unit="mails",
    judged_by=("right",),
    slices=("slice",),
    explained={"f1": "how well spam is found"},
    baseline="a word count",
)


def make_project(folder):
    """A project with a trained classifier, which was never evaluated."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["applications"]["classifier"]["review"] = GATES
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    for name in ("llm", "tasks"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "data/processed/emails").mkdir(parents=True)
    Project(folder).learn(["ham", "spam"] * 200)
    (folder / "reports/training/classifier").mkdir(parents=True)
    write_model(folder / "models/classifier", "classifier", 3, context_length=256, n_layer=1)
    git(folder, "init --quiet")
    (folder / ".gitignore").write_text("mlflow.db*\nmlartifacts/\n.threestage/\nmodels/\n")


class Project:
    """The folder of such a project, whose classifier is registered again for each evaluation."""

    def __init__(self, folder):
        self.folder = folder
        self.data = folder / "data/processed/emails"

    def learn(self, labels):
        """Have train rows of these labels."""
        pd.DataFrame({"id": "a", "body": "hello", "label": labels}).to_parquet(self.data / "train.parquet")

    def register(self, table, *, seed=1):
        """Register the classifier with an evaluation that found these scores."""
        report = Path("reports/evaluation/classifier")
        shutil.rmtree(report, ignore_errors=True)
        (report / "evidence").mkdir(parents=True)
        write_scores(table, report / "evidence")
        (report / "evidence/roc.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
        (report / "evidence/samples.md").write_text("# Samples\n\n<script>alert(1)</script>\n")
        (report / "metrics.json").write_text(json.dumps({"f1": table["ours"].mean(), "speed": 3.0}))
        outs = []
        for path in (report / "evidence", report / "metrics.json"):
            outs.append({"path": str(path), "md5": md5_of(path)})
        data = {"path": "data/processed/emails", "md5": md5_of(self.data)}
        preprocess = {"params": {"params.yaml": {"datasets.emails.preprocess": {"seed": seed}}}, "outs": [data]}
        train = {
            "params": {"params.yaml": {"applications.classifier.train": {"steps": 20 + len(table)}}},
            "deps": [data],
        }
        model = {"path": "models/classifier", "md5": md5_of(Path("models/classifier"))}
        stages = {
            "preprocess@emails": preprocess,
            "finetune@classifier": train | {"outs": [model]},
            "evaluate@classifier": {
                "deps": [data, model],
                "outs": outs,
            },
        }
        Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
        git(self.folder, "add --all")
        git(self.folder, "commit --quiet --message Evaluated")
        return register_model("classifier")


@pytest.fixture(scope="session")
def empty_project(tmp_path_factory, ready_store):
    """The project without a version. Copy it."""
    folder = tmp_path_factory.mktemp("review") / "project"
    folder.mkdir()
    shutil.copy(ready_store, folder / "mlflow.db")
    make_project(folder)
    return folder


def enter_copy(original, folder, monkeypatch):
    """Work in a copy of such a project."""
    enter(original, folder, monkeypatch)
    monkeypatch.setattr(compare, "find_evaluation", lambda model: EVALUATION)
    return Project(folder)


@pytest.fixture
def project(empty_project, tmp_path, monkeypatch):
    """A copy of it, to work in."""
    return enter_copy(empty_project, tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def project_with_champion(empty_project, tmp_path_factory):
    """The project whose version 1, with one wrong answer, was reviewed and approved. Copy it."""
    folder = tmp_path_factory.mktemp("champion") / "project"
    with pytest.MonkeyPatch.context() as patch:
        enter_copy(empty_project, folder, patch).register(scores_of(right(1)))
        review("classifier")
        approve("classifier", "1", despite_gates=True, by="reviewer-1", reason="it is the first")
    mlflow.set_tracking_uri(None)
    return folder


@pytest.fixture
def champion(project_with_champion, tmp_path, monkeypatch):
    """A copy of it, to work in."""
    return enter_copy(project_with_champion, tmp_path, monkeypatch)


def right(wrong, of=ROWS):
    """So many wrong answers at the beginning."""
    return [number >= wrong for number in range(of)]
