"""Setting a value in params.yaml changes that value's characters and no others."""

import difflib
from pathlib import Path

import pytest
import yaml
from projects import ROOT

from llm.errors import UserError
from tasks.params.set_params import changed_text, parse_settings, set_params
from tasks.stages.yaml_text import parse_values, read_yaml, with_value

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


def changed_lines(before: str, after: str) -> list[str]:
    return [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]


@pytest.mark.parametrize(
    ("key", "text", "lines"),
    [
        ("a.rate", "1e-5", ["-     rate: 3.0e-2   # the rate", "+     rate: 1.0e-05   # the rate"]),
        ("a.names.two", "null", ['-             "two": 2} # odd', '+             "two": null} # odd']),
        ("a.names.one", "'x, y'", ["-     names: {one: 1,", "+     names: {one: 'x, y',"]),
        ("a.empty", "true", ["-     empty:", "+     empty: true"]),
        ("a.list.1", "'yes'", ["-       - y", "+       - 'yes'"]),
        ("a.lora.targets", "[up]", ["-         targets: [up, down]", "+         targets: [up]"]),
        ("a.last", "'# ü'", ['-     last: "ä"', "+     last: '# ü'"]),
        (
            "a.lora",
            "null",
            [
                "-     lora:",
                "+     lora: null",
                "?         +++++",
                "-         rank: 16 # small",
                "-         targets: [up, down]",
            ],
        ),
    ],
)
def test_with_value_changes_one_value_and_keeps_comments_and_layout(key, text, lines):
    (value,) = parse_values(text)
    changed = with_value(SMALL, key, value)
    assert [line for line in changed_lines(SMALL, changed) if line[0] != "?"] == [
        line for line in lines if line[0] != "?"
    ]
    found = yaml.safe_load(changed)
    for part in key.split("."):
        found = found[int(part) if part.isdecimal() else part]
    assert found == value


def test_set_params_changes_one_line_of_our_own_file(tmp_path):
    path, before = tmp_path / "params.yaml", (ROOT / "params.yaml").read_text()
    path.write_text(before)
    set_params({"applications.assistant.train.learning_rate": 0.002}, path)
    lines = changed_lines(before, path.read_text())
    assert [line for line in lines if line[0] == "+"] == ["+       learning_rate: 0.002"]
    assert len([line for line in lines if line[0] == "-"]) == 1
    assert read_yaml(path)["applications"]["assistant"]["train"]["learning_rate"] == 0.002


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"foundation.train.lerning_rate": 1},
            "foundation.train.lerning_rate: unknown key; did you mean learning_rate?",
        ),
        ({"foundation.train.steps": "many"}, "foundation.train.steps: input should be a valid integer"),
        (
            {"foundation.train.seed": 2, "applications.classifier.base": "none"},
            "applications.classifier.base: 'none' is",
        ),
        ({"datasets.emails.preprocess.labels": ["a", "b"]}, "applications.classifier.train.passes: 'ham' is not"),
    ],
)
def test_set_params_rejects_a_wrong_value_and_writes_nothing(tmp_path, changes, reason):
    path, before = tmp_path / "params.yaml", (ROOT / "params.yaml").read_bytes()
    path.write_bytes(before)
    with pytest.raises(UserError) as error:
        set_params(changes, path)
    assert str(error.value).startswith(f"{path}: {reason}")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["params.yaml"]


def test_with_value_rejects_a_value_that_an_alias_shares():
    with pytest.raises(UserError, match=r"^b: its value is shared"):
        with_value("a: &x 1\nb: *x\n", "b", 2)


def test_parse_settings_makes_a_grid():
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
def test_parse_settings_rejects_what_is_no_setting(settings, reason):
    with pytest.raises(UserError, match=f"^{reason}"):
        parse_settings(settings)


def test_text_of_params_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(OSError, match=r"params\.yaml: there is no such file"):
        changed_text({}, Path(tmp_path / "params.yaml"))
