import json
import platform
from pathlib import Path

import mlflow
import pytest
from bs4 import BeautifulSoup
from html_pages import rows, section, text
from mlflow import MlflowClient
from small_models import challenger

from tasks.registry.card import note_gates, write_card
from tasks.registry.decide import approve, compared
from tasks.registry.register import register_model
from tasks.registry.tracking import configure_tracking, stage_run
from tasks.stages.hashes import Hashes

ATTACK = "<script>alert(1)</script> | [free](https://example.com/win) ![](https://example.com/x.png)"
SVG = '<svg xmlns="http://www.w3.org/2000/svg"/>'
TRAINING = Hashes(
    {"applications.mail.train": {"seed": 7, "lora": None, "rate": 1e-05, "names": ["a|b"]}, "torch": "2.13.0"},
    {"data/processed/emails": "d1.dir", "models/foundation": "b1.dir", "llm/model": "c1.dir"},
    {"models/mail": "m1.dir", "reports/training/mail/curves.csv": "l1"},
)
EVALUATION = Hashes({}, {"models/mail": "m1.dir", "data/behavioural": "h1.dir"}, {"reports/evaluation/mail": "e1"})
FACTS = {"git.commit": "0123abc", "uncommitted": "", "run.training": "none", "key": "k1"}
LOCK = """\
schema: '2.0'
stages:
  fetch@emails:
    cmd: fetch
    params:
      params.yaml:
        datasets.emails.sources:
        - {source: 'npm:mails@1.2.3', sha256: aa, licence: CC0, note: Do not publish it.}
        - {source: 'file:own.jsonl', sha256: bb}
"""


@pytest.fixture
def mail(tmp_path, monkeypatch):
    """The files of a model `mail`, as a pipeline leaves them, with hostile text in its evidence."""
    monkeypatch.chdir(tmp_path)
    report = {"expectations": [{"column": f"{name}_rows", "observed": n} for name, n in (("train", 40), ("test", 9))]}
    slices = "\n".join(f'words,"{n} | {ATTACK if n == 3 else "to"}",{n}.0000,0.5,' for n in range(90))
    files = {
        "dvc.lock": LOCK,
        "models/mail/config.json": json.dumps({"objective": "classifier", "gpt": {"n_layer": 2}}),
        "reports/quality/emails/validation.json": json.dumps(report),
        "reports/training/mail/metrics.json": json.dumps({"train_loss": 0.25, "steps": 280}),
        "reports/evaluation/mail/evidence/roc.svg": SVG,
        "reports/evaluation/mail/evidence/roc.csv": "x,y\n0,1\n",
        "reports/evaluation/mail/evidence/slices.csv": f"by,slice,rows,share,none\n{slices}\n",
        "reports/evaluation/mail/evidence/errors.md": f"# The worst\n\n**1.json**: is ham\n\n> {ATTACK}\n",
        "reports/evaluation/mail/evidence/samples.md": "# Samples\n\n"
        + "\n\n".join(f"**q{n}**\n\n- a{n}" for n in range(12)),
        "tasks/applications/mail/card.md": "## What it is for\n\nSorting mail.\n\n"
        "## Main figures\n\n- `f1`: how well spam is found\n",
    }
    for path, content in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(content)


@pytest.fixture
def written(mail, tmp_path):
    """The card's page, written anew at each call."""

    def write(metrics: dict[str, float] | None = None, trained: dict[str, str] | None = None) -> BeautifulSoup:
        values = {"f1": 0.5} if metrics is None else metrics
        write_card(tmp_path, "mail", "threestage-mail", values, TRAINING, EVALUATION, FACTS, trained or {})
        return BeautifulSoup((tmp_path / "card.html").read_text(), "lxml")

    return write


