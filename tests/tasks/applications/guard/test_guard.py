"""The guard learns, replies, is measured and is reviewed as a classifier of requests of which answer passes."""

import json

import pandas as pd
import pytest
import torch
import yaml
from projects import ROOT

from llm.device import Compute
from llm.formats.model_folder import save_model
from llm.loaded_model import LoadedModel
from llm.objectives import GUARD, interface_of
from llm.objectives.classifier import guard_replies
from llm.training.loop import train
from tasks.measures.description import Subject
from tasks.measures.evaluate import measure_and_write
from tasks.measures.metrics import figures
from tasks.params import find_evaluation, find_training
from tasks.training.setup import TrainingFiles

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
BLOCK = yaml.safe_load((ROOT / "params.yaml").read_text())["applications"]["guard"]
REQUESTS = {"answer": "the cat sat", "crisis": "the moon ate", "decline": "a dog ate the hat"}


@pytest.fixture
def trained(make_gpt, encoding, tmp_path):
    """A guard that has learned one request a label, and the folder of its dataset."""
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", LoadedModel(make_gpt(context_length=64), encoding), "language_model")
    data = tmp_path / "requests"
    data.mkdir()
    for split, times in (("train", 20), ("validation", 6), ("test", 4)):
        rows = [(f"{request} {n}", label) for n in range(times) for label, request in REQUESTS.items()]
        table = pd.DataFrame(rows, columns=["request", "label"]).assign(source="a.jsonl")
        table["id"] = [f"{split}#{n}" for n in range(len(table))]
        table.assign(unit=range(len(table))).to_parquet(data / f"{split}.parquet")
    guard = find_training("guard")
    small = {"lora": None, "layers": None, "last_blocks": None, "max_tokens": 32, "ngram_buckets": 4096, "steps": 1}
    params = guard.train.model_validate(BLOCK["train"] | small)
    setup = guard.prepare(params, TrainingFiles(dataset=data, base=tmp_path / "base"))
    train(setup.loaded.model, params, setup.objective)
    setup.finish()
    return setup.loaded.model.eval(), data


def test_guard_of_params_yaml_replies_to_what_it_declines_and_says_where_help_is(trained, encoding, tmp_path):
    model, _ = trained
    assert model.config.labels == ("answer", "crisis", "decline")
    answer, crisis, decline = guard_replies(
        LoadedModel(model, encoding), [f"{request} 99" for request in REQUESTS.values()]
    )
    assert answer is None
    assert "findahelpline.com" in crisis
    assert "emergency number" in crisis
    assert "can't help" in decline
    (tmp_path / "guard").mkdir()
    save_model(tmp_path / "guard", LoadedModel(model, encoding), "classifier")
    assert interface_of(tmp_path / "guard").capabilities == (GUARD,)


def test_guard_is_measured_by_what_it_stops_and_its_score_table_has_the_same_figures(
    trained, encoding, tmp_path, monkeypatch
):
    model, data = trained
    folder = tmp_path / "data/behavioural/requests"
    folder.mkdir(parents=True)
    for name, label in (("everyday", "answer"), ("harmful", "decline")):
        row = {"id": name, "label": label, "slice": "a", "request": REQUESTS[label]}
        (folder / f"{name}.jsonl").write_text(json.dumps(row))
    monkeypatch.chdir(tmp_path)
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    evaluation = find_evaluation("guard")
    subject = Subject(
        loaded=LoadedModel(model, encoding),
        data=data,
        base=tmp_path,
        params=evaluation.params(batch_size=4),
        compute=CPU,
        evidence=evidence,
    )
    metrics = measure_and_write(evaluation, subject)
    assert (metrics["recall"], metrics["false_positive_rate"], metrics["f1"]) == (1.0, 0.0, 1.0)
    assert "evasion_recall" not in metrics
    scores = pd.read_parquet(evidence / "scores.parquet")
    asked = scores.query("part != 'test' and measure == 'right'")
    assert asked["id"].tolist() == ["everyday", "harmful"]
    by_name = figures(evaluation.metrics(scores), scores)
    assert by_name.keys() >= {"recall", "false_positive_rate", "f1", "everyday_answer", "harmful_decline"}
    assert {name: figure.value for name, figure in by_name.items()} == {name: metrics[name] for name in by_name}
