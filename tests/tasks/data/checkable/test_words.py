"""Kinds that come from WordNet, the CMU dictionary and lemminflect, on slices of them and on small ones made here."""

import gzip

import numpy as np
import pytest

from llm.errors import UserError
from tasks.data.checkable import kinds
from tasks.data.checkable.everyday import OPPOSITES, SYNONYMS
from tasks.data.checkable.inflection import read_forms
from tasks.data.checkable.kind import Sources
from tasks.data.checkable.sound import read_sounds
from tasks.data.checkable.wordnet import read_wordnet
from tasks.data.checkable.words import groups

# In WordNet's format; how often a word has a meaning is in SENSES.
NOUN = """  1 a licence line
00000001 06 n 02 boat 0 vessel 0 000 | (nautical) a thing that floats on water; "the boat sank"
00000002 03 n 02 color 0 colour 0 000 | what light does to the eye
00000004 03 n 02 fool 0 twit 0 000 | (offensive) someone silly
00000009 03 n 01 canoe 0 000 | a thing that floats on water
00000010 03 n 01 lake 0 000 | a body of water near Roman houses
"""
VERB = """00000005 29 v 01 rise 0 001 ! 00000006 v 0101 01 + 02 00 | go up some way
00000006 29 v 02 sink 0 drop 0 001 ! 00000005 v 0101 01 + 02 00 | go down some way
"""
ADJ = """00000007 00 a 02 glad(p) 0 happy 0 001 ! 00000008 a 0201 | full of joy
00000008 00 s 02 unhappy 0 miserable 0 000 | not happy
"""
ADV = "00000011 02 r 01 soon 0 000 | " + "in " * 21 + "time\n"
SENSES = """boat%1:06:00:: 00000001 1 9
vessel%1:06:00:: 00000001 1 8
color%1:03:00:: 00000002 1 9
colour%1:03:00:: 00000002 1 8
fool%1:03:00:: 00000004 1 8
canoe%1:03:00:: 00000009 1 8
lake%1:03:00:: 00000010 1 8
rise%2:29:00:: 00000005 1 8
sink%2:29:00:: 00000006 1 9
drop%2:29:00:: 00000006 1 1
glad%3:00:00:: 00000007 1 9
happy%3:00:00:: 00000007 1 9
unhappy%5:00:00:glad:01 00000008 1 5
miserable%5:00:00:glad:01 00000008 1 5
soon%4:02:00:: 00000011 1 9
"""


@pytest.fixture
def wordnet(tmp_path):
    for name, content in {"noun": NOUN, "verb": VERB, "adj": ADJ, "adv": ADV}.items():
        (tmp_path / f"data.{name}").write_text(content)
    (tmp_path / "index.sense").write_text(SENSES)
    return Sources({"wordnet": tmp_path / "index.sense"})


def answers(sources, name, rows=500):
    kind = kinds()[name]
    return {item.asked: kind.answers(item) for item in kind.items(sources, seed=1, rows=rows)}


def learned(sources, name, rows=500):
    return {item.asked: item.output for item in kinds()[name].items(sources, seed=1, rows=rows)}


def test_definitions_are_short_plain_and_name_not_the_word(wordnet):
    found = learned(wordnet, "definition")
    assert found["boat"] == found["vessel"] == "A thing that floats on water."
    assert found["sink"] == "Go down some way."
    assert not {"soon", "fool", "lake", "drop"} & found.keys()


def test_everyday_synonyms_come_first_and_all_words_of_the_meaning_are_right(wordnet):
    found = answers(wordnet, "synonym")
    assert found["boat"] == ["ship", "vessel"] or found["boat"][0] == "vessel"
    assert found["happy"][0] == "glad"
    assert found["glad"][0] == "happy"
    assert {"joyful", "pleased"} <= set(found["glad"])
    assert "colour" not in found  # a spelling of color is no synonym


def test_an_opposite_is_learned_one_way_and_all_of_wordnets_are_right(wordnet):
    found = answers(wordnet, "antonym")
    assert found["happy"] == ["sad", "unhappy", "miserable"]
    assert found["sink"][0] == "float"
    assert found["rise"] == ["drop", "sink"]


def test_opposites_and_meanings_defined_alike_are_one_group(wordnet):
    group = groups(read_wordnet(wordnet.paths["wordnet"]))
    assert group["00000005-v"] == group["00000006-v"]
    assert group["00000007-a"] == group["00000008-a"]
    assert group["00000001-n"] == group["00000009-n"]
    assert group["00000001-n"] != group["00000005-v"]


