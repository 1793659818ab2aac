import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from html_pages import HOSTILE, is_harmless, rows, section, text, titles

from tasks.registry.dataset_card import dataset_card
from tasks.registry.html_page import html_page

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
  preprocess@emails:
    cmd: preprocess
    deps:
    - {path: data/raw/emails, md5: r1.dir}
    params:
      params.yaml:
        datasets.emails.preprocess:
          {labels: [ham, spam], test: 0.25, near_duplicate: 0.7, train_only: [own/*], mask_personal_data: all}
"""
PROCESSED = Path("data/processed/emails")
QUALITY = Path("reports/quality/emails")
SPLITS = {"train": ["ham", "ham", "spam"], "validation": ["spam"], "test": ["ham"]}
NUMBERS = {"rows": 5, "dropped": {"lengths": 1, "near_duplicates": 3}}
SUMMARY = {"check": "summary", "column": "left_out_share", "observed": 0.2}
FINDINGS = [
    {"check": "rows", "column": "id", "expected": {}, "level": "fail", "success": True, "unexpected": 0},
    SUMMARY | {"expected": {"max_value": 0.5}, "level": "fail", "success": True},
    SUMMARY | {"expected": {"max_value": 0.1}, "level": "warn", "success": False},
]
EXAMPLE = ["mails/1, as mail reads it: 2 tokens, 0 learned", "reads   Lunch?", "learns  the label ham"]

Card = Callable[..., BeautifulSoup]


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    """Make the card of a small dataset, and read it."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text(LOCK)
    PROCESSED.mkdir(parents=True)
    for split, labels in SPLITS.items():
        table = pd.DataFrame({"source": "mails/a", "body": "win", "label": labels})
        table.to_parquet(PROCESSED / f"{split}.parquet")
    QUALITY.mkdir(parents=True)
    (QUALITY / "summary.json").write_text(json.dumps(NUMBERS))
    (QUALITY / "validation.json").write_text(json.dumps({"expectations": FINDINGS}))

    def make(*examples: list[str]) -> BeautifulSoup:
        return BeautifulSoup(html_page(dataset_card("emails", "d1.dir", examples)), "lxml")

    return make


def test_card_says_where_the_rows_come_from(card: Card) -> None:
    page = card(EXAMPLE)
    assert text(page.p) == (
        "The rows of data/processed/emails ( d1.dir ), which preprocess@emails made from data/raw/emails ( r1.dir )."
    )
    assert titles(page) == ["Sources", "Splits", "Cleaning", "Checks", "Drift", "Examples"]
    sources = [["npm:mails@1.2.3", "CC0", "Do not publish it."], ["file:own.jsonl", "", ""]]
    assert rows(section(page, "Sources")) == sources


def test_card_counts_rows_by_split_and_by_label_and_source(card: Card) -> None:
    splits = section(card(), "Splits")
    assert "15 % go to validation and 25 % to test" in text(splits)
    assert "Rows of these sources are in train alone: own/* ." in text(splits)
    assert rows(splits) == [["ham", "2", "0", "1"], ["spam", "1", "1", "0"], ["mails/a", "3", "1", "1"]]


def test_card_has_the_rules_of_cleaning_duplicates_and_personal_data(card: Card) -> None:
    cleaning = section(card(), "Cleaning")
    assert rows(cleaning) == [["lengths", "1"], ["near_duplicates", "3"]]
    assert "word 3-shingles is at least 0.7" in text(cleaning)
    assert "In all rows, made-up data replaces e-mail addresses" in text(cleaning)


def test_card_has_each_number_with_its_bounds_and_warning(card: Card) -> None:
    assert rows(section(card(), "Checks")) == [["left_out_share", "0.200", "0.1", "0.5", "warned"]]


def test_card_has_the_drift_from_train_to_test(card: Card) -> None:
    drift = dict(rows(section(card(), "Drift")))
    assert list(drift) == ["label", "length of body"]
    assert float(drift["label"]) > 1
    assert float(drift["length of body"]) == 0


def test_card_shows_examples_as_they_are_learned(card: Card) -> None:
    examples = section(card(EXAMPLE), "Examples")
    assert [text(item) for item in examples.find_all("li")] == ["reads Lunch?", "learns the label ham"]


def test_card_of_tokens_has_their_numbers(card: Card) -> None:
    for path in PROCESSED.iterdir():
        path.unlink()
    size = {"documents": 7, "tokens": 100, "bytes": 400}
    (PROCESSED / "meta.json").write_text(json.dumps({"splits": {"train": size}}))
    page = card()
    assert rows(section(page, "Splits")) == [["train", "7", "100", "400"]]
    assert rows(section(page, "Drift")) == []


def test_card_shows_hostile_text_as_text(card: Card) -> None:
    Path("dvc.lock").write_text(LOCK.replace("Do not publish it.", repr(HOSTILE)))
    hostile_row = pd.DataFrame({"source": [HOSTILE], "body": ["win"], "label": ["ham"]})
    hostile_row.to_parquet(PROCESSED / "test.parquet")
    page = card([HOSTILE, f"reads   {HOSTILE}"])
    assert "<script>" in rows(section(page, "Sources"))[0][2]
    assert "<script>" in text(section(page, "Splits"))
    assert "<script>" in text(section(page, "Examples"))
    assert is_harmless(page)


def test_card_of_data_that_was_pulled_has_what_is_there(card: Card) -> None:
    Path("dvc.lock").unlink()
    for path in [*QUALITY.iterdir(), *PROCESSED.iterdir()]:
        path.unlink()
    page = card()
    assert text(page.p).startswith("The rows of data/processed/emails ( d1.dir )")
    assert titles(page) == ["Splits", "Cleaning", "Drift"]
