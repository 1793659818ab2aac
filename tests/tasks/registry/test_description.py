from pathlib import Path

import pytest
from mlflow.entities import Run, RunData, RunInfo

from tasks.registry.description import description
from tasks.registry.record import Record
from tasks.stages.hashes import Hashes

FACTS = {"git.commit": "0123456789abcdef", "uncommitted": ""}
HASHES = Hashes({}, {"models/foundation": "b1.dir", "models/classifier": "m1.dir"}, {"models/classifier": "m1.dir"})
METRICS = {"accuracy": 0.9, "f1": 0.5, "f1_low": 0.4, "f1_high": 0.6, "baseline_f1": 0.3, "false_positive_rate": 0.01}
PROSE = "## Use\n\n- `no_figure`: nothing\n\n## Main figures\n\n- `f1`: spam found; 1 is perfect\n- `recall`: unknown\n"


def run(number: str) -> Run:
    info = RunInfo(number, "1", "u", "FINISHED", 0, 1, "active")
    return Run(info, RunData())


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (evidence := Path("reports/evaluation/classifier/evidence")).mkdir(parents=True)
    Path("tasks/applications/classifier").mkdir(parents=True)
    return evidence


def lines(metrics: dict[str, float] = METRICS, **facts: str) -> list[str]:
    record = Record("register", HASHES, FACTS | facts)
    runs = {"training": run("t1"), "evaluation": None}
    return description("classifier", metrics, record, run("v1"), runs).splitlines()


def test_the_tag_that_decides_is_named_first(project):
    assert lines()[0].startswith("**To decide, set the tag `threestage.state` of this version to `approved`")


def test_the_main_figures_stand_with_their_meaning_and_baseline(project):
    Path("tasks/applications/classifier/card.md").write_text(PROSE)
    table = [line for line in lines() if line.startswith("|")]
    assert table[2:] == ["| f1 | 0.500 (0.400 to 0.600) | 0.300 | spam found; 1 is perfect |"]


def test_without_a_list_of_main_figures_the_first_five_are_shown(project):
    metrics = {f"m{number}": 0.1 for number in range(9)}
    shown = [line.split()[1] for line in lines(metrics) if line.startswith("| m")]
    assert shown == ["m0", "m1", "m2", "m3", "m4"]


def test_answers_and_errors_of_an_evaluation_are_shown_as_plain_text(project):
    (project / "samples.md").write_text("# Samples\n\n> first\n\n> [second](http://x)\n\n> third\n\n> fourth\n")
    (project / "errors.md").write_text("# Errors\n\n**a**: is spam\n\n> win | now\n\n**b**: is ham\n")
    shown = [line for line in lines() if line.startswith(("- ", "**"))][1:]
    assert shown == [
        "**Answers**",
        "- first",
        r"- \[second\](http\: //x)",
        "- third",
        "**Errors**",
        r"- a: is spam win \| now",
        "- b: is ham",
    ]


def test_right_and_wrong_answers_are_told_apart_where_an_evaluation_judged_them(project):
    rows = ["kind,instruction,input,output,answer,contains", "a,1+1?,,2,2,True", "a,2+2?,,4,4,True"]
    rows += ["b,3+3?,,6,7,False", "c,Write.,,text,other,"]
    (project / "answers.csv").write_text("\n".join(rows) + "\n")
    shown = [line for line in lines() if line.startswith(("- ", "**"))][1:]
    assert shown == ["**Answers**", "- 1+1? → **2**", "**Errors**", "- 3+3? → **7** (expected: 6)"]


def test_links_hold_on_every_port_and_lead_to_review_card_lineage_and_the_known_runs(project):
    (links,) = (line for line in lines() if line.startswith("[review]"))
    assert "http" not in links
    page = "#/experiments/1/runs/v1/artifacts"
    for name, path in (("review", "review/review.html"), ("model card", "card/card.html"), ("evidence", "evaluation")):
        assert f"[{name}]({page}/{path})" in links
    assert "[training run](#/experiments/1/runs/t1)" in links
    assert "evaluation run" not in links


@pytest.mark.parametrize(
    ("facts", "end"),
    [
        ({}, "Made from git commit `0123456789ab`."),
        ({"git.commit": "none"}, "Made from **no git commit**."),
        (
            {"uncommitted": "not in git: params.yaml, steps 900 -> 20, *a* -> <b>"},
            r"Made from git commit `0123456789ab`; **not in git: params.yaml, steps 900 -> 20, \*a\* -> \<b\>**.",
        ),
    ],
)
def test_the_commit_and_what_it_lacks_stand_at_the_end(project, facts, end):
    assert lines(**facts)[-1] == end
