import json
import platform
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from bs4 import BeautifulSoup
from html_pages import HOSTILE, is_harmless, read_page, rows, section, text, titles
from mlflow import MlflowClient
from small_models import challenger

from tasks.registry.card import CardSource, note_gates, write_card
from tasks.registry.decide import approve, compared
from tasks.registry.register import register_model
from tasks.registry.store import configure_tracking
from tasks.registry.tracking import stage_run
from tasks.stages.hashes import Hashes

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
EVIDENCE = Path("reports/evaluation/mail/evidence")
PROSE = Path("tasks/applications/mail/card.md")

Write = Callable[..., BeautifulSoup]


@pytest.fixture
def mail(tmp_path, monkeypatch) -> None:
    """The files of a model `mail`, as a pipeline leaves them, with hostile text in its evidence."""
    monkeypatch.chdir(tmp_path)
    splits = [{"column": "train_rows", "observed": 40}, {"column": "test_rows", "observed": 9}]
    slices = [f'words,"{n} | to",{n}.0000,0.5,' for n in range(90)]
    slices[3] = f'words,"{HOSTILE}",3.0000,0.5,'
    samples = "\n\n".join(f"**q{n}**\n\n- a{n}" for n in range(12))
    files = {
        Path("dvc.lock"): LOCK,
        Path("models/mail/config.json"): json.dumps({"objective": "classifier", "gpt": {"n_layer": 2}}),
        Path("reports/quality/emails/validation.json"): json.dumps({"expectations": splits}),
        Path("reports/training/mail/metrics.json"): json.dumps({"train_loss": 0.25, "steps": 280}),
        EVIDENCE / "roc.svg": SVG,
        EVIDENCE / "roc.csv": "x,y\n0,1\n",
        EVIDENCE / "slices.csv": "\n".join(["by,slice,rows,share,none", *slices, ""]),
        EVIDENCE / "errors.md": f"# The worst\n\n**1.json**: is ham\n\n> {HOSTILE}\n",
        EVIDENCE / "samples.md": f"# Samples\n\n{samples}",
        PROSE: "## What it is for\n\nSorting mail.\n\n## Main figures\n\n- `f1`: how well spam is found\n",
    }
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture
def write(mail, tmp_path) -> Write:
    """Write the card, and read its page."""

    def write(
        metrics: dict[str, float] | None = None, trained: dict[str, str] | None = None, **facts: str
    ) -> BeautifulSoup:
        source = CardSource(
            model="mail",
            name="threestage-mail",
            metrics=metrics or {"f1": 0.5},
            training=TRAINING,
            evaluation=EVALUATION,
            facts=FACTS | facts,
            trained=trained or {},
        )
        write_card(tmp_path, source)
        return read_page(tmp_path / "card.html")

    return write


def test_card_has_figures_with_the_main_ones_first_and_others_apart(write):
    f1 = {"f1": 0.5, "f1_low": 0.4, "f1_high": 0.6, "f1_gain": 0.1, "baseline_f1": 0.4}
    page = write({"accuracy": 0.75, **f1, "nearest_f1": 0.3})
    assert page.h1.get_text() == "threestage-mail"
    assert "It started from models/foundation ( b1.dir )." in text(page.p)
    assert rows(section(page, "Figures")) == [
        ["f1 how well spam is found", "0.500 0.400 to 0.600", "0.400", "+0.100"],
        ["accuracy", "0.750", "", ""],
    ]
    assert rows(section(page, "Others on the same rows")) == [["nearest_f1", "0.300"]]


def test_card_has_its_sections_in_order(write):
    page = write()
    evidence = ["Slices", "Pictures", "The worst errors", "Samples"]
    assert titles(page) == ["Figures", "What it is for", *evidence, "Data", "Training", "Lineage"]
    assert text(section(page, "What it is for")) == "Sorting mail."
    assert section(page, "Pictures").img["alt"] == "Roc"


def test_card_has_data_and_training(write):
    page = write()
    assert rows(section(page, "Data")) == [
        ["npm:mails@1.2.3", "aa", "CC0", "Do not publish it."],
        ["file:own.jsonl", "bb", "", ""],
        ["train", "40"],
        ["test", "9"],
    ]
    training = section(page, "Training")
    assert "The machine is not known here" in text(training)
    assert rows(training) == [
        ["train_loss", "0.25"],
        ["steps", "280"],
        ["objective", "classifier"],
        ["gpt.n_layer", "2"],
        ["applications.mail.train.seed", "7"],
        ["applications.mail.train.lora", "null"],
        ["applications.mail.train.rate", "1e-05"],
        ["applications.mail.train.names.0", "a|b"],
        ["torch", "2.13.0"],
    ]


def test_card_has_the_hashes_behind_it(write):
    assert rows(section(write(), "Lineage")) == [
        ["git commit at registration", "0123abc"],
        ["not in git", "nothing"],
        ["training run in MLflow", "none"],
        ["git commit of that run", "not known here"],
        ["key of this version", "k1"],
        ["made: models/mail", "m1.dir"],
        ["made: reports/training/mail/curves.csv", "l1"],
        ["made: reports/evaluation/mail", "e1"],
        ["from: data/processed/emails", "d1.dir"],
        ["from: models/foundation", "b1.dir"],
        ["from: data/behavioural", "h1.dir"],
    ]


