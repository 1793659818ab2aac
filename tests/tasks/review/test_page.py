import base64
from dataclasses import replace
from getpass import getuser
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from html_pages import rows, section, text

from tasks.registry.git import git_text
from tasks.review.comparison import Comparison, Row, Slice, version_of
from tasks.review.gates import Gate
from tasks.review.metrics import Difference, Metric
from tasks.review.page import summary, verdict, write_page
from tests.projects import ROOT

pytestmark = pytest.mark.slow

ATTACK = "<script>alert(1)</script> | [free](https://example.com/win) ![](https://example.com/x.png) `a` **b** # c"
LED = Difference(0.07, 0.05, 0.09)
METRICS = {
    "response_loss": Metric("response_loss", 0.5, baseline=2.0, champion=0.4, to_champion=Difference(0.1)),
    "f1": Metric("f1", 0.9712, 0.96, 0.98, 0.9, LED, 0.98, 0.975, Difference(-0.005, -0.015, -0.002)),
    "calibration_error": Metric("calibration_error", 0.01, 0.005, 0.02, champion=0.02),
    "recall": Metric("recall", 0.9, 0.88, 0.92, None, None, 0.9, 0.9, Difference(0.0, -0.01, 0.01)),
    "roc_auc": Metric("roc_auc", 0.99, champion=0.99, paired=0.99, to_champion=Difference(0.0, 0.0, 0.0)),
    "perplexity": Metric("perplexity", 9.0),
}
PASSED = [Gate("f1 at least 0.9", True, "0.9712"), Gate("its lineage is complete", True, "commit 01, and every hash")]
FAILED = [
    *PASSED,
    Gate("no sure loss of f1 against the champion", False, "worse: -0.0050"),
    Gate("its data passed the checks", None, "reports/quality is missing"),
]


@pytest.fixture
def compared(in_project) -> Comparison:
    """A comparison of two registered versions with numbers and texts that are made up."""
    row = Row("mail-1", ATTACK, "ham", f"spam (0.9876) {ATTACK}", "ham (0.6000)")
    versions = (version_of("threestage-classifier", number) for number in "21")
    return Comparison(
        "classifier", "threestage-classifier", *versions, METRICS, "f1",
        {"f1": "harmonic mean", "rouge_l": "of no metric here"}, "TF-IDF", "mails", 100, 16,
        seconds={"challenger": 0.02},
        lost=[row], won=[replace(row, id="mail-2")] * 20, errors=[replace(row, id="mail-3")],
        slices=[
            Slice("words", "over 500", 20, 0.9, 0.8, Difference(0.1, -0.1, 0.3)),
            Slice("words", "to 50", 10, 0.5, 0.9, Difference(-0.4, -0.6, -0.1)),
            Slice("label", ATTACK, 5, 1.0, 1.0, Difference(0.0, 0.0, 0.0)),
        ],
    )  # fmt: skip


def alone(compared: Comparison) -> Comparison:
    metrics = {name: replace(each, champion=None, paired=None, to_champion=None) for name, each in METRICS.items()}
    slices = [replace(each, champion=None, difference=None, baseline=0.25) for each in compared.slices]
    return replace(compared, champion=None, metrics=metrics, lost=[], won=[], slices=slices)


def page(folder: Path, comparison: Comparison, gates: list[Gate] = PASSED, **options: list[str]) -> BeautifulSoup:
    write_page(folder, comparison, gates, **options)
    return BeautifulSoup((folder / "review.html").read_text(), "lxml")


def titles(found: BeautifulSoup) -> list[str]:
    return [text(each) for each in found.find_all("h2")]


def test_the_verdict_names_what_does_not_pass(compared):
    assert verdict(compared, FAILED) == (
        "**Version 2 does not pass: of 4 gates 1 failed and 1 could not be computed.** Not passed: no sure loss of f1 "
        "against the champion (worse: -0.0050); its data passed the checks (reports/quality is missing). By f1 it "
        "is **worse** than champion 1: 0.9750 against 0.9800, -0.0050 (-0.0150 to -0.0020). Of 100 mails it lost 1 and "
        "won 20."
    )


