import base64
from collections.abc import Sequence
from dataclasses import replace
from getpass import getuser
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from html_pages import HOSTILE, is_harmless, read_page, rows, section, text, titles

from tasks.registry.markup import number, signed
from tasks.review.comparison import Comparison, Row, Slice, version_of
from tasks.review.gates import Gate
from tasks.review.metrics import Difference, Metric
from tasks.review.page import summary, verdict, write_page

pytestmark = pytest.mark.slow

WORSE = Difference(value=-0.005, low=-0.015, high=-0.002)
BETTER = Difference(value=0.07, low=0.05, high=0.09)
UNCLEAR = Difference(value=0.0, low=-0.01, high=0.01)
SAME = Difference(value=0.0, low=0.0, high=0.0)
F1 = Metric(
    name="f1",
    value=0.971,
    low=0.96,
    high=0.98,
    baseline=0.9,
    to_baseline=BETTER,
    champion=0.98,
    paired=0.975,
    to_champion=WORSE,
)
METRICS = {
    "response_loss": Metric("response_loss", 0.5, baseline=2.0, champion=0.4, to_champion=Difference(0.1)),
    "f1": F1,
    "calibration_error": Metric("calibration_error", 0.01, low=0.005, high=0.02, champion=0.02),
    "recall": Metric("recall", 0.9, low=0.88, high=0.92, champion=0.9, paired=0.9, to_champion=UNCLEAR),
    "roc_auc": Metric("roc_auc", 0.99, champion=0.99, paired=0.99, to_champion=SAME),
    "perplexity": Metric("perplexity", 9.0),
}
SLICES = [
    Slice("words", "over 500", 20, challenger=0.9, champion=0.8, difference=Difference(0.1, low=-0.1, high=0.3)),
    Slice("words", "to 50", 10, challenger=0.5, champion=0.9, difference=Difference(-0.4, low=-0.6, high=-0.1)),
    Slice("label", HOSTILE, 5, challenger=1.0, champion=1.0, difference=SAME),
]
ROW = Row(id="mail-1", text=HOSTILE, expected="ham", challenger=f"spam (0.988) {HOSTILE}", champion="ham (0.600)")
PASSED = [Gate("f1 at least 0.9", True, "0.971"), Gate("its lineage is complete", True, "commit 01, and every hash")]
FAILED = [
    *PASSED,
    Gate("no sure loss of f1 against the champion", False, "worse: -0.005"),
    Gate("its data moved at most 0.25", None, "10 rows are too few"),
]
LOST = f"{number(0.975)} against {number(0.98)}, {signed(-0.005)} ({signed(-0.015)} to {signed(-0.002)})"
WON = f"{number(0.971)} against {number(0.9)}, {signed(0.07)} ({signed(0.05)} to {signed(0.09)})"


@pytest.fixture
def compared(in_project) -> Comparison:
    """A comparison of two registered versions with numbers and texts that are made up."""
    return Comparison(
        model="classifier",
        challenger=version_of("threestage-classifier", "2"),
        champion=version_of("threestage-classifier", "1"),
        metrics=METRICS,
        main="f1",
        explained={"f1": "harmonic mean", "rouge_l": "of no metric here"},
        baseline="TF-IDF",
        unit="mails",
        rows=100,
        checked=16,
        seconds={"challenger": 0.02},
        lost=[ROW],
        won=[ROW._replace(id="mail-2")] * 20,
        errors=[ROW._replace(id="mail-3")],
        slices=SLICES,
    )


@pytest.fixture
def first_version(compared) -> Comparison:
    """The same without a champion."""
    metrics = {name: replace(metric, champion=None, paired=None, to_champion=None) for name, metric in METRICS.items()}
    slices = [replace(part, champion=None, difference=None, baseline=0.25) for part in SLICES]
    return replace(compared, champion=None, metrics=metrics, lost=[], won=[], slices=slices)


def page(
    folder: Path, comparison: Comparison, gates: Sequence[Gate] = PASSED, ways: Sequence[str] = ()
) -> BeautifulSoup:
    write_page(folder, comparison, gates, ways=ways)
    return read_page(folder / "review.html")


@pytest.fixture
def review(compared, tmp_path) -> BeautifulSoup:
    """The page of a challenger that fails a gate."""
    return page(tmp_path, compared, FAILED, ways=["Run `threestage review`"])


def test_verdict_names_the_gates_that_do_not_pass_and_compares_by_the_main_metric(compared, first_version):
    assert verdict(compared, FAILED) == (
        "**Version 2 does not pass: of 4 gates 1 failed and 1 could not be computed.** Not passed: no sure loss of f1 "
        "against the champion (worse: -0.005); its data moved at most 0.25 (10 rows are too few). By f1 it "
        f"is **worse** than champion 1: {LOST}. Of 100 mails it lost 1 and won 20."
    )
    assert verdict(first_version, PASSED) == (
        f"**Version 2 passes all 2 gates.** There is no champion. By f1 it is **better** than the baseline: {WON}."
    )


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (UNCLEAR, "By f1 it does not clearly differ from champion 1: "),
        (Difference(0.1), "By f1 its difference from champion 1 has no interval: "),
        (None, "How it compares with champion 1 is not known: it gives no answers."),
    ],
)
def test_verdict_claims_no_more_than_is_known(compared, difference, sentence):
    metrics = {"f1": replace(F1, to_champion=difference)}
    assert sentence in verdict(replace(compared, metrics=metrics, incomparable="it gives no answers"), PASSED)


