import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from tasks.params import Params, load_params

OURS = Path(__file__).parents[2] / "params.yaml"
GONE = object()
HANDED_DOWN = ("preprocess.corpus.foundation", "pretrain.foundation")


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return yaml.safe_load(OURS.read_text())


@pytest.fixture
def written(values, tmp_path):
    """params.yaml with one key set to another value, or gone."""

    def write(key: str, value: Any) -> Path:
        changed = copy.deepcopy(values)
        *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        place = changed
        for part in parents:
            place = place[part]
        if value is GONE:
            del place[last]
        else:
            place[last] = value
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(changed))
        return path

    return write


def test_our_own_file_loads_and_means_what_it_says(values):
    params = load_params(OURS)
    assert params.pretrain.learning_rate == values["pretrain"]["learning_rate"]
    assert params.fetch.emails[0].sha256 == values["fetch"]["emails"][0]["sha256"]
    assert params.evaluate.foundation.sample_prompts == tuple(values["evaluate"]["foundation"]["sample_prompts"])
    assert params.pretrain.gpt(300).vocabulary_size == 300


def test_our_own_file_leaves_no_value_to_a_default(values):
    """A change of a default would otherwise change results that DVC takes for fresh."""

    def missing(model: BaseModel, given: Any, place: str) -> list[str]:
        found = []
        for name in type(model).model_fields:
            inner = getattr(model, name)
            if name not in given and f"{place}{name}" not in HANDED_DOWN:
                found.append(f"{place}{name}")
            elif isinstance(inner, BaseModel) and name in given:
                found += missing(inner, given[name], f"{place}{name}.")
        return found

    assert missing(load_params(OURS), values, "") == []


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("pretrain.learning_rate", "fast", "input should be a valid number.*, not 'fast'"),
        ("pretrain.learning_rate", 0, "input should be greater than 0, not 0"),
        ("pretrain.steps", 1.5, "input should be a valid integer.*, not 1.5"),
        ("pretrain.lerning_rate", 1e-3, "unknown key; did you mean learning_rate?"),
        ("pretrain.xyzzy", 1, "unknown key$"),
        ("pretrian", {}, "unknown key; did you mean pretrain?"),
        ("fetch.emails.0.sha", "x", "unknown key; did you mean sha256?"),
        ("preprocess.corpus.vocab_size", 1, "unknown key; did you mean vocabulary_size?"),
        ("evaluate.assistant.max_tokens", 1, "unknown key; did you mean max_new_tokens?"),
        ("pretrain.steps", GONE, "missing"),
        ("finetune_classifier", GONE, "missing"),
        ("fetch.corpus.1.source", GONE, "missing"),
        ("fetch.corpus.0.sha256", "ABC", "string should match pattern.*, not 'ABC'"),
        ("fetch.corpus.0.source", "ftp://a/b", "string should match pattern.*, not 'ftp://a/b'"),
        ("fetch.emails", [], r"list should have at least 1 item.*, not \[\]"),
        ("preprocess.emails.test", 1.5, "input should be less than 1, not 1.5"),
        ("preprocess.corpus.tokenizer", None, "input should be a valid string, not None"),
        ("finetune_classifier.class_weights", "equal", "input should be 'balanced' or 'none', not 'equal'"),
        ("evaluate", None, "input should be a valid dictionary.*, not None"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_key_and_reason(written, key, value, reason):
    path = written(key, value)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {key}')}: {reason}") as caught:
        load_params(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("pretrain.n_head", 3, "pretrain: n_embd 128 is not a multiple of n_head 3"),
        ("preprocess.emails.validation", 0.8, "preprocess.emails: validation 0.8 + test 0.2 leave nothing for train"),
    ],
)
def test_values_that_do_not_go_together_are_named_with_their_section(written, key, value, reason):
    path = written(key, value)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {reason}')}$"):
        load_params(path)


def test_several_mistakes_are_all_named(written, values):
    path = written("pretrain.steps", "many")
    path.write_text(path.read_text().replace("learning_rate", "lerning_rate"))
    with pytest.raises(ValueError, match=r"pretrain\.steps.*pretrain\.lerning_rate") as caught:
        load_params(path)
    assert str(caught.value).count("finetune_assistant.learning_rate: missing") == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("pretrain: [1, 2", "line 1"),
        ("a: 1\n\tb: 2", "line 2"),
        ("", "params.yaml: .*valid dictionary"),
        ("- 1", "params.yaml: .*valid dictionary"),
        ("1: 2", "params.yaml: 1: keys should be strings"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path, content, reason):
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=reason) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"params\.yaml"):
        load_params(tmp_path / "params.yaml")


def test_values_cannot_be_changed_after_loading():
    with pytest.raises(ValueError, match="frozen"):
        load_params(OURS).pretrain.steps = 5


def test_every_field_says_what_it_means():
    def fields(model: type[BaseModel], place: str):
        for name, field in model.model_fields.items():
            inner = field.annotation
            inner = getattr(inner, "__args__", (inner,))[0]
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from fields(inner, f"{place}{name}.")
            else:
                yield f"{place}{name}", field.description

    assert [place for place, meaning in fields(Params, "") if not meaning] == []
