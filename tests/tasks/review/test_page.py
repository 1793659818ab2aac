import base64
from dataclasses import replace
from getpass import getuser
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from html_pages import rows, section, text

from tasks.registry.markup import number, signed
from tasks.review.comparison import Comparison, Row, Slice, version_of
from tasks.review.gates import Gate
from tasks.review.metrics import Difference, Metric
from tasks.review.page import summary, verdict, write_page

pytestmark = pytest.mark.slow

ATTACK = "<script>alert(1)</script> | [free](https://example.com/win) ![](https://example.com/x.png) `a` **b** # c"
LED = Difference(0.07, 0.05, 0.09)
METRICS = {
    "response_loss": Metric("response_loss", 0.5, baseline=2.0, champion=0.4, to_champion=Difference(0.1)),
    "f1": Metric("f1", 0.971, 0.96, 0.98, 0.9, LED, 0.98, 0.975, Difference(-0.005, -0.015, -0.002)),
    "calibration_error": Metric("calibration_error", 0.01, 0.005, 0.02, champion=0.02),
    "recall": Metric("recall", 0.9, 0.88, 0.92, None, None, 0.9, 0.9, Difference(0.0, -0.01, 0.01)),
    "roc_auc": Metric("roc_auc", 0.99, champion=0.99, paired=0.99, to_champion=Difference(0.0, 0.0, 0.0)),
    "perplexity": Metric("perplexity", 9.0),
}
PASSED = [Gate("f1 at least 0.9", True, "0.971"), Gate("its lineage is complete", True, "commit 01, and every hash")]
FAILED = [
    *PASSED,
    Gate("no sure loss of f1 against the champion", False, "worse: -0.005"),
    Gate("its data passed the checks", None, "reports/quality is missing"),
]
LOST = f"{number(0.975)} against {number(0.98)}, {signed(-0.005)} ({signed(-0.015)} to {signed(-0.002)})"
WON = f"{number(0.971)} against {number(0.9)}, {signed(0.07)} ({signed(0.05)} to {signed(0.09)})"


@pytest.fixture
def compared(in_project) -> Comparison:
    """A comparison of two registered versions with numbers and texts that are made up."""
    row = Row("mail-1", ATTACK, "ham", f"spam (0.988) {ATTACK}", "ham (0.600)")
    versions = (version_of("threestage-classifier", number) for number in "21")
    return Comparison(
        "classifier", *versions, METRICS, "f1", {"f1": "harmonic mean", "rouge_l": "of no metric here"}, "TF-IDF",
        "mails", 100, 16,
        seconds={"challenger": 0.02},
        lost=[row], won=[row._replace(id="mail-2")] * 20, errors=[row._replace(id="mail-3")],
        slices=[
            Slice("words", "over 500", 20, 0.9, 0.8, Difference(0.1, -0.1, 0.3)),
            Slice("words", "to 50", 10, 0.5, 0.9, Difference(-0.4, -0.6, -0.1)),
            Slice("label", ATTACK, 5, 1.0, 1.0, Difference(0.0, 0.0, 0.0)),
        ],
    )  # fmt: skip


@pytest.fixture
def alone(compared) -> Comparison:
    """The same without a champion."""
    metrics = {name: replace(each, champion=None, paired=None, to_champion=None) for name, each in METRICS.items()}
    slices = [replace(each, champion=None, difference=None, baseline=0.25) for each in compared.slices]
    return replace(compared, champion=None, metrics=metrics, lost=[], won=[], slices=slices)


def page(folder: Path, comparison: Comparison, gates: list[Gate] = PASSED, **options: list[str]) -> BeautifulSoup:
    write_page(folder, comparison, gates, **options)
    return BeautifulSoup((folder / "review.html").read_text(), "lxml")


def titles(found: BeautifulSoup) -> list[str]:
    return [text(each) for each in found.find_all("h2")]


def test_the_verdict_names_the_gates_that_do_not_pass_and_compares_by_the_main_metric(compared, alone):
    assert verdict(compared, FAILED) == (
        "**Version 2 does not pass: of 4 gates 1 failed and 1 could not be computed.** Not passed: no sure loss of f1 "
        "against the champion (worse: -0.005); its data passed the checks (reports/quality is missing). By f1 it "
        f"is **worse** than champion 1: {LOST}. Of 100 mails it lost 1 and won 20."
    )
    assert verdict(alone, PASSED) == (
        f"**Version 2 passes all 2 gates.** There is no champion. By f1 it is **better** than the baseline: {WON}."
    )


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (Difference(0.0, -0.01, 0.01), "By f1 it does not clearly differ from champion 1: "),
        (Difference(0.1), "By f1 its difference from champion 1 has no interval: "),
        (None, "How it compares with champion 1 is not known: it gives no answers."),
    ],
)
def test_a_verdict_claims_no_more_than_is_known(compared, difference, sentence):
    metrics = {"f1": replace(METRICS["f1"], to_champion=difference)}
    assert sentence in verdict(replace(compared, metrics=metrics, incomparable="it gives no answers"), PASSED)


