import json
import platform
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from bs4 import BeautifulSoup
from mlflow import MlflowClient
from small_models import challenger

from tasks.registry.card import Origin, card, write_card
from tasks.registry.register import register_model
from tasks.registry.tracking import stage_run
from tasks.stages.hashes import Hashes

ATTACK = "<script>alert(1)</script> | [free](https://example.com/win) ![](https://example.com/x.png)"
SVG = '<svg xmlns="http://www.w3.org/2000/svg"/>'
ORIGIN = Origin(
    training=Hashes(
        {"applications.mail.train": {"seed": 7, "lora": None, "rate": 1e-05, "names": ["a|b"]}, "torch": "2.13.0"},
        {"data/processed/emails": "d1.dir", "models/foundation": "b1.dir", "llm/model": "c1.dir"},
        {"models/mail": "m1.dir", "reports/training/mail/loss.svg": "l1"},
    ),
    evaluation=Hashes({}, {"models/mail": "m1.dir", "data/behavioural": "h1.dir"}, {"reports/evaluation/mail": "e1"}),
    commit="0123abc",
    uncommitted="",
    training_run="none",
    run_tags={},
    links={},
    key="k1",
)
PARAMS = """\
datasets:
  corpus:
    # Not this one.
    sources: []
  emails:
    # Licences: CC0,
    # and PDDL.
    sources:
      - source: npm:mails@1.2.3
        sha256: aa
      - source: file:own.jsonl # written by hand
        sha256: bb
    preprocess: {}
"""
LOCK = """\
schema: '2.0'
stages:
  fetch@emails:
    cmd: fetch
    params:
      params.yaml:
        datasets.emails.sources:
        - {source: 'npm:mails@1.2.3', sha256: aa}
        - {source: 'file:own.jsonl', sha256: bb}
"""


@pytest.fixture
def mail(tmp_path, monkeypatch):
    """The files of a model `mail`, as a pipeline leaves them, with hostile text in its evidence."""
    monkeypatch.chdir(tmp_path)
    report = {"expectations": [{"column": f"{name}_rows", "observed": n} for name, n in (("train", 40), ("test", 9))]}
    slices = "\n".join(f'words,"{n} | {ATTACK if n == 3 else "to"}",{n}.0000,0.5,' for n in range(90))
    files = {
        "params.yaml": PARAMS,
        "dvc.lock": LOCK,
        "models/mail/config.json": json.dumps({"objective": "classifier", "gpt": {"n_layer": 2}}),
        "reports/quality/emails/validation.json": json.dumps(report),
        "reports/training/mail/metrics.json": json.dumps({"train_loss": 0.25, "steps": 280}),
        "reports/training/mail/loss.svg": SVG,
        "reports/evaluation/mail/evidence/roc.svg": SVG,
        "reports/evaluation/mail/evidence/roc.csv": "x,y\n0,1\n",
        "reports/evaluation/mail/evidence/slices.csv": f"by,slice,rows,share,none\n{slices}\n",
        "reports/evaluation/mail/evidence/errors.md": f"# The worst\n\n**1.json**: is ham\n\n> {ATTACK}\n",
        "reports/evaluation/mail/evidence/samples.md": "# Samples\n\n"
        + "\n\n".join(f"**q{n}**\n\n- a{n}" for n in range(12)),
        "tasks/applications/mail.md": "## What it is for\n\nSorting mail.\n",
    }
    for path, content in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(content)


def sections(markdown: str) -> dict[str, str]:
    head, *rest = markdown.split("\n## ")
    return {"": head} | dict(part.split("\n", 1) for part in rest)


def test_a_card_says_what_its_files_say(mail):
    found = sections(card("mail", "threestage-mail", {"f1": 0.5, "f1_low": 0.4, "f1_high": 0.6}, ORIGIN))
    order = ["", "What it is for", "Figures", "Pictures", "Slices", "The worst errors", "Samples", "Data", "Training"]
    assert list(found) == [*order, "Lineage"]
    assert found[""].startswith("# threestage-mail\n")
    assert "It started from `models/foundation` (`b1.dir`)." in found[""]
    assert found["What it is for"].strip() == "Sorting mail."
    assert "| f1 | 0.5000 | 0.4000 to 0.6000 | | |" in found["Figures"]
    assert found["Pictures"].strip() == "![roc](../evaluation/evidence/roc.svg)"
    for line in (
        "| npm:mails@1.2.3 | aa |  |",
        "| file:own.jsonl | bb | written by hand |",
        "Licences: CC0, and PDDL.",
        "| train | 40 |\n| test | 9 |",
    ):
        assert line in found["Data"]
    assert "Not this one" not in found["Data"]
    for line in (
        "| train_loss | 0.25 |\n| steps | 280 |",
        "| gpt.n_layer | 2 |",
        "| applications.mail.train.seed | 7 |\n| applications.mail.train.lora | null |",
        "| applications.mail.train.rate | 1e-05 |",
        r"| applications.mail.train.names.0 | a\|b |",
        "### Libraries\n\n| name | value |\n|---|---|\n| torch | 2.13.0 |",
        "On which machine is not known here",
    ):
        assert line in found["Training"]
    for line in (
        "| git commit at registration | 0123abc |\n| not in git | nothing |",
        "| git commit of that run | not known here |",
        "| key of this version | k1 |",
        "| made: models/mail | m1.dir |",
        "| from: data/processed/emails | d1.dir |\n| from: models/foundation | b1.dir |\n",
        "| from: data/behavioural | h1.dir |",
    ):
        assert line in found["Lineage"]
    assert "from: models/mail" not in found["Lineage"]
    assert "from: llm/model" not in found["Lineage"]  # which code it was says the commit


