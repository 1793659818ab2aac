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
def tasks(packs, sources):
    """The tasks of a kind by what it asks."""
    return lambda name: {task.asked: task for task in tasks_of(packs, name, sources, 1, 2000)}


@pytest.fixture
def answers(tasks):
    """Their answers."""
    return lambda name: {asked: task.answers for asked, task in tasks(name).items()}


def test_all_that_people_say_of_a_country_is_right(answers):
    told = [f"An official language of Canada is {language}." for language in ("English", "French")]
    assert answers("official_language")["Canada"] == ["English", "French", *told]
    assert answers("official_language")["Argentina"][:3] == ["Spanish", "Guaraní", "Guarani"]
    assert answers("continent")["Russia"] == ["Europe", "Asia"]
    assert answers("continent")["Haiti"][:2] == ["North America", "Caribbean"]
    assert set(answers("nationality")["Greece"]) == {"Greek", "a Greek", "Greeks"}


def test_inflections_are_those_of_plain_english(answers):
    past = answers("past_tense")
    assert (past["take"], past["make"]) == (["took"], ["made"])
    assert not {"can", "lie", "quit"} & past.keys()
    more = answers("comparative")
    assert (more["big"], more["happy"], more["slow"]) == (["bigger"], ["happier", "more happy"], ["slower"])
    assert not {"loyal", "frank", "homely"} & more.keys()


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
def test_a_source_of_another_form_is_named(tmp_path, packs, name, source, reader, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: not in the form of {source} that is expected: "):
        Sources({source: tmp_path / name}, packs.lists).read(reader, source)
