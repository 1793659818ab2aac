"""Setting a value in params.yaml changes its line and no other."""

import difflib
from pathlib import Path

import pytest
import yaml
from params_files import OURS

from llm.errors import UserError
from tasks.params.set_params import set_params

TRAIN = "applications.assistant.train"


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_bytes(OURS.read_bytes())
    return path


def changed_lines(path: Path) -> list[str]:
    """The lines that are gone or new."""
    diff = difflib.ndiff(OURS.read_text().splitlines(), path.read_text().splitlines())
    return [line for line in diff if line[0] in "+-"]


@pytest.mark.parametrize(
    ("setting", "lines"),
    [
        (f"{TRAIN}.learning_rate=0.002", ["-       learning_rate: 2.5e-3", "+       learning_rate: 0.002"]),
        (f"{TRAIN}.learning_rate=1e-5", ["-       learning_rate: 2.5e-3", "+       learning_rate: 1.0e-05"]),
        (f"{TRAIN}.system='Be: x'", ["-       system: You are a helpful assistant.", "+       system: 'Be: x'"]),
        (f"{TRAIN}.dropout=0.1", ["+       dropout: 0.1"]),
        (f"{TRAIN}.twice=[]", ["-       twice: [general-answers/*]", "+       twice: []"]),
        (
            "applications.guard.review.at_most.false_positive_rate=0.06",
            [
                "-       at_most: {false_positive_rate: 0.05} # twins of harmful requests included",
                "+       at_most: {false_positive_rate: 0.06} # twins of harmful requests included",
            ],
        ),
        (
            "datasets.corpus.sources.2.licence=none",
            ["-         licence: MIT", "+         licence: none"],
        ),
    ],
)
def test_set_params_changes_one_line(path, setting, lines):
    set_params([setting], path)
    assert sorted(changed_lines(path)) == sorted(lines)
    key, _, text = setting.partition("=")
    value = yaml.safe_load(path.read_text())
    for part in key.split("."):
        value = value[int(part) if part.isdecimal() else part]
    assert value == (1e-5 if text == "1e-5" else yaml.safe_load(text))


def test_set_params_adds_a_missing_mapping(path):
    set_params(["foundation.review.at_most.bits_per_byte=1.6", "foundation.train.seed=2"], path)
    assert changed_lines(path) == ["+     seed: 2", "+     at_most:", "+       bits_per_byte: 1.6"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            ["foundation.train.lerning_rate=1"],
            "foundation.train.lerning_rate: unknown key; did you mean",
        ),
        (["foundation.train.steps=many"], "foundation.train.steps: input should be a valid integer"),
        (["foundation.train.steps=1,2"], "foundation.train.steps: input should be a valid integer"),
        (["foundatoin.train.seed=2"], "foundatoin: unknown key; did you mean foundation?"),
        (["foundation.train.seed=2", "applications.classifier.base=none"], "applications.classifier.base: 'none' is"),
        (["datasets.emails.preprocess.labels=[a, b]"], "applications.classifier.train.passes: 'ham' is not"),
        (["steps"], "'steps': write KEY=VALUE"),
        (["steps="], "'steps=': write KEY=VALUE"),
        (["a=[1"], "'[1' is not YAML"),
        (["foundation.train.steps.fast=1"], "foundation.train.steps has no fast"),
        (["datasets.corpus.sources.9.licence=MIT"], "datasets.corpus.sources has no 9"),
    ],
)
def test_set_params_rejects_a_wrong_value_and_writes_nothing(path, settings, reason):
    with pytest.raises(UserError) as error:
        set_params(settings, path)
    assert str(error.value).removeprefix(f"{path}: ").startswith(reason)
    assert path.read_bytes() == OURS.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["params.yaml"]


def test_set_params_names_a_missing_file(tmp_path):
    with pytest.raises(OSError, match=r"params\.yaml: there is no such file"):
        set_params(["foundation.train.seed=2"], tmp_path / "params.yaml")
