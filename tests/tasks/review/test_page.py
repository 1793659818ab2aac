import base64
import re
from dataclasses import replace
from getpass import getuser
from html import unescape

import pytest
from bs4 import BeautifulSoup

from tasks.registry.git import git_text
from tasks.review.comparison import Comparison, Row, Slice, _version
from tasks.review.gates import Gate
from tasks.review.metrics import Difference, Metric
from tasks.review.page import verdict, write_page
from tests.projects import ROOT

pytestmark = pytest.mark.slow

ATTACK = "<script>alert(1)</script> | [free](https://example.com/win) ![](https://example.com/x.png) `a` **b** # c"
METRICS = {
    "f1": Metric(
        "f1", 0.9712, 0.9801, 0.9, 0.96, 0.98, 0.9712, True,
        Difference(-0.0089, -0.0150, -0.0020), Difference(0.07, 0.05, 0.09),
    ),
    "calibration_error": Metric(
        "calibration_error", 0.01, 0.02, None, 0.005, 0.02, 0.01, True, Difference(-0.01, -0.015, -0.005)
    ),
    "recall": Metric("recall", 0.9, 0.9, None, 0.88, 0.92, 0.9, True, Difference(0.0, -0.01, 0.01)),
    "roc_auc": Metric("roc_auc", 0.99, 0.99, answered=True, to_champion=Difference(0.0, 0.0, 0.0)),
    "response_loss": Metric("response_loss", 0.5, 0.4, 2.0, evaluated=0.5, to_champion=Difference(0.1)),
    "seconds_a_row": Metric("seconds_a_row", 0.0004, 0.0003, answered=True, to_champion=Difference(0.0001)),
}  # fmt: skip
PASSED = [Gate("f1 at least 0.9", True, "0.9712"), Gate("its lineage is complete", True, "commit 01, and every hash")]
FAILED = [
    *PASSED,
    Gate("no sure loss of f1 against the champion", False, "worse: -0.0089"),
    Gate("its data passed the checks", None, "reports/quality is missing"),
]


@pytest.fixture
def compared(in_project) -> Comparison:
    """A comparison of two registered versions with numbers and texts that are made up."""
    row = Row("mail-1", ATTACK, "ham", f"spam (0.9876) {ATTACK}", "ham (0.6000)", -1.0)
    return Comparison(
        "classifier", "threestage-classifier", _version("threestage-classifier", "2"),
        _version("threestage-classifier", "1"), "f1", METRICS, "mails", 100, "data/processed/emails (0123)",
        lost=[row], won=[replace(row, id="mail-2", gain=1.0)] * 20, errors=[replace(row, id="mail-3")],
        told={"challenger": "6 of 120 everyday ham wrong"},
        baseline="TF-IDF", explained={"f1": "harmonic mean", "rouge_l": "of no metric here"},
        slices=[
            Slice("words", "to 50", 10, 0.5, 0.9, Difference(-0.4, -0.6, -0.1)),
            Slice("words", "over 500", 20, 0.9, 0.8, Difference(0.1, -0.1, 0.3)),
            Slice("label", ATTACK, 5, 1.0, 1.0, Difference(0.0, 0.0, 0.0)),
        ],
    )  # fmt: skip


def alone(compared: Comparison) -> Comparison:
    metrics = {name: replace(metric, champion=None, to_champion=None) for name, metric in METRICS.items()}
    slices = [replace(each, champion=None, difference=None) for each in compared.slices]
    return replace(compared, champion=None, metrics=metrics, lost=[], won=[], slices=slices)


def sections(markdown: str) -> dict[str, str]:
    head, *rest = markdown.split("\n## ")
    return {"": head} | dict(part.split("\n", 1) for part in rest)