def test_card_in_markdown_has_figures_and_use(write, tmp_path):
    write()
    markdown = (tmp_path / "card.md").read_text()
    assert markdown.startswith("# threestage-mail\n\nMail, trained by `finetune@mail`")
    assert "| f1 *how well spam is found* | 0.500 |  |  |" in markdown
    assert markdown.endswith("## What it is for\n\nSorting mail.\n")


def test_card_of_the_same_files_has_the_same_bytes(write):
    assert str(write()) == str(write())


def test_card_cuts_long_tables_and_samples_and_names_their_files(write):
    page = write()
    slices = section(page, "Slices")
    assert [head.get_text() for head in slices.find_all("th")] == ["by", "slice", "rows", "share", "none"]
    assert rows(slices)[0] == ["words", "0 | to", "0", "0.500", ""]
    assert len(rows(slices)) == 70
    assert text(slices).endswith("The first 70 of 90 rows; all are in evaluation/evidence/slices.csv .")
    samples = section(page, "Samples")
    assert [f"q{n}" in text(samples).split() for n in range(12)] == [True] * 10 + [False] * 2
    assert text(samples).endswith("More are in evaluation/evidence/samples.md .")
    assert "More are in" not in text(section(page, "The worst errors"))


def test_card_shows_hostile_text_as_text(write):
    page = write()
    assert HOSTILE in page.find("blockquote").get_text()
    assert HOSTILE[:200] in page.find_all("td", string=lambda cell: cell and "<script>" in cell)[0].get_text()
    assert is_harmless(page)
    assert len(page.find_all("img")) == 1


def test_card_says_what_is_not_in_git_and_what_nobody_wrote_down(write):
    PROSE.unlink()
    trained = {"machine.cpu": "EPYC", "git.commit": "456"}
    page = write(trained=trained, uncommitted="not in git: params.yaml, steps 900 -> 20")
    assert text(section(page, "Use")) == "Nobody has written it down yet, in tasks/applications/mail/card.md ."
    lineage = rows(section(page, "Lineage"))
    assert ["not in git", "params.yaml, steps 900 -> 20"] in lineage
    assert ["git commit of that run", "456"] in lineage
    assert ["machine.cpu", "EPYC"] in rows(section(page, "Training"))


def test_card_leaves_out_the_sources_of_data_that_was_not_fetched(write):
    Path("dvc.lock").unlink()
    Path("reports/quality/emails/validation.json").unlink()
    data = section(write(), "Data")
    assert text(data) == "Learned from data/processed/emails ( d1.dir )."


def test_card_leaves_out_an_empty_table(write):
    (EVIDENCE / "slices.csv").write_text("")
    (EVIDENCE / "by_kind.csv").write_text("kind,rows\n")
    page = write()
    assert "Slices" not in titles(page)
    assert text(section(page, "By kind")) == "kind rows"


def test_card_notes_the_gates_that_a_version_was_approved_despite(write, tmp_path, mlflow_store):
    configure_tracking()
    write()
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(tmp_path / "card.html"), "card")
        mlflow.log_artifact(str(tmp_path / "card.md"), "card")

    def card(name: str) -> str:
        return mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/card/{name}")

    for gates in (("f1",), ("f1", "<b>evasion</b>")):
        note_gates(run.info.run_id, gates)
        page = BeautifulSoup(card("card.html"), "lxml")
        assert page.select_one("h1 + p").get_text() == f"Approved despite these gates: {', '.join(gates)}."
        assert page.get_text().count("Approved despite") == 1
    head, note, made_by, *_ = card("card.md").split("\n\n")
    assert head == "# threestage-mail"
    assert note == r"**Approved despite these gates: f1, \<b\>evasion\</b\>.**"
    assert made_by.startswith("Mail, trained by ")
    note_gates(run.info.run_id, ())
    for name in ("card.html", "card.md"):
        assert card(name) == (tmp_path / name).read_text()
    note_gates(None, ("f1",))  # a version without a run


@pytest.mark.slow
def test_card_of_a_version_stays_as_registered_until_it_is_approved_despite_gates(project, monkeypatch):
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
    assert ["f1", "0.500", "0.900", "-0.400"] in rows(section(page, "Figures"))
    assert ["machine.python", platform.python_version()] in rows(section(page, "Training"))
    lineage = rows(section(page, "Lineage"))
    assert ["training run in MLflow", training.info.run_id] in lineage
    assert ["made: models/classifier", version.tags["threestage.model"]] in lineage
    assert ["key of this version", version.tags["threestage.key"]] in lineage
    prose = Path("tasks/applications/classifier/card.md")
    prose.parent.mkdir(parents=True)
    prose.write_text("## What it is for\n\nMail.\n")
    assert register_model("classifier") == "1"
    compared("classifier", "1", champion=None, failed=["f1"])
    approve("classifier", "1", by="reviewer-1", reason="better on ham", despite_gates=True)
    page = BeautifulSoup(mlflow.artifacts.load_text(f"runs:/{version.run_id}/card/card.html"), "lxml")
    assert page.select_one("h1 + p").get_text() == "Approved despite these gates: f1."
