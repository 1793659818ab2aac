"""Setting a value in params.yaml changes that value's characters and no others."""

import difflib
from pathlib import Path
from typing import Any

import pytest
import yaml
from params_files import OURS

from llm.errors import UserError
from tasks.params.set_params import changed_text, parse_settings, set_params
from tasks.stages.yaml_text import parse_values, with_value

SMALL = """\
# Head.
a:
    rate: 3.0e-2   # the rate
    names: {one: 1,
            "two": 2} # odd
    empty:
    list:
      - 'x'
      # about y
      - y
    # about lora
    lora:
        rank: 16 # small
        targets: [up, down]
    # about the rest
    last: "ä"
"""


def removed_lines(before: str, after: str) -> list[str]:
    return [line[2:] for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line.startswith("- ")]


def added_lines(before: str, after: str) -> list[str]:
    return removed_lines(after, before)


def value_under(text: str, key: str) -> Any:
    value = yaml.safe_load(text)
    for part in key.split("."):
        value = value[int(part) if part.isdecimal() else part]
    return value


@pytest.mark.parametrize(
    ("key", "value", "removed", "added"),
    [
        ("a.rate", "1e-5", ["    rate: 3.0e-2   # the rate"], ["    rate: 1.0e-05   # the rate"]),
        ("a.names.two", "null", ['            "two": 2} # odd'], ['            "two": null} # odd']),
        ("a.names.one", "'x, y'", ["    names: {one: 1,"], ["    names: {one: 'x, y',"]),
        ("a.empty", "true", ["    empty:"], ["    empty: true"]),
        ("a.list.1", "'yes'", ["      - y"], ["      - 'yes'"]),
        ("a.lora.targets", "[up]", ["        targets: [up, down]"], ["        targets: [up]"]),
        ("a.last", "'# ü'", ['    last: "ä"'], ["    last: '# ü'"]),
        (
            "a.lora",
            "null",
            ["    lora:", "        rank: 16 # small", "        targets: [up, down]"],
            ["    lora: null"],
        ),
    ],
)
def test_with_value_keeps_comments_and_layout(key: str, value: str, removed: list[str], added: list[str]) -> None:
    (parsed,) = parse_values(value)
    changed = with_value(SMALL, key, parsed)
    assert removed_lines(SMALL, changed) == removed
    assert added_lines(SMALL, changed) == added
    assert value_under(changed, key) == parsed


@pytest.mark.parametrize(
    ("key", "value", "removed", "added"),
    [
        ("a.lora.alpha", "32", [], ["        alpha: 32"]),
        ("a.gates.share.fail", "0.8", [], ["    gates: {share: {fail: 0.8}}"]),
        ("b", "[x]", [], ["b: [x]"]),
        ("a.names.three", "'x, y'", ["    names: {one: 1,"], ["    names: {three: 'x, y', one: 1,"]),
    ],
)
def test_with_value_adds_a_missing_key(key: str, value: str, removed: list[str], added: list[str]) -> None:
    (parsed,) = parse_values(value)
    changed = with_value(SMALL, key, parsed)
    assert removed_lines(SMALL, changed) == removed
    assert added_lines(SMALL, changed) == added
    assert value_under(changed, key) == parsed


def test_with_value_adds_a_key_to_an_empty_mapping() -> None:
    assert with_value("a: {}\n", "a.b.c", 1) == "a: {b: {c: 1}}\n"


@pytest.mark.parametrize("key", ["a.rate.fast", "a.list.2", "a.list.x", "a.empty.b"])
def test_with_value_rejects_a_key_of_something_that_is_no_mapping(key: str) -> None:
    parent, _, part = key.rpartition(".")
    with pytest.raises(UserError, match=f"^{parent} has no {part}$"):
        with_value(SMALL, key, 1)


def test_with_value_rejects_a_value_that_an_alias_shares() -> None:
    with pytest.raises(UserError, match=r"^b: its value is shared"):
        with_value("a: &x 1\nb: *x\n", "b", 2)


def test_set_params_changes_one_line_of_our_file(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    before = OURS.read_text()
    path.write_text(before)
    set_params({"applications.assistant.train.learning_rate": 0.002}, path)
    after = path.read_text()
    assert removed_lines(before, after) == ["      learning_rate: 2.5e-3"]
    assert added_lines(before, after) == ["      learning_rate: 0.002"]


def test_set_params_adds_a_key_that_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    before = OURS.read_text()
    path.write_text(before)
    set_params({"applications.assistant.train.dropout": 0.1}, path)
    assert removed_lines(before, path.read_text()) == []
    assert added_lines(before, path.read_text()) == ["      dropout: 0.1"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"foundation.train.lerning_rate": 1},
            "foundation.train.lerning_rate: unknown key; did you mean learning_rate?",
        ),
        ({"foundation.train.steps": "many"}, "foundation.train.steps: input should be a valid integer"),
        ({"foundatoin.train.seed": 2}, "foundatoin: unknown key; did you mean foundation?"),
        (
            {"foundation.train.seed": 2, "applications.classifier.base": "none"},
            "applications.classifier.base: 'none' is",
        ),
        ({"datasets.emails.preprocess.labels": ["a", "b"]}, "applications.classifier.train.passes: 'ham' is not"),
    ],
)
def test_set_params_rejects_a_wrong_value_and_writes_nothing(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "params.yaml"
    before = OURS.read_bytes()
    path.write_bytes(before)
    with pytest.raises(UserError) as error:
        set_params(changes, path)
    assert str(error.value).startswith(f"{path}: {reason}")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["params.yaml"]


def test_parse_settings_makes_a_grid() -> None:
    grid = parse_settings(["a.rate=1e-3,0.02", "a.list=[x, y]", "a.name='1'"])
    assert grid == [{"a.rate": rate, "a.list": ["x", "y"], "a.name": "1"} for rate in (0.001, 0.02)]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["steps"], "'steps': write KEY=VALUE"),
        (["steps="], "'steps=': write KEY=VALUE"),
        (["a=1", "a=2"], "'a=2': a is set twice"),
        (["a=[1"], r"'\[1' is not YAML"),
    ],
)
def test_parse_settings_rejects_a_malformed_setting(settings: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=f"^{reason}"):
        parse_settings(settings)


def test_changed_text_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"params\.yaml: there is no such file"):
        changed_text({}, Path(tmp_path / "params.yaml"))