def test_the_verdict_comes_first_and_names_what_does_not_hold(compared, tmp_path):
    head = sections(write_page(tmp_path, compared, FAILED))[""]
    assert head.splitlines()[0] == "# threestage-classifier: challenger 2 against champion 1"
    assert head.splitlines()[2] == (
        "**Version 2 does not hold: of 4 gates 1 failed and 1 could not be computed.** Not passed: no sure loss of f1 "
        "against the champion (worse: -0.0089); its data passed the checks (reports/quality is missing). By f1 it "
        "is **worse** than champion 1: 0.9712 against 0.9801, -0.0089 (-0.0150 to -0.0020). Of 100 mails it lost 1 and "
        "won 20."
    )


def test_the_head_says_when_by_whom_where_and_from_which_commit_a_version_was_made(compared, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(ROOT / ".git"))
    commit, subject = git_text("log", "-1", "--format=%H %s").split(" ", 1)
    compared.challenger.tags.update({"threestage.git.commit": commit, "threestage.machine.cpu": "AMD EPYC"})
    said = unescape(sections(write_page(tmp_path, compared, PASSED))[""].splitlines()[4].replace("\\", ""))
    when = re.match(r"Registered \d{4}-\d\d-\d\d \d\d:\d\d UTC ", said)[0]
    assert said == f"{when}by {getuser()} on AMD EPYC, from commit `{commit[:10]}`: {subject}."


def test_a_verdict_without_a_champion_speaks_of_the_baseline(compared):
    assert verdict(alone(compared), PASSED) == (
        "**Version 2 passes all 2 gates.** There is no champion yet. By f1 it is **better** than the baseline: 0.9712 "
        "against 0.9000, +0.0700 (+0.0500 to +0.0900)."
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Difference(0.0, -0.01, 0.01), "By f1 no difference from champion 1 can be seen: "),
        (Difference(0.1), "By f1 nobody knows how sure its difference from champion 1 is: "),
        (None, "How it stands against champion 1 is not known: it gives no answers."),
    ],
)
def test_a_verdict_claims_no_more_than_is_known(compared, found, said):
    metrics = {"f1": replace(METRICS["f1"], to_champion=found)}
    assert said in verdict(replace(compared, metrics=metrics, incomparable="it gives no answers"), PASSED)


def test_gates_and_metrics_stand_in_tables_with_arrows(compared, tmp_path):
    found = sections(write_page(tmp_path, compared, FAILED))
    assert "| f1 at least 0.9 | ✓ passed | 0.9712 |" in found["Gates"]
    assert "| no sure loss of f1 against the champion | ✗ **failed** | worse: -0.0089 |" in found["Gates"]
    assert "| its data passed the checks | ? **not known** | reports/quality is missing |" in found["Gates"]
    for line in (
        "| f1 | 0.9712 | 0.9600 to 0.9800 | 0.9801 | -0.0089 (-0.0150 to -0.0020) | ▼ **worse** | 0.9000 | "
        "+0.0700 (+0.0500 to +0.0900) | ▲ better | 0.9712 |",
        "| calibration_error (less is better) | 0.0100 | 0.0050 to 0.0200 | 0.0200 | -0.0100 (-0.0150 to -0.0050) | "
        "▲ better |  |  |  | 0.0100 |",
        "| recall | 0.9000 | 0.8800 to 0.9200 | 0.9000 | +0.0000 (-0.0100 to +0.0100) | ≈ not told apart |",
        "| roc_auc | 0.9900 |  | 0.9900 | the same | ≈ not told apart |",
        "| response_loss (less is better) | 0.5000 |  | 0.4000 | +0.1000 |  | 2.0000 |",
        "| seconds_a_row (less is better) | 0.0004 |  | 0.0003 | +0.0001 |",
        "the same 100 mails now",
        "- challenger: 6 of 120 everyday ham wrong",
        "- baseline: TF-IDF",
        "- f1: harmonic mean",
        "![differences](differences.svg)",
    ):
        assert line in found["Metrics"]
    assert "rouge\\_l" not in found["Metrics"]