def test_a_card_says_what_its_files_say(written):
    metrics = {
        "accuracy": 0.75,
        "f1": 0.5,
        "f1_low": 0.4,
        "f1_high": 0.6,
        "f1_gain": 0.1,
        "baseline_f1": 0.4,
        "nearest_f1": 0.3,
    }
    page = written(metrics)
    evidence = ["Figures", "Slices", "Pictures", "The worst errors", "Samples"]
    assert [each.get_text() for each in page.find_all("h2")] == [
        *evidence, "What it is for", "Data", "Training", "Lineage",
    ]  # fmt: skip
    assert page.h1.get_text() == "threestage-mail"
    assert "It started from models/foundation ( b1.dir )." in text(page.p)
    assert rows(section(page, "Figures")) == [
        ["f1 how well spam is found", "0.500", "0.400 to 0.600", "0.400", "+0.100"],
        ["accuracy", "0.750", "", "", ""],
        ["nearest_f1", "0.300"],  # of another contender, in a table of its own
    ]
    assert text(section(page, "What it is for")) == "Sorting mail."
    assert section(page, "Pictures").img["alt"] == "Roc"
    data = section(page, "Data")
    assert rows(data) == [
        ["npm:mails@1.2.3", "aa", "CC0", "Do not publish it."], ["file:own.jsonl", "bb", "", ""],
        ["train", "40"], ["test", "9"],
    ]  # fmt: skip
    training = section(page, "Training")
    assert "The machine is not known here" in text(training)
    assert rows(training) == [
        ["train_loss", "0.25"], ["steps", "280"], ["objective", "classifier"], ["gpt.n_layer", "2"],
        ["applications.mail.train.seed", "7"], ["applications.mail.train.lora", "null"],
        ["applications.mail.train.rate", "1e-05"], ["applications.mail.train.names.0", "a|b"], ["torch", "2.13.0"],
    ]  # fmt: skip
    assert rows(section(page, "Lineage")) == [
        ["git commit at registration", "0123abc"], ["not in git", "nothing"], ["training run in MLflow", "none"],
        ["git commit of that run", "not known here"], ["key of this version", "k1"],
        ["made: models/mail", "m1.dir"], ["made: reports/training/mail/curves.csv", "l1"],
        ["made: reports/evaluation/mail", "e1"], ["from: data/processed/emails", "d1.dir"],
        ["from: models/foundation", "b1.dir"], ["from: data/behavioural", "h1.dir"],
    ]  # fmt: skip


def test_the_short_card_has_figures_use_and_limits_and_the_same_files_give_the_same_cards(written, tmp_path):
    assert str(written()) == str(written())
    found = (tmp_path / "card.md").read_text()
    assert found.startswith("# threestage-mail\n\nMail, trained by `finetune@mail`")
    assert "| f1 | 0.500 |  |  |  |" in found
    assert "## What it is for\n\nSorting mail.\n" in found


def test_a_long_table_and_many_samples_end_and_say_where_the_rest_is(written):
    page = written()
    slices = section(page, "Slices")
    assert [each.get_text() for each in slices.find_all("th")] == ["by", "slice", "rows", "share", "none"]
    assert rows(slices)[0] == ["words", "0 | to", "0", "0.500", ""]
    assert len(rows(slices)) == 70
    assert text(slices).endswith("The first 70 of 90 rows; all are in evaluation/evidence/slices.csv .")
    samples = section(page, "Samples")
    assert [f"q{n}" in text(samples).split() for n in range(12)] == [True] * 10 + [False] * 2
    assert text(samples).endswith("More are in evaluation/evidence/samples.md .")
    assert "More are in" not in text(section(page, "The worst errors"))


def test_hostile_text_is_text_in_the_card(written):
    page = written()
    assert ATTACK in page.find("blockquote").get_text()
    assert f"3 | {ATTACK}" in [cell.get_text() for cell in page.find_all("td")]
    assert not page.find_all(["script", "a"])
    assert {image["src"].split(",")[0] for image in page.find_all("img")} == {"data:image/svg+xml;base64"}
    assert len(page.find_all("img")) == 1