def test_no_definition_stands_in_two_groups(sources):
    seen = {}
    for item in kinds()["definition"].items(sources, seed=1, rows=500):
        assert seen.setdefault(item.output, item.group) == item.group


@pytest.mark.parametrize(("name", "row"), [("data.verb", "00000005 29 v zz rise"), ("index.sense", "rise 1 2")])
def test_a_broken_row_of_wordnet_is_named(wordnet, name, row):
    path = wordnet.paths["wordnet"].with_name(name)
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(UserError, match=rf"{name}, row {3 if name == 'data.verb' else 16}: not a s\w+ of WordNet"):
        read_wordnet(wordnet.paths["wordnet"])


def test_a_missing_file_of_wordnet_is_named(wordnet):
    wordnet.paths["wordnet"].with_name("data.adj").unlink()
    with pytest.raises(UserError, match=r"no data\.adj; let `files` of the WordNet source keep it"):
        read_wordnet(wordnet.paths["wordnet"])


def test_everyday_words_are_listed_once_with_others():
    assert all(len(set(words)) == len(words) > 1 for words in SYNONYMS)
    assert all(len(pair) == 2 and pair[0] != pair[1] for pair in OPPOSITES)


def test_inflections_are_those_of_plain_english(sources):
    plurals, past = answers(sources, "plural"), learned(sources, "past_tense")
    assert plurals["child"] == ["children"]
    assert plurals["leaf"] == ["leaves"]
    assert plurals["person"] == ["people"]
    assert past["take"] == "took"
    assert past["make"] == "made"
    assert not {"can", "lie", "quit"} & past.keys()
    assert not {"information", "people"} & plurals.keys()


def test_comparison_takes_er_and_est_where_people_do(sources):
    forms = learned(sources, "comparative")
    assert forms["big"] == "bigger"
    assert all(form.endswith("er") and "ee" not in form[-4:] for form in forms.values())
    assert learned(sources, "superlative")["big"] == "biggest"
    assert answers(sources, "superlative")["big"] == ["biggest", "the biggest"]


def test_long_words_are_compared_with_more_and_most_as_well(sources):
    more, most = answers(sources, "comparative"), answers(sources, "superlative")
    assert more["happy"] == ["happier", "more happy"]
    assert most["happy"] == ["happiest", "most happy", "the happiest", "the most happy"]
    assert more["slow"] == ["slower"]
    assert not {"loyal", "frank", "homely"} & more.keys()


def test_forms_that_are_none_are_named(tmp_path):
    path = tmp_path / "infl_lu.csv.gz"
    path.write_bytes(gzip.compress(b"go,verb,went,gone,going,goes\ngo,verb,went\n"))
    with pytest.raises(UserError, match=r"infl_lu\.csv\.gz, row 2: 'go,verb,went' is not word, part of speech and"):
        read_forms(path)
    path.write_text("plain")
    with pytest.raises(UserError, match=r"infl_lu\.csv\.gz, row 1: not a gzipped table"):
        read_forms(path)


def test_rhymes_end_alike_begin_differently_and_are_other_words(sources):
    sounds = sources.read(read_sounds, "cmudict")
    for word, right in answers(sources, "rhyme").items():
        assert word not in right
        assert len(right) >= 4
        assert not {phonemes for other in right for phonemes in sounds[other]} & set(sounds[word])
        assert sounds[word][0][-1] == sounds[right[0]][0][-1]
    assert "right" in answers(sources, "rhyme")["light"]


def test_syllables_are_counted_as_they_are_spoken(sources):
    found = answers(sources, "syllables")
    assert found["water"] == ["2", "two", "2 syllables"]
    assert not {"fire", "hour", "every"} & found.keys()  # of which people argue


def test_a_word_without_sounds_is_named(tmp_path):
    path = tmp_path / "cmudict.dict"
    path.write_text(";;; a comment\ncat K AE1 T\ncat\n")
    with pytest.raises(UserError, match=r"cmudict\.dict, row 3: 'cat' is not a word and its phonemes"):
        read_sounds(path)


def test_the_most_common_words_are_drawn_earlier(sources):
    order = list(learned(sources, "first_letter"))
    assert len(order) > 100
    assert np.all([word == word.lower() for word in order])
