"""Seeds side by side: what they copy, what they keep, and the table."""

import json

import pytest
import yaml

from benchmarks import seeds
from llm.errors import UserError
from tasks.params import load_training
from tasks.stages.names import PARAMS_FILE
from tasks.stages.yaml_text import read_yaml

VALUES = {
    "replay": {"assistant": {"prompts": "data/replay.jsonl"}},
    "foundation": {"dataset": "corpus", "train": {"seed": 1, "steps": 3}},
    "applications": {
        "guard": {"dataset": "requests", "base": "published", "rehearses": "data/replay/nothing.jsonl"}
        | {"train": {"seed": 1, "steps": 4}, "evaluate": {"batch_size": 8}},
    },
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of a file for each path that a guard reads, in the working folder."""
    folder = tmp_path / "project"
    for path in (seeds.COMMANDS, *seeds.inputs(VALUES, "guard"), *seeds.inputs(VALUES, "foundation")):
        file = folder / path / "content" if not path.suffix and not path.name.startswith(".") else folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path.name)
    monkeypatch.chdir(folder)
    return folder


def test_project_of_a_seed_has_the_seed_code_data_and_base_and_nothing_else(project, tmp_path):
    (project / "models/guard").mkdir()
    (project / "models/guard/model.safetensors").write_text("the model that stays")
    (project / "llm/__pycache__").mkdir()
    (project / "llm/__pycache__/a.pyc").write_text("compiled")
    copy = tmp_path / "copy"
    copy.mkdir()
    seeds.make_project(copy, VALUES, "guard", seed=3)
    params = yaml.safe_load((copy / "params.yaml").read_text())
    assert params["applications"]["guard"] == VALUES["applications"]["guard"] | {"train": {"seed": 3, "steps": 4}}
    assert params["foundation"] == VALUES["foundation"]
    assert [path.name for path in (copy / "models").iterdir()] == ["published"]
    assert [path.name for path in (copy / "data/processed").iterdir()] == ["requests"]
    assert [path.name for path in (copy / "llm").iterdir()] == ["content"]


def test_parameters_with_another_seed_are_still_those_of_the_project(tmp_path):
    values = read_yaml(PARAMS_FILE)
    for model in ("foundation", "guard"):
        folder = tmp_path / model
        folder.mkdir()
        seeds.write_params(folder, values, model, seed=7)
        expected = load_training(model).model_dump()
        expected["train"]["seed"] = 7
        assert load_training(model, folder / PARAMS_FILE).model_dump() == expected


def test_fingerprint_changes_with_data_and_parameters_but_not_with_the_seed(project):
    before = seeds.fingerprint(VALUES, "guard")
    guard = VALUES["applications"]["guard"]

    def with_train(**train: int) -> dict:
        return VALUES | {"applications": {"guard": guard | {"train": guard["train"] | train}}}

    assert seeds.fingerprint(with_train(seed=2), "guard") == before
    assert seeds.fingerprint(with_train(steps=5), "guard") != before
    assert seeds.fingerprint(VALUES, "foundation") != before
    (project / "data/processed/requests/content").write_text("other rows")
    assert seeds.fingerprint(VALUES, "guard") != before
    (project / "data/replay.jsonl").unlink()
    with pytest.raises(UserError, match=r"data/replay\.jsonl: missing; `make run` makes it"):
        seeds.fingerprint(VALUES, "guard")


def test_measured_seeds_resume_with_the_missing_seed(project, tmp_path, monkeypatch):
    calls = []

    def measure(values, model, seed):
        calls.append(seed)
        if calls == [1, 2]:
            raise UserError("seed 2: finetune guard ended with exit code 1")
        return {"f1": seed / 10}

    monkeypatch.setattr(seeds, "measure", measure)
    with pytest.raises(UserError, match="seed 2"):
        seeds.measured_seeds(VALUES, "guard", [1, 2, 3], kept=tmp_path / "kept")
    results = seeds.measured_seeds(VALUES, "guard", [1, 2, 3], kept=tmp_path / "kept")
    assert results == [{"f1": 0.1}, {"f1": 0.2}, {"f1": 0.3}]
    assert calls == [1, 2, 2, 3]
    kept = tmp_path / "kept/guard" / seeds.fingerprint(VALUES, "guard")
    assert json.loads((kept / "3.json").read_text()) == {"f1": 0.3}


def test_table_has_mean_lowest_and_highest_of_the_metrics_that_all_seeds_have():
    results = [
        {"f1": 0.8, "f1_low": 0.7, "f1_high": 0.9, "loops": 0.0},
        {"f1": 0.9, "f1_low": 0.8, "f1_high": 1.0, "loops": 0.25, "unanswered": 2},
        {"f1": 0.82, "loops": 0.01},
    ]
    assert seeds.table("guard", results).splitlines() == [
        "| guard, 3 seeds | mean | lowest | highest |",
        "|---|---|---|---|",
        "| f1 | 0.84 | 0.8 | 0.9 |",
        "| loops | 0.08667 | 0 | 0.25 |",
    ]
