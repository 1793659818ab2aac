from pathlib import Path

import pytest
from html_pages import HOSTILE, is_harmless, read_page, rows, section, text, titles
from mlflow import MlflowClient

from llm.errors import UserError
from tasks.registry.decide import approve, reject
from tasks.review.compare import compare
from tasks.review.review import Review, review
from tests.tasks.review.conftest import ROWS, right, scores_of

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"
ME = {"by": "reviewer-1", "reason": "it is better"}


def reviewed(project):
    """The review of the classifier, which has a challenger."""
    result = review("classifier")
    assert isinstance(result, Review)
    return result


@pytest.mark.usefixtures("project")
def test_review_says_that_there_is_no_version():
    assert review("classifier") == "no version yet: `make run` makes one"


@pytest.mark.usefixtures("champion")
def test_review_says_that_nobody_challenges_the_champion():
    assert review("classifier") == "no challenger; version 1 is champion"


def test_first_version_stands_against_its_baseline(project):
    project.register(scores_of(right(2)))
    result = reviewed(project)
    assert [gate.name for gate in result.gates] == [
        "the code that it ships answers",
        "f1 at least 0.5",
        "no sure loss of f1 against the baseline",
        "a commit holds what made it",
    ]
    assert result.not_passed == []
    assert result.verdict.gates == "Version 1 passes all 4 gates."
    assert result.verdict.comparison.startswith("There is no champion. By f1, 0.967 against 0.767")
    page = read_page(Path(result.page))
    assert titles(page) == ["Gates", "Figures", "How to decide", "What it is made from", "More"]
    assert [row[0] for row in rows(section(page, "Gates"))] == ["✓ passed"] * 4
    assert "threestage approve classifier/1 --reason TEXT" in text(section(page, "How to decide"))


def test_challenger_is_compared_with_the_champion_on_the_same_rows(champion):
    champion.register(scores_of(right(31)))
    result = reviewed(champion)
    assert result.failed
    assert result.not_passed == [
        "f1 at least 0.5",
        "no sure loss of f1 against the champion",
        "no sure loss of f1 against the baseline",
    ]
    assert "By f1, 0.483 against 0.983 of champion 1: worse" in result.verdict.comparison
    tags = MlflowClient().get_model_version(NAME, "2").tags
    assert (tags["threestage.against"], tags["threestage.gates"]) == ("1", "; ".join(result.not_passed))
    with pytest.raises(UserError, match=r"failed f1 at least 0\.5; no sure loss of f1 against the champion; no sure"):
        approve("classifier", "2", **ME)
    page = read_page(Path(result.page))
    assert "Of 60 mails the challenger lost 30 and won 0." in text(section(page, "Answers that changed"))
    name, challenger, before, change, *_ = rows(section(page, "Figures"))[0]
    assert (name, challenger[:5], before) == ("f1 how well spam is found", "0.483", "0.983")
    assert change.startswith("-0.500")
    reject("classifier", "2", **ME)
    assert review("classifier") == "no challenger; version 1 is champion"


def test_review_is_made_once_for_a_pair_and_again_for_another_champion(champion):
    champion.register(scores_of(right(2)))
    first = reviewed(champion)
    again = reviewed(champion)
    assert (first.is_new, again.is_new) == (True, False)
    assert (again.gates, again.verdict) == (first.gates, first.verdict)
    assert MlflowClient().get_model_version(NAME, "2").description.startswith("[Review against champion 1](#/")
    MlflowClient().set_registered_model_alias(NAME, "champion", "2")  # a person, in MLflow's pages
    champion.register(scores_of(right(0)))
    assert "champion 2" in reviewed(champion).verdict.comparison


def test_page_shows_hostile_text_as_text_and_loads_nothing(champion):
    table = scores_of(right(5))
    table["answer"] = HOSTILE
    champion.register(table)
    page = read_page(Path(reviewed(champion).page))
    assert is_harmless(page)
    assert HOSTILE in page.get_text()
    assert "<script>alert(1)</script>" in page.pre.get_text()
    assert [image["alt"] for image in page.find_all("img")] == ["roc"]


def test_champion_that_was_evaluated_on_other_rows_is_measured_again(champion):
    champion.register(scores_of(right(2), question="another mail"))
    scores_of(right(20), question="another mail").to_parquet(champion.data / "measured.parquet")
    comparison = compare("classifier", "2", "1")
    assert comparison.notes == ["Champion 1 was evaluated on other rows, and was measured again on these."]
    assert comparison.metrics["f1"].champion == pytest.approx(1 - 20 / ROWS)
    assert comparison.metrics["f1"].to_champion.verdict == "better"


@pytest.mark.parametrize(("seed", "reason"), [(2, "split in another way"), (1, "can't be measured here")])
def test_champion_without_scores_of_these_rows_leaves_gates_unknown(champion, seed, reason):
    champion.register(scores_of(right(2), question="another mail"), seed=seed)
    result = reviewed(champion)
    assert result.not_passed == ["no sure loss of f1 against the champion (not known)"]
    assert not result.is_clear
    assert reason in result.verdict.comparison
    approve("classifier", "2", **ME)  # a person may


@pytest.mark.parametrize(("spam", "passed"), [(190, True), (20, False)])
def test_drift_gate_names_the_property_that_moved(champion, spam, passed):
    champion.learn(["spam"] * spam + ["ham"] * (400 - spam))
    champion.register(scores_of(right(2)))
    (gate,) = [gate for gate in reviewed(champion).gates if gate.name.startswith("its data moved")]
    assert gate.passed is passed
    assert gate.finding.startswith("emails: label ")


def test_gate_fails_for_files_that_no_commit_holds(project):
    version = project.register(scores_of(right(2)))
    MlflowClient().set_tag(
        MlflowClient().get_model_version(NAME, version).run_id, "threestage.uncommitted", "params.yaml"
    )
    gate = reviewed(project).gates[-1]
    assert (gate.passed, gate.finding) == (False, "not in git: params.yaml")


def test_version_whose_shipped_code_fails_does_not_pass(project):
    project.register(scores_of(right(2)))
    code = next(project.folder.glob("mlartifacts/**/code/llm/objectives/classifier/serve.py"))
    code.write_text("raise RuntimeError('no such thing')")
    gate = reviewed(project).gates[0]
    assert (gate.passed, gate.finding) == (False, "RuntimeError: no such thing")


def test_compare_error_for_a_version_that_is_missing_or_made_by_hand(project):
    project.register(scores_of(right(2)))
    with pytest.raises(UserError, match="has no version 7"):
        compare("classifier", "7")
    client = MlflowClient()
    client.create_model_version(NAME, str(project.folder))
    with pytest.raises(UserError, match="it has no run"):
        compare("classifier", "2")