def test_a_long_table_and_many_samples_end_and_say_where_the_rest_is(mail):
    found = sections(card("mail", "threestage-mail", {}, ORIGIN))
    assert found["Slices"].splitlines()[1:4] == [
        "| by | slice | rows | share | none |",
        "|---|---|---:|---:|---|",
        "| words | 0 \\| to | 0 | 0.5000 |  |",
    ]
    assert len([line for line in found["Slices"].splitlines() if line.startswith("| words")]) == 70
    assert "The first 70 of 90 rows; all are in `evaluation/evidence/slices.csv`." in found["Slices"]
    assert [f"q{n}" in found["Samples"] for n in range(12)] == [True] * 10 + [False] * 2
    assert "More are in `evaluation/evidence/samples.md`." in found["Samples"]
    assert "More are in" not in found["The worst errors"]


def test_hostile_text_is_text_in_both_files(mail, tmp_path):
    write_card(tmp_path, "mail", "threestage-mail", {"f1": 0.5}, ORIGIN)
    page = BeautifulSoup((tmp_path / "card.html").read_text(), "lxml")
    assert ATTACK in page.find("blockquote").get_text()
    assert f"3 | {ATTACK}" in [cell.get_text() for cell in page.find_all("td")]
    assert not page.find_all("script")
    assert {image["src"].split(",")[0] for image in page.find_all("img")} == {"data:image/svg+xml;base64"}
    assert len(page.find_all("img")) == 2
    assert all(link["href"].startswith("#") for link in page.find_all("a"))
    assert "<script" not in (tmp_path / "card.md").read_text().replace("\\<script", "")


def test_the_same_files_give_the_same_bytes(mail, tmp_path):
    cards = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        write_card(folder, "mail", "threestage-mail", {"f1": 0.5}, ORIGIN)
        cards.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert cards[0] == cards[1]
    assert cards[0].keys() == {"card.md", "card.html"}


def test_what_was_not_in_git_and_what_nobody_wrote_down_is_said(mail):
    Path("tasks/applications/mail.md").unlink()
    tags = {"threestage.machine.cpu": "EPYC", "threestage.git.commit": "456"}
    origin = replace(ORIGIN, uncommitted="not in git: params.yaml, steps 900 -> 20", run_tags=tags)
    found = sections(card("mail", "threestage-mail", {}, origin))
    assert "Nobody has written it down, in `tasks/applications/mail.md`." in found["Use"]
    assert "| not in git | params.yaml, steps 900 -\\> 20 |" in found["Lineage"]
    assert "| git commit of that run | 456 |" in found["Lineage"]
    assert "### Machine\n\n| name | value |\n|---|---|\n| machine.cpu | EPYC |\n\n" in found["Training"]


def test_data_that_came_without_being_fetched_leaves_out_its_sources(mail):
    Path("dvc.lock").unlink()
    Path("reports/quality/emails/validation.json").unlink()
    data = sections(card("mail", "threestage-mail", {}, ORIGIN))["Data"]
    assert data == "\nLearned from `data/processed/emails` (`d1.dir`).\n\nLicences: CC0, and PDDL.\n"


def test_an_empty_table_is_left_out(mail):
    Path("reports/evaluation/mail/evidence/slices.csv").write_text("")
    Path("reports/evaluation/mail/evidence/by_kind.csv").write_text("kind,rows\n")
    found = sections(card("mail", "threestage-mail", {}, ORIGIN))
    assert "Slices" not in found
    assert found["By kind"].strip() == "| kind | rows |\n|---|---|"


@pytest.mark.slow
def test_a_version_has_its_card_and_a_better_card_makes_no_version(project, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "finetune@classifier")
    with stage_run() as training:
        pass
    monkeypatch.delenv("DVC_STAGE")
    assert register_model("classifier") == "1"
    version = challenger()
    names = [file.path for file in MlflowClient().list_artifacts(version.run_id, "card")]
    assert names == ["card/card.html", "card/card.md"]
    markdown = mlflow.artifacts.load_text(f"runs:/{version.run_id}/card/card.md")
    assert markdown.startswith("# threestage-classifier\n")
    assert "| f1 | 0.5000 |  | 0.9000 | -0.4000 |" in markdown
    assert f"| made: models/classifier | {version.tags['threestage.model']} |" in markdown
    assert f"| machine.python | {platform.python_version()} |" in markdown
    assert f"| training run in MLflow | {training.info.run_id} |" in markdown
    assert f"| key of this version | {version.tags['threestage.key']} |" in markdown
    Path("tasks/applications").mkdir()
    Path("tasks/applications/classifier.md").write_text("## What it is for\n\nMail.\n")
    assert register_model("classifier") == "1"
