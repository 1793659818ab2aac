from pathlib import Path

import pytest
from mlflow.entities import Run, RunData, RunInfo

from tasks.registry.card import CardSource
from tasks.registry.description import description
from tasks.stages.hashes import Hashes

FACTS = {"git.commit": "0123456789abcdef", "uncommitted": ""}
TRAINING = Hashes({}, {"models/foundation": "b1.dir"}, {"models/classifier": "m1.dir"})
METRICS = {"accuracy": 0.9, "f1": 0.5, "f1_low": 0.4, "f1_high": 0.6, "baseline_f1": 0.3, "false_positive_rate": 0.01}
PROSE = "## Use\n\n- `no_figure`: nothing\n\n## Main figures\n\n- `f1`: spam found; 1 is perfect\n- `recall`: unknown\n"


def run(number: str) -> Run:
    info = RunInfo(number, "1", "u", status="FINISHED", start_time=0, end_time=1, lifecycle_stage="active")
    return Run(info, RunData())


@pytest.fixture
def evidence(tmp_path, monkeypatch) -> Path:
    """The folder of the evaluation's evidence, in an empty project."""
    monkeypatch.chdir(tmp_path)
    Path("tasks/applications/classifier").mkdir(parents=True)
    evidence = Path("reports/evaluation/classifier/evidence")
    evidence.mkdir(parents=True)
    return evidence


def lines(metrics: dict[str, float] = METRICS, **facts: str) -> list[str]:
    source = CardSource(
        model="classifier",
        name="threestage-classifier",
        metrics=metrics,
        training=TRAINING,
        facts=FACTS | facts,
    )
    return description(source, run("v1"), {"training": run("t1"), "evaluation": None}).splitlines()


def test_description_begins_with_the_tag_that_decides(evidence):
    assert lines()[0].startswith("**To decide, set the tag `threestage.state` of this version to `approved`")


def test_description_has_the_main_figures_with_meaning_and_baseline(evidence):
    Path("tasks/applications/classifier/card.md").write_text(PROSE)
    table = [line for line in lines() if line.startswith("|")]
    assert table[2:] == ["| f1 *spam found; 1 is perfect* | 0.500 *0.400 to 0.600* | 0.300 | +0.200 |"]


def test_description_has_the_first_five_figures_without_a_list_of_main_figures(evidence):
    metrics = {f"m{number}": 0.1 for number in range(9)}
    shown = [line.split()[1] for line in lines(metrics) if line.startswith("| m")]
    assert shown == ["m0", "m1", "m2", "m3", "m4"]


def test_description_shows_the_first_answers_and_errors_without_links(evidence):
    (evidence / "samples.md").write_text("# Samples\n\n> first\n\n> [second](http://x)\n\n> third\n\n> fourth\n")
    (evidence / "errors.md").write_text("# Errors\n\n**a**: is spam\n\n> win | now\n\n**b**: is ham\n")
    shown = lines()
    answers = shown.index("**Answers**")
    assert [line for line in shown[answers:-4] if line] == [
        "**Answers**",
        "> first",
        r"> \[second\](http: //x)",
        "> third",
        "**Errors**",
        "**a**: is spam",
        r"> win \| now",
        "**b**: is ham",
    ]


def test_description_links_review_card_lineage_and_runs_without_host_and_port(evidence):
    (links,) = [line for line in lines() if line.startswith("[review]")]
    artifacts = "#/experiments/1/runs/v1/artifacts"
    assert links == (
        f"[review]({artifacts}/review/review.html), [model card]({artifacts}/card/card.md), "
        f"[dataset card]({artifacts}/card/dataset.md), "
        f"[lineage]({artifacts}/lineage/lineage.txt), [evidence]({artifacts}/evaluation), "
        "[training run](#/experiments/1/runs/t1)"
    )


@pytest.mark.parametrize(
    ("facts", "end"),
    [
        ({}, "Made from git commit `0123456789ab`."),
        ({"git.commit": "none"}, "Made from **no git commit**."),
        (
            {"uncommitted": "not in git: params.yaml, steps 900 -> 20, *a* -> <b>"},
            r"Made from git commit `0123456789ab`; **not in git: params.yaml, steps 900 -\> 20, \*a\* -\> \<b\>**.",
        ),
    ],
)
def test_description_ends_with_the_commit_and_what_it_lacks(evidence, facts, end):
    assert lines(**facts)[-1] == end
