import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from tasks.params.schema import SCHEMA_FILE, schema_text
from tasks.stages.yaml_text import read_yaml

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    """The committed schema."""
    return Draft202012Validator(json.loads((ROOT / SCHEMA_FILE).read_text()))


def test_committed_schema_is_that_of_the_classes_and_accepts_params(validator):
    values = read_yaml(ROOT / "params.yaml")
    assert (ROOT / SCHEMA_FILE).read_text() == schema_text(values), "run python -m tasks.params.schema"
    validator.validate(yaml.safe_load((ROOT / "params.yaml").read_text()))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("foundation.train.stepps", 100),
        ("foundation.train.steps", "many"),
        ("foundation.train.optimizer", "sgd"),
        ("applications.classifier.train.lora.rank", 0),
        ("applications.quiz", {}),
        ("datasets.corpus.sources", []),
    ],
)
def test_schema_marks_a_mistake(validator, key, value):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    *parents, last = key.split(".")
    block = values
    for parent in parents:
        block = block[parent]
    block[last] = value
    (error,) = validator.iter_errors(values)
    assert list(error.absolute_path) in (key.split("."), parents)
