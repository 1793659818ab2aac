"""Facts of countries and words, on slices of the real sources and on small ones made here."""

import gzip
import json

import pytest

from llm.errors import UserError
from tasks.data.instructions.choose import Sources
from tasks.data.instructions.countries import read_countries
from tasks.data.instructions.rows import tasks_of
from tasks.data.instructions.wordnet import read_wordnet
from tasks.data.instructions.words import read_forms


@pytest.fixture
def answers(packs, sources):
    """A function that gives the answers of a kind by what it asks."""

    def answers_of(name):
        tasks = tasks_of(packs, name, sources, seed=1, count=2000)
        return {task.asked: task.answers for task in tasks}

    return answers_of


def test_answers_about_a_country_are_all_that_are_right(answers):
    sentences = [f"An official language of Canada is {language}." for language in ("English", "French")]
    assert answers("official_language")["Canada"] == ["English", "French", *sentences]
    assert answers("official_language")["Argentina"][:3] == ["Spanish", "Guaraní", "Guarani"]
    assert answers("continent")["Russia"] == ["Europe", "Asia"]
    assert answers("continent")["Haiti"][:2] == ["North America", "Caribbean"]
    assert set(answers("nationality")["Greece"]) == {"Greek", "a Greek", "Greeks"}


def test_inflections_are_those_of_plain_english(answers):
    past = answers("past_tense")
    assert (past["take"], past["make"]) == (["took"], ["made"])
    assert not {"can", "lie", "quit"} & past.keys()
    comparatives = answers("comparative")
    assert comparatives["big"] == ["bigger"]
    assert comparatives["happy"] == ["happier", "more happy"]
    assert comparatives["slow"] == ["slower"]
    assert not {"loyal", "frank", "homely"} & comparatives.keys()


@pytest.mark.parametrize(
    ("name", "source", "reader", "content"),
    [
        ("index.sense", "wordnet", read_wordnet, b"rise 1 2\n"),
        ("infl_lu.csv.gz", "lemminflect", read_forms, b"plain"),
        ("infl_lu.csv.gz", "lemminflect", read_forms, gzip.compress(b"go\n", mtime=0)),
        ("countries.json", "world-countries", read_countries, b"[3]"),
        (
            "countries.json",
            "world-countries",
            read_countries,
            json.dumps([{"cca3": "FRA", "name": {"common": "F"}}]).encode(),
        ),
    ],
)
def test_corrupt_source_is_named(tmp_path, packs, name, source, reader, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: not in the form of {source} that is expected: "):
        Sources({source: tmp_path / name}, packs.lists).read(reader, source)