def test_verdict_and_evidence_come_before_the_ways_to_decide(compared, tmp_path):
    found = page(tmp_path, compared, FAILED, how=["Command line: `threestage review`"])
    assert text(found.h1) == "threestage-classifier: challenger 2 against champion 1"
    assert text(found.find(class_="verdict")).startswith("Version 2 does not pass")
    order = ["Gates", "Figures", "Slices", "Answers that changed", "Where the challenger is worst", "How to decide"]
    assert titles(found) == [*order, "What changed since the champion", "All other metrics", "Pictures"]
    assert [text(each) for each in section(found, "How to decide").find_all("li")] == [
        "Command line: threestage review"
    ]
    assert not [each for each in titles(page(tmp_path, compared)) if "decide" in each]


def test_the_head_says_when_by_whom_and_from_which_commit_a_version_was_made(compared, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(ROOT / ".git"))
    commit, subject = git_text("log", "-1", "--format=%H %s").split(" ", 1)
    monkeypatch.setattr("tasks.review.page.commit", lambda version: commit)
    said = text(page(tmp_path, compared).find(class_="soft"))
    assert said.startswith("Registered 20")
    assert said.endswith(f" UTC by {getuser()}, from commit {commit[:10]}: {' '.join(subject.split())}.")


def test_a_verdict_without_a_champion_speaks_of_the_baseline(compared):
    assert verdict(alone(compared), PASSED) == (
        "**Version 2 passes all 2 gates.** There is no champion yet. By f1 it is **better** than the baseline: 0.9712 "
        "against 0.9000, +0.0700 (+0.0500 to +0.0900)."
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Difference(0.0, -0.01, 0.01), "By f1 it does not clearly differ from champion 1: "),
        (Difference(0.1), "By f1 its difference from champion 1 has no interval: "),
        (None, "How it compares with champion 1 is not known: it gives no answers."),
    ],
)
def test_a_verdict_claims_no_more_than_is_known(compared, found, said):
    metrics = {"f1": replace(METRICS["f1"], to_champion=found)}
    assert said in verdict(replace(compared, metrics=metrics, incomparable="it gives no answers"), PASSED)


def test_gates_and_five_figures_stand_in_tables_the_most_important_first(compared, tmp_path):
    found = page(tmp_path, compared, FAILED)
    assert rows(section(found, "Gates")) == [
        ["✓ passed", "f1 at least 0.9", "0.9712"],
        ["✓ passed", "its lineage is complete", "commit 01, and every hash"],
        ["✗ failed", "no sure loss of f1 against the champion", "worse: -0.0050"],
        ["? not known", "its data passed the checks", "reports/quality is missing"],
    ]
    assert rows(section(found, "Figures")) == [
        [
            "f1 harmonic mean", "0.9712 0.9600 to 0.9800 0.9750 on the rows of both", "0.9800",
            "-0.0050 -0.0150 to -0.0020 worse", "0.9000", "+0.0700 +0.0500 to +0.0900 better",
        ],
        ["response_loss less is better", "0.5000", "0.4000", "+0.1000", "2.0000", ""],
        ["calibration_error less is better", "0.0100 0.0050 to 0.0200", "0.0200", "", "", ""],
        ["recall", "0.9000 0.8800 to 0.9200", "0.9000", "+0.0000 -0.0100 to +0.0100 no clear difference", "", ""],
        ["roc_auc", "0.9900", "0.9900", "the same", "", ""],
    ]  # fmt: skip
    said = text(section(found, "Figures"))
    assert "The baseline is TF-IDF." in said
    assert "compared on the same 100 mails" in said
    assert "One answer of the challenger took 0.0200 s on this machine, which depends on what else it does" in said
    assert rows(section(found, "All other metrics"))[0][0] == "perplexity less is better"


