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

# In WordNet's format; how often a word has a meaning is in SENSES.
FILES = {
    "data.noun": """  1 a licence line
00000001 06 n 02 boat 0 vessel 0 000 | (nautical) a thing that floats on water; "the boat sank"
00000002 03 n 02 color 0 colour 0 000 | what light does to the eye
00000004 03 n 02 fool 0 twit 0 000 | (offensive) someone silly
00000009 03 n 01 canoe 0 000 | a thing that floats on water
""",
    "data.verb": """00000005 29 v 01 rise 0 001 ! 00000006 v 0101 01 + 02 00 | go up some way
00000006 29 v 02 sink 0 drop 0 001 ! 00000005 v 0101 01 + 02 00 | go down some way
""",
    "data.adj": """00000007 00 a 02 glad(p) 0 happy 0 001 ! 00000008 a 0201 | full of joy
00000008 00 s 02 unhappy 0 miserable 0 000 | not happy
""",
    "data.adv": "",
    "index.sense": """boat%1:06:00:: 00000001 1 9
vessel%1:06:00:: 00000001 1 8
color%1:03:00:: 00000002 1 9
colour%1:03:00:: 00000002 1 8
fool%1:03:00:: 00000004 1 8
canoe%1:03:00:: 00000009 1 8
rise%2:29:00:: 00000005 1 8
sink%2:29:00:: 00000006 1 9
drop%2:29:00:: 00000006 1 1
glad%3:00:00:: 00000007 1 9
happy%3:00:00:: 00000007 1 9
unhappy%5:00:00:glad:01 00000008 1 5
miserable%5:00:00:glad:01 00000008 1 5
""",
}


@pytest.fixture
def small(tmp_path, packs):
    """A WordNet of nine meanings."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    return Sources({"wordnet": tmp_path / "index.sense"}, packs.lists)


@pytest.fixture
def answers(packs, sources):
    """The answers of a kind by what it asks."""

    def of(name, sources=sources):
        return {task.asked: task.answers for task in tasks_of(packs, name, sources, 1, 500)}

    return of


def test_capitals_count_with_their_other_names_and_none_that_the_country_gives_away(answers):
    found = answers("capital")
    assert found["France"] == ["Paris", "Paris is the capital of France."]
    assert found["United States"][:4] == ["Washington D.C.", "Washington, D.C", "Washington", "Washington DC"]
    assert found["Brazil"][:2] == ["Brasília", "Brasilia"]
    assert "Mexico" not in found


def test_all_that_people_say_of_a_country_is_right(answers):
    assert answers("currency")["Japan"] == ["yen", "Japanese yen"]
    assert answers("currency")["Germany"] == ["euro"]
    assert "pound sterling" in answers("currency")["United Kingdom"]
    told = [f"An official language of Canada is {language}." for language in ("English", "French")]
    assert answers("official_language")["Canada"] == ["English", "French", *told]
    assert answers("continent")["Russia"] == ["Europe", "Asia"]
    assert answers("continent")["Haiti"][:2] == ["North America", "Caribbean"]
    assert set(answers("nationality")["Greece"]) == {"Greek", "a Greek", "Greeks"}
    assert {"France", "Portugal"} <= set(answers("neighbour")["Spain"])
    assert "Japan" not in answers("neighbour")


def test_everyday_synonyms_come_first_and_all_words_of_the_meaning_are_right(answers, small):
    found = answers("synonym", small)
    assert found["boat"][0] in ("ship", "vessel")
    assert (found["happy"][0], found["glad"][0]) == ("glad", "happy")
    assert {"joyful", "pleased"} <= set(found["glad"])
    assert not {"colour", "fool"} & found.keys()  # a spelling is no synonym; nobody is asked about coarse words


def test_an_opposite_is_learned_one_way_and_all_of_wordnets_are_right(answers, small):
    found = answers("antonym", small)
    assert found["happy"] == ["sad", "unhappy", "miserable"]
    assert found["sink"][0] == "float"
    assert found["rise"] == ["drop", "sink"]


def test_opposites_and_meanings_defined_alike_are_one_group(small, packs):
    group = read_wordnet(small.paths["wordnet"], packs.lists).groups([])
    assert (group["00000005-v"], group["00000007-a"]) == (group["00000006-v"], group["00000008-a"])
    assert group["00000001-n"] == group["00000009-n"] != group["00000005-v"]


def test_inflections_are_those_of_plain_english(answers):
    plurals, past = answers("plural"), answers("past_tense")
    assert (plurals["child"], plurals["leaf"], plurals["person"]) == (["children"], ["leaves"], ["people"])
    assert (past["take"], past["make"]) == (["took"], ["made"])
    assert not {"can", "lie", "quit"} & past.keys()
    assert not {"information", "people"} & plurals.keys()
    more, most = answers("comparative"), answers("superlative")
    assert (more["big"], more["happy"], more["slow"]) == (["bigger"], ["happier", "more happy"], ["slower"])
    assert most["happy"] == ["happiest", "most happy", "the happiest", "the most happy"]
    assert not {"loyal", "frank", "homely"} & more.keys()


@pytest.mark.parametrize(
    ("name", "source", "reader", "content"),
    [
        ("index.sense", "wordnet", read_wordnet, b"rise 1 2\n"),
        ("infl_lu.csv.gz", "lemminflect", read_forms, b"plain"),
        ("infl_lu.csv.gz", "lemminflect", read_forms, gzip.compress(b"go\n")),
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
    for each, text in FILES.items():
        (tmp_path / each).write_text(text)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: not in the form of {source} that is expected: "):
        Sources({source: tmp_path / name}, packs.lists).read(reader, source)