def test_page_begins_with_the_verdict_and_shows_evidence_before_the_ways_to_decide(review):
    assert text(review.h1) == "threestage-classifier: challenger 2 against champion 1"
    assert text(review.select_one("h1 + p")).startswith("Version 2 does not pass")
    assert review.main["class"] == ["bad"]
    assert "Then approve or reject version 2; the section “How to decide” gives the commands." in text(review)
    registered = text(review.find(class_="note"))
    assert registered.startswith("Registered 20")
    assert registered.endswith(f" UTC by {getuser()}, from commit {'a' * 10}.")
    evidence = ["Gates", "Figures", "Slices", "Answers that changed", "Where the challenger is worst"]
    details = ["What changed since the champion", "All other metrics", "Pictures"]
    assert titles(review) == [*evidence, "How to decide", *details]
    assert text(section(review, "How to decide").li) == "Run threestage review"


def test_page_marks_each_gate(review):
    gates = section(review, "Gates")
    assert rows(gates) == [
        ["✓ passed", "f1 at least 0.9", "0.971"],
        ["✓ passed", "its lineage is complete", "commit 01, and every hash"],
        ["✗ failed", "no sure loss of f1 against the champion", "worse: -0.005"],
        ["? not known", "its data moved at most 0.25", "10 rows are too few"],
    ]
    assert [mark["class"] for mark in gates.find_all("strong")] == [["good"], ["good"], ["bad"], ["open"]]


def test_page_has_figures_with_intervals_and_differences(review):
    figures = section(review, "Figures")
    assert rows(figures)[0] == [
        "f1 harmonic mean",
        f"{number(0.971)} {number(0.96)} to {number(0.98)} {number(0.975)} on the rows of both",
        number(0.98),
        f"{signed(-0.005)} {signed(-0.015)} to {signed(-0.002)} worse",
        number(0.9),
        f"{signed(0.07)} {signed(0.05)} to {signed(0.09)} better",
    ]
    names = ["response_loss (lower is better)", "calibration_error (lower is better)", "recall", "roc_auc"]
    assert [row[0] for row in rows(figures)[1:]] == names
    assert rows(figures)[3][3].endswith("no clear difference")
    assert rows(figures)[4][3] == "the same"
    for sentence in ("The baseline is TF-IDF.", "compared on the same 100 mails", "speed is no gate."):
        assert sentence in text(figures)
    assert rows(section(review, "All other metrics"))[0][0] == "perplexity (lower is better)"


def test_page_has_slices_with_the_greatest_loss_first(review):
    slices = rows(section(review, "Slices"))
    assert [(row[0], row[2], row[5].rpartition(" ")[2]) for row in slices] == [
        ("words", "10", "worse"),
        ("label", "5", "same"),
        ("words", "20", "difference"),
    ]


def test_page_has_answers_that_changed_and_errors(review):
    changed = section(review, "Answers that changed")
    assert text(changed.p) == "Of 100 mails the challenger lost 1 and won 20."
    won = changed.details.extract()
    assert "Lost: the champion was better mail-1" in text(changed)
    assert [text(item) for item in changed.find_all("li")] == [
        "expected: ham",
        f"challenger: spam (0.988) {HOSTILE}",
        "champion: ham (0.600)",
    ]
    assert text(won.summary) == "Won, the first 8 of 20"
    assert text(won).count("mail-2") == 8
    assert "mail-3" in text(section(review, "Where the challenger is worst"))


def test_page_has_the_pictures_of_both_versions(review):
    pictures = {tag["alt"]: base64.b64decode(tag["src"].partition(",")[2]) for tag in review.find_all("img")}
    assert pictures.keys() == {"roc of the challenger", "roc of the champion"}
    assert all(picture.startswith(b"<svg") for picture in pictures.values())


@pytest.mark.parametrize(
    ("learned", "sentence"),
    [
        (12, "Test mails left out because the champion learned them: 12."),
        (None, "Which of the mails the champion learned is not known, so all are compared."),
    ],
)
def test_page_counts_the_rows_that_the_champion_learned(compared, tmp_path, learned, sentence):
    comparison = replace(compared, learned=learned, seconds={"challenger": 0.02, "champion": 0.03})
    assert verdict(comparison, PASSED) == f"{verdict(compared, PASSED)} {sentence}"
    html = page(tmp_path, comparison)
    assert sentence in text(html.select_one("h1 + p"))
    assert "The champion answered these rows now." in text(section(html, "Figures"))


def test_page_of_a_first_version_has_its_parameters_and_a_baseline_in_its_slices(first_version, tmp_path):
    html = page(tmp_path, first_version)
    made = rows(section(html, "What it is made from"))
    assert ["train.steps", "20"] in made
    assert [name for name, _ in made if name.startswith("from ")] == ["from data/processed/emails"]
    assert rows(section(html, "Slices"))[0] == ["words", "to 50", "10", number(0.5), number(0.25)]
    assert "Answers that changed" not in titles(html)
    assert not [head for head in html.find_all("th") if text(head) == "champion"]


def test_page_shows_hostile_text_as_text(compared, tmp_path):
    html = page(tmp_path, compared, [Gate("it answers", False, HOSTILE)])
    assert is_harmless(html)
    assert HOSTILE in text(html.find("blockquote"))
    assert HOSTILE in text(html.find("table"))
    assert HOSTILE in text(html.select_one("h1 + p"))


def test_summary_is_the_beginning_of_the_review_in_markdown():
    gate = Gate("f1", None, "a|b")
    markdown = summary("threestage-classifier", "2", champion="1", verdict="**Version 2 passes.**", gates=[gate])
    assert markdown.startswith("# threestage-classifier: challenger 2 against champion 1\n\n**Version 2 passes.**\n")
    assert markdown.endswith("| **? not known** | f1 | a\\|b |\n")
