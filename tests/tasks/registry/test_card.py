from collections.abc import Callable
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from html_pages import HOSTILE, is_harmless, rows, section, text, titles

from tasks.registry.card import CardSource, model_card
from tasks.registry.html_page import html_page
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

Card = Callable[..., BeautifulSoup]


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    """Make the card of a model `mail` with these metrics, and read it."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text(LOCK)
    PROSE.parent.mkdir(parents=True)
    PROSE.write_text("## What it is for\n\nSorting mail.\n\n## Main figures\n\n- `f1`: how well spam is found\n")

    def make(**metrics: float) -> BeautifulSoup:
        source = CardSource(model="mail", name="threestage-mail", metrics=metrics, training=TRAINING, facts={})
        return BeautifulSoup(html_page(model_card(source)), "lxml")

    return make


def test_card_has_figures_use_and_data_in_order(card: Card) -> None:
    page = card(f1=0.5)
    assert page.h1 is not None
    assert page.h1.get_text() == "threestage-mail"
    assert page.p is not None
    assert text(page.p).endswith("It started from models/foundation ( b1.dir ).")
    assert titles(page) == ["Figures", "What it is for", "Data"]
    assert text(section(page, "What it is for")) == "Sorting mail."
    data = "Learned from data/processed/emails ( d1.dir ). Licences of its sources: CC0. card/dataset.md among"
    assert text(section(page, "Data")).startswith(data)


def test_card_has_the_models_own_figures_with_the_main_ones_first(card: Card) -> None:
    f1 = {"f1": 0.5, "f1_low": 0.4, "f1_high": 0.6, "f1_gain": 0.1, "baseline_f1": 0.4}
    page = card(accuracy=0.75, **f1, nearest_f1=0.3)
    assert rows(section(page, "Figures")) == [
        ["f1 how well spam is found", "0.500 0.400 to 0.600", "0.400", "+0.100"],
        ["accuracy", "0.750", "", ""],
    ]


def test_card_shows_hostile_text_of_a_licence_as_text(card: Card) -> None:
    Path("dvc.lock").write_text(LOCK.replace("licence: CC0", f"licence: {HOSTILE!r}"))
    page = card(f1=0.5)
    assert "<script>" in text(section(page, "Data"))
    assert is_harmless(page)


def test_card_says_what_nobody_wrote_down(card: Card) -> None:
    PROSE.unlink()
    assert text(section(card(f1=0.5), "Use")) == "Nobody has written it down yet, in tasks/applications/mail/card.md ."


def test_card_leaves_out_the_licences_of_data_that_was_not_fetched(card: Card) -> None:
    Path("dvc.lock").unlink()
    data = text(section(card(f1=0.5), "Data"))
    assert data.startswith("Learned from data/processed/emails ( d1.dir ). card/dataset.md among")