def test_what_was_left_out_as_learned_is_counted_and_what_is_not_known_is_said(compared, tmp_path):
    counted = replace(compared, learned={"challenger": 0, "champion": 12})
    said = "12 test mails left out: the champion learned them."
    assert verdict(counted, PASSED).endswith(said)
    found = sections(write_page(tmp_path, counted, PASSED))["Metrics"]
    assert said in found
    assert "not known" not in found
    found = sections(write_page(tmp_path, replace(compared, learned={"champion": None}), PASSED))["Metrics"]
    assert "**Which of these mails the champion learned is not known: it may be some of them.**" in found


def test_what_flipped_is_counted_and_shown_with_its_text(compared, tmp_path):
    found = sections(write_page(tmp_path, compared, PASSED))
    assert "Of 100 mails it lost 1 and won 20." in found["What flipped"]
    assert "### Won (the first 12 of 20)" in found["What flipped"]
    assert found["What flipped"].count("**mail-2**") == 12
    lost = found["What flipped"].partition("### Won")[0]
    assert re.search(r"\*\*mail-1\*\*\n\n> .*script.*\n\n- expected: ham\n- challenger: spam .*\n- champion: ham", lost)
    assert "**mail-3**" in found["The worst errors of the challenger"]


def test_slices_begin_with_the_greatest_loss(compared, tmp_path):
    found = sections(write_page(tmp_path, compared, PASSED))["Slices"]
    first, second = (line for line in found.splitlines() if line.startswith("| words"))
    assert first == "| words | to 50 | 10 | 0.5000 | 0.9000 | -0.4000 (-0.6000 to -0.1000) | ▼ **worse** |"
    assert second == "| words | over 500 | 20 | 0.9000 | 0.8000 | +0.1000 (-0.1000 to +0.3000) |  |"
    assert "The same in both: label " in found
    found = sections(write_page(tmp_path, alone(compared), PASSED))["Slices"]
    assert found.index("to 50") < found.index("over 500")


def test_a_page_without_a_champion_says_what_it_is_made_from(compared, tmp_path):
    found = sections(write_page(tmp_path, alone(compared), PASSED))
    assert "dep: data/processed/emails | d1.dir" in found["What it is made from"]
    assert "What flipped" not in found
    assert "champion |" not in found["Metrics"]


def test_ways_to_decide_stand_below_the_verdict(compared, tmp_path):
    found = sections(write_page(tmp_path, compared, PASSED, ["Command line: `threestage review`"]))
    assert list(found)[:3] == ["", "To decide", "Gates"]
    assert "- Command line: `threestage review`" in found["To decide"]


def test_text_of_others_does_no_harm_and_reads_as_it_was(compared, tmp_path):
    write_page(tmp_path, compared, [Gate("it answers", False, ATTACK)])
    html = BeautifulSoup((tmp_path / "review.html").read_text(), "lxml")
    assert html.find_all(["script", "iframe", "link"]) == []
    addresses = [tag.get("src") or tag.get("href") for tag in html.find_all(["img", "a"])]
    assert all(address.startswith(("#", "data:image/svg+xml;base64,")) for address in addresses)
    assert ATTACK in html.find("blockquote").get_text()
    assert ATTACK in html.find("table").get_text()
    assert ATTACK in html.find("main").find_all("p")[0].get_text()


def test_pictures_of_both_and_of_the_differences_are_within(compared, tmp_path):
    markdown = write_page(tmp_path, compared, PASSED)
    html = BeautifulSoup((tmp_path / "review.html").read_text(), "lxml")
    pictures = {tag["alt"]: base64.b64decode(tag["src"].partition(",")[2]) for tag in html.find_all("img")}
    assert pictures.keys() == {"differences", "roc of the challenger", "roc of the champion"}
    assert pictures["differences"] == (tmp_path / "differences.svg").read_bytes()
    assert b"better than champion 1" in pictures["differences"] or b"<svg" in pictures["differences"]
    assert "(champion/evaluation/evidence/roc.svg)" in markdown