def test_a_champion_of_other_rows_is_said_to_be_one(compared, tmp_path):
    said = "The champion was evaluated on other rows and answered these now."
    assert said in text(page(tmp_path, replace(compared, other_rows=True)))
    assert said not in text(page(tmp_path, compared))


@pytest.mark.parametrize(
    ("learned", "said"),
    [
        (12, "Test mails left out because the champion learned them: 12."),
        (None, "Which of the mails the champion learned is not known, so all are compared."),
    ],
)
def test_rows_that_the_champion_learned_are_counted_in_the_verdict_and_on_the_page(compared, tmp_path, learned, said):
    found = replace(compared, learned=learned, other_rows=True)
    assert verdict(found, PASSED) == f"{verdict(compared, PASSED)} {said}"
    assert said in text(section(page(tmp_path, found), "Figures"))


def test_answers_that_changed_are_counted_and_shown_with_their_text(compared, tmp_path):
    found = page(tmp_path, compared)
    changed = section(found, "Answers that changed")
    assert text(changed.p) == "Of 100 mails the challenger lost 1 and won 20."
    lost, won = changed.find_all("details")
    assert text(lost.summary) == "Lost: the champion was better"
    assert [text(each) for each in lost.find_all("li")] == [
        "expected: ham", f"challenger: spam (0.9876) {ATTACK}", "champion: ham (0.6000)",
    ]  # fmt: skip
    assert (text(won.summary), text(won).count("mail-2")) == ("Won, the first 8 of 20", 8)
    assert "mail-3" in text(section(found, "Where the challenger is worst"))


def test_slices_begin_with_the_greatest_loss(compared, tmp_path):
    found = section(page(tmp_path, compared), "Slices")
    assert rows(found) == [
        ["words", "to 50", "10", "0.5000", "0.9000", "-0.4000 -0.6000 to -0.1000 worse"],
        ["words", "over 500", "20", "0.9000", "0.8000", "+0.1000 -0.1000 to +0.3000 no clear difference"],
    ]
    assert "The same in both: label <script>" in text(found)


def test_a_first_version_has_its_parameters_and_a_baseline_in_its_slices(compared, tmp_path):
    found = page(tmp_path, alone(compared))
    made = rows(section(found, "What it is made from"))
    assert ["train.steps", "20"] in made
    assert [name for name, _ in made if name.startswith("from ")] == ["from data/processed/emails"]
    assert rows(section(found, "Slices"))[0] == ["words", "to 50", "10", "0.5000", "0.2500"]
    assert "Answers that changed" not in titles(found)
    assert not [head for head in found.find_all("th") if text(head) == "champion"]


def test_text_of_others_does_no_harm_and_reads_as_it_was(compared, tmp_path):
    html = page(tmp_path, compared, [Gate("it answers", False, ATTACK)])
    assert html.find_all(["script", "iframe", "link"]) == []
    addresses = [tag.get("src") or tag.get("href") for tag in html.find_all(["img", "a"])]
    assert all(address.startswith("data:image/svg+xml;base64,") for address in addresses)
    assert ATTACK in text(html.find("blockquote"))
    assert ATTACK in text(html.find("table"))
    assert ATTACK in text(html.find(class_="verdict"))


def test_pictures_of_both_are_in_the_page(compared, tmp_path):
    html = page(tmp_path, compared)
    pictures = {tag["alt"]: base64.b64decode(tag["src"].partition(",")[2]) for tag in html.find_all("img")}
    assert pictures.keys() == {"roc of the challenger", "roc of the champion"}
    assert all(each.startswith(b"<svg") for each in pictures.values())


def test_verdict_and_gates_are_markdown_for_other_pages():
    found = summary("threestage-classifier", "2", "1", "**Version 2 passes.**", [Gate("f1", None, "a|b")])
    assert found.startswith("# threestage-classifier: challenger 2 against champion 1\n\n**Version 2 passes.**\n")
    assert found.endswith("| f1 | ? not known | a\\|b |\n")