def test_what_was_not_in_git_and_what_nobody_wrote_down_is_said(written, monkeypatch):
    Path("tasks/applications/mail/card.md").unlink()
    monkeypatch.setitem(FACTS, "uncommitted", "not in git: params.yaml, steps 900 -> 20")
    page = written({}, {"machine.cpu": "EPYC", "git.commit": "456"})
    assert text(section(page, "Use")) == "Nobody has written it down yet, in tasks/applications/mail/card.md ."
    lineage = rows(section(page, "Lineage"))
    assert ["not in git", "params.yaml, steps 900 -> 20"] in lineage
    assert ["git commit of that run", "456"] in lineage
    assert ["machine.cpu", "EPYC"] in rows(section(page, "Training"))


def test_data_that_came_without_being_fetched_leaves_out_its_sources(written):
    Path("dvc.lock").unlink()
    Path("reports/quality/emails/validation.json").unlink()
    data = section(written(), "Data")
    assert text(data) == "Learned from data/processed/emails ( d1.dir )."
    assert rows(data) == []


def test_an_empty_table_is_left_out(written):
    Path("reports/evaluation/mail/evidence/slices.csv").write_text("")
    Path("reports/evaluation/mail/evidence/by_kind.csv").write_text("kind,rows\n")
    page = written()
    assert "Slices" not in [each.get_text() for each in page.find_all("h2")]
    assert (rows(section(page, "By kind")), text(section(page, "By kind"))) == ([], "kind rows")


def test_failed_gates_are_noted_on_the_card_of_a_version_that_was_approved_despite_them(
    written, tmp_path, mlflow_store
):
    configure_tracking()
    written()
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(tmp_path / "card.html"), "card")
        mlflow.log_artifact(str(tmp_path / "card.md"), "card")

    def card(name: str) -> str:
        return mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/card/{name}")

    for gates in (("f1",), ("f1", "<b>evasion</b>")):
        note_gates(run.info.run_id, gates)
        (note,) = BeautifulSoup(card("card.html"), "lxml").select("#despite")
        assert note.get_text() == f"Approved despite these gates: {', '.join(gates)}."
        assert note.find_previous_sibling().name == "h1"
    head, note, made_by, *_ = card("card.md").split("\n\n")
    assert (head, made_by[:17]) == ("# threestage-mail", "Mail, trained by ")
    assert note == r"**Approved despite these gates: f1, \<b\>evasion\</b\>.**"
    note_gates(run.info.run_id, ())
    for name in ("card.html", "card.md"):
        assert card(name) == (tmp_path / name).read_text()
    note_gates(None, ("f1",))  # a version without a run


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
    page = BeautifulSoup(mlflow.artifacts.load_text(f"runs:/{version.run_id}/card/card.html"), "lxml")
    assert page.h1.get_text() == "threestage-classifier"
    assert ["f1", "0.500", "", "0.900", "-0.400"] in rows(section(page, "Figures"))
    assert ["machine.python", platform.python_version()] in rows(section(page, "Training"))
    lineage = rows(section(page, "Lineage"))
    assert ["training run in MLflow", training.info.run_id] in lineage
    assert ["made: models/classifier", version.tags["threestage.model"]] in lineage
    assert ["key of this version", version.tags["threestage.key"]] in lineage
    prose = Path("tasks/applications/classifier/card.md")
    prose.parent.mkdir(parents=True)
    prose.write_text("## What it is for\n\nMail.\n")
    assert register_model("classifier") == "1"
    compared("classifier", "1", None, ["f1"])
    approve("classifier", "1", by="reviewer-1", reason="better on ham", despite_gates=True)
    page = BeautifulSoup(mlflow.artifacts.load_text(f"runs:/{version.run_id}/card/card.html"), "lxml")
    assert page.select_one("#despite").get_text() == "Approved despite these gates: f1."
