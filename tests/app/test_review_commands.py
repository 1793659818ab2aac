"""`threestage review`, `lineage` and `reproduce` hand over to the flows of these names."""

import json
import re

import pytest

from tests.app.conftest import error_of, shell

pytestmark = pytest.mark.slow

ECHO = "import json, sys; print(json.dumps(sys.argv[1:])); sys.exit({code})"


@pytest.fixture
def handed_over(tmp_path, registry):
    """What the flow of a line's command is started with, and the exit code; the flow says both and does nothing."""
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows/__init__.py").touch()
    for flow, code in {"review": 1, "lineage": 0, "reproduce": 2}.items():
        (tmp_path / f"flows/{flow}.py").write_text(ECHO.format(code=code))

    def start(line):
        done = shell(line, tmp_path, registry)
        said, errors = done.communicate()
        assert not errors
        return json.loads(said), done.returncode

    return start


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("review", []),
        ("review classifier assistant --auto", ["classifier", "assistant", "--auto"]),
        ("review classifier --wait 30 --verbose", ["classifier", "--wait", "30.0", "--verbose"]),
        (
            "review approve classifier/3 --despite-gates --by reviewer-1 --reason '-- two words'",
            ["approve", "classifier/3", "--despite-gates", "--reason=-- two words", "--by=reviewer-1"],
        ),
    ],
)
def test_review_hands_over_what_it_was_told(handed_over, line, arguments):
    assert handed_over(f"threestage {line}") == (arguments, 1)


def test_lineage_hands_over_what_it_was_told(handed_over):
    line = "threestage lineage models:/threestage-classifier@champion --mermaid"
    assert handed_over(line) == (["models:/threestage-classifier@champion", "--mermaid"], 0)


def test_reproduce_hands_over_what_it_was_told_and_its_exit_code_comes_back(handed_over):
    assert handed_over("threestage reproduce classifier --verbose") == (["classifier", "--verbose"], 2)


def test_help_names_the_forms_of_a_decision_and_the_exit_codes_of_reproduce(threestage):
    help_ = threestage("review", "--help").stdout
    assert re.findall(r"threestage review (\w+) ", help_) == ["approve", "reject", "rollback", "history"]
    assert re.findall(r"\b\d\b", threestage("reproduce", "--help").stdout) == ["0", "1", "2"]


@pytest.mark.parametrize("line", [["review"], ["lineage", "classifier"], ["reproduce", "classifier"]])
def test_outside_a_project_that_is_said(threestage, tmp_path, line):
    assert error_of(threestage(*line)) == f"error: there is no dvc.yaml in {tmp_path}: go to the project's folder"


@pytest.mark.parametrize("wrong", [["lineage"], ["reproduce"], ["review", "--wait", "x"]])
def test_a_wrong_option_ends_with_2(threestage, wrong):
    assert threestage(*wrong).exit_code == 2