def test_the_page_shows_verdict_and_evidence_before_the_ways_to_decide(compared, tmp_path):
    found = page(tmp_path, compared, FAILED, how=["Run `threestage review`"])
    assert text(found.h1) == "threestage-classifier: challenger 2 against champion 1"
    assert text(found.find(class_="verdict")).startswith("Version 2 does not pass")
    assert "Then approve or reject version 2; the section “How to decide” gives the commands." in text(found)
    soft = text(found.find(class_="soft"))
    assert soft.startswith("Registered 20")
    assert soft.endswith(f" UTC by {getuser()}, from commit {'a' * 10}.")
    order = ["Gates", "Figures", "Slices", "Answers that changed", "Where the challenger is worst", "How to decide"]
    assert titles(found) == [*order, "What changed since the champion", "All other metrics", "Pictures"]
    assert text(section(found, "How to decide").li) == "Run threestage review"
    assert rows(section(found, "Gates")) == [
        ["✓ passed", "f1 at least 0.9", "0.971"],
        ["✓ passed", "its lineage is complete", "commit 01, and every hash"],
        ["✗ failed", "no sure loss of f1 against the champion", "worse: -0.005"],
        ["? not known", "its data passed the checks", "reports/quality is missing"],
    ]
    figures = section(found, "Figures")
    assert rows(figures)[0] == [
        "f1 harmonic mean",
        f"{number(0.971)} {number(0.96)} to {number(0.98)} {number(0.975)} on the rows of both",
        number(0.98),
        f"{signed(-0.005)} {signed(-0.015)} to {signed(-0.002)} worse",
        number(0.9),
        f"{signed(0.07)} {signed(0.05)} to {signed(0.09)} better",
    ]
    names = ["response_loss less is better", "calibration_error less is better", "recall", "roc_auc"]
    assert [row[0] for row in rows(figures)[1:]] == names
    assert rows(figures)[3][3].endswith("no clear difference")
    assert rows(figures)[4][3] == "the same"
    for sentence in ("The baseline is TF-IDF.", "compared on the same 100 mails", "speed is no gate."):
        assert sentence in text(figures)
    assert rows(section(found, "All other metrics"))[0][0] == "perplexity less is better"
    slices = section(found, "Slices")
    assert [(row[0], row[2], row[5].rpartition(" ")[2]) for row in rows(slices)] == [
        ("words", "10", "worse"), ("label", "5", "same"), ("words", "20", "difference"),
    ]  # fmt: skip
    changed = section(found, "Answers that changed")
    assert text(changed.p) == "Of 100 mails the challenger lost 1 and won 20."
    lost, won = changed.find_all("details")
    assert text(lost.summary) == "Lost: the champion was better"
    assert [text(each) for each in lost.find_all("li")] == [
        "expected: ham", f"challenger: spam (0.988) {ATTACK}", "champion: ham (0.600)",
    ]  # fmt: skip
    assert (text(won.summary), text(won).count("mail-2")) == ("Won, the first 8 of 20", 8)
    assert "mail-3" in text(section(found, "Where the challenger is worst"))
    pictures = {tag["alt"]: base64.b64decode(tag["src"].partition(",")[2]) for tag in found.find_all("img")}
    assert pictures.keys() == {"roc of the challenger", "roc of the champion"}
    assert all(each.startswith(b"<svg") for each in pictures.values())


@pytest.mark.parametrize(
    ("learned", "sentence"),
    [
        (12, "Test mails left out because the champion learned them: 12."),
        (None, "Which of the mails the champion learned is not known, so all are compared."),
    ],
)
def test_rows_that_the_champion_learned_are_counted_in_the_verdict_and_on_the_page(
    compared, tmp_path, learned, sentence
):
    found = replace(compared, learned=learned, seconds={"challenger": 0.02, "champion": 0.03})
    assert verdict(found, PASSED) == f"{verdict(compared, PASSED)} {sentence}"
    html = page(tmp_path, found)
    assert sentence in text(html.find(class_="verdict"))
    assert "The champion answered these rows now." in text(section(html, "Figures"))


def test_a_first_version_has_its_parameters_and_a_baseline_in_its_slices(alone, tmp_path):
    found = page(tmp_path, alone)
    made = rows(section(found, "What it is made from"))
    assert ["train.steps", "20"] in made
    assert [name for name, _ in made if name.startswith("from ")] == ["from data/processed/emails"]
    assert rows(section(found, "Slices"))[0] == ["words", "to 50", "10", number(0.5), number(0.25)]
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


def test_verdict_and_gates_are_markdown_for_other_pages():
    found = summary("threestage-classifier", "2", "1", "**Version 2 passes.**", [Gate("f1", None, "a|b")])
    assert found.startswith("# threestage-classifier: challenger 2 against champion 1\n\n**Version 2 passes.**\n")
    assert found.endswith("| f1 | ? not known | a\\|b |\n")
