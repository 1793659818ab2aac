from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from html_pages import HOSTILE, is_harmless, rows, section, text, titles
from markdown_it import MarkdownIt

from tasks.registry.card import model_card
from tasks.stages.hashes import Hashes

TRAINING = Hashes(
    {},
    {"data/processed/emails": "d1.dir", "models/foundation": "b1.dir", "llm/model": "c1.dir"},
    {"models/mail": "m1.dir"},
)
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
PROSE = Path("tasks/applications/mail/card.md")


@pytest.fixture
def card(tmp_path, monkeypatch):
    """Make the card of a model `mail` with these metrics, and read it."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text(LOCK)
    quality = Path("reports/quality/emails")
    quality.mkdir(parents=True)
    (quality / "summary.json").write_text('{"rows": 5, "dropped": {"exact_duplicate": 2}}')
    PROSE.parent.mkdir(parents=True)
    PROSE.write_text("## What it is for\n\nSorting mail.\n\n## Main figures\n\n- `f1`: how well spam is found\n")

    def make(**metrics):
        markdown = MarkdownIt("commonmark").enable("table")
        return BeautifulSoup(markdown.render(model_card("mail", TRAINING, metrics)), "lxml")

    return make


def test_card_has_figures_use_and_data_in_order(card):
    page = card(f1=0.5)
    assert page.h1 is not None
    assert page.h1.get_text() == "Mail"
    assert page.p is not None
    assert text(page.p).endswith("It started from models/foundation ( b1.dir ).")
    assert titles(page) == ["Figures", "What it is for", "Data"]
    assert text(section(page, "What it is for")) == "Sorting mail."
    assert text(section(page, "Data")).startswith("Learned from data/processed/emails ( d1.dir )")
    assert rows(section(page, "Data")) == [
        ["npm:mails@1.2.3", "CC0", "Do not publish it."],
        ["file:own.jsonl", "", ""],
        ["rows", "5"],
        ["rows dropped by the rule exact_duplicate", "2"],
    ]


def test_card_has_the_models_own_figures_with_the_main_ones_first(card):
    f1 = {"f1": 0.5, "f1_low": 0.4, "f1_high": 0.6, "f1_gain": 0.1, "baseline_f1": 0.4}
    page = card(accuracy=0.75, **f1, nearest_f1=0.3)
    assert rows(section(page, "Figures")) == [
        ["f1 how well spam is found", "0.500 0.400 to 0.600", "0.400", "+0.100"],
        ["accuracy", "0.750", "", ""],
    ]


def test_card_shows_hostile_text_of_a_licence_as_text(card):
    Path("dvc.lock").write_text(LOCK.replace("licence: CC0", f"licence: {HOSTILE!r}"))
    page = card(f1=0.5)
    assert "<script>" in text(section(page, "Data"))
    assert is_harmless(page)
