import json

import pandas as pd
import pytest

from llm.errors import UserError
from tasks.data.quality import validate
from tasks.datasets.instructions import COLUMNS, Params, instruction_expectations, read_instructions

# In WordNet's format; how often a word has a meaning is in SENSES.
NOUN = """  1 a licence line
00000001 03 n 02 boat 0 vessel 0 000 | (nautical) a thing that floats; "the boat sank"
00000002 03 n 03 color 0 colour 0 hue 0 000 | what light does to the eye
00000003 03 n 01 Paris 0 000 | a city
00000004 03 n 02 fool 0 twit 0 000 | (offensive) someone silly
"""
VERB = """00000005 29 v 01 rise 0 001 ! 00000006 v 0101 01 + 02 00 | go up
00000006 29 v 02 fall 0 drop 0 001 ! 00000005 v 0101 01 + 02 00 | go down
"""
ADJ = """00000007 00 a 02 big(a) 0 large 0 001 ! 00000008 a 0201 | above average in size
00000008 00 s 01 little 0 000 | not big
"""
ADV = "00000009 02 r 01 soon 0 000 | " + "in " * 21 + "time\n"
SENSES = """boat%1:03:00:: 00000001 1 9
vessel%1:03:00:: 00000001 1 4
color%1:03:00:: 00000002 1 7
hue%1:03:00:: 00000002 1 1
colour%1:03:00:: 00000002 1 0
fool%1:03:00:: 00000004 1 8
rise%2:29:00:: 00000005 1 6
fall%2:29:00:: 00000006 1 5
drop%2:29:00:: 00000006 1 3
big%3:00:00:: 00000007 1 9
large%3:00:00:: 00000007 1 2
little%5:00:00:big:01 00000008 1 2
soon%4:02:00:: 00000009 1 2
"""


def params(**sizes):
    shares = {"seed": 1, "validation": 0.1, "test": 0.1, "near_duplicate": 0.9}
    return Params(**shares, **{"definitions": 100, "synonyms": 100, "antonyms": 100, **sizes})


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def wordnet(tmp_path):
    for name, content in {"noun": NOUN, "verb": VERB, "adj": ADJ, "adv": ADV}.items():
        write(tmp_path, f"wordnet/data.{name}", content)
    write(tmp_path, "wordnet/index.sense", SENSES)
    write(tmp_path, "wordnet/index.noun", "not read")
    return tmp_path


def answers(table, kind):
    rows = table[table["kind"] == kind]
    return dict(zip(rows["input"], rows["output"], strict=True))


def test_definitions_are_short_plain_and_of_the_word_as_it_is_mostly_meant(wordnet):
    table = read_instructions(wordnet, params())
    found = answers(table, "definition")
    assert found["boat"] == found["vessel"] == "a thing that floats"
    assert found["fall"] == "go down"
    assert not {"soon", "fool", "paris", "Paris", "colour"} & set(found)


def test_a_synonym_is_one_word_no_other_spelling_and_asked_one_way_round(wordnet):
    table = read_instructions(wordnet, params())
    assert answers(table, "synonym") == {"boat": "vessel", "color": "hue", "fall": "drop", "big": "large"}


def test_antonyms_go_both_ways_in_one_group_with_all_rows_of_the_two_words(wordnet):
    table = read_instructions(wordnet, params())
    assert answers(table, "antonym") == {"rise": "fall", "fall": "rise", "large": "little"}
    assert set(table.loc[table["input"].isin(["rise", "fall"]), "group"]) == {"word: fall"}
    assert table.loc[table["input"] == "fall", "kind"].tolist() == ["definition", "synonym", "antonym"]


def test_only_answers_of_one_word_are_checkable_and_rows_name_their_synset(wordnet):
    table = read_instructions(wordnet, params())
    assert table.groupby("kind")["checkable"].agg(["min", "max"]).to_dict("index") == {
        "definition": {"min": False, "max": False},
        "synonym": {"min": True, "max": True},
        "antonym": {"min": True, "max": True},
    }
    assert table.loc[table["id"] == "definition:boat", "source"].item() == "wordnet 00000001-n"


def test_the_seed_draws_as_many_rows_as_asked_for_and_the_same_ones_each_time(wordnet):
    draw = params(definitions=3, synonyms=2, antonyms=0)
    table = read_instructions(wordnet, draw)
    assert table["kind"].value_counts().to_dict() == {"definition": 3, "synonym": 2}
    pd.testing.assert_frame_equal(table, read_instructions(wordnet, draw))
    others = [read_instructions(wordnet, draw.model_copy(update={"seed": seed})) for seed in range(2, 6)]
    assert any(not other.equals(table) for other in others)


def test_every_turn_but_the_last_asks_the_next_and_the_same_question_is_one_group(tmp_path):
    conversations = "conversations:\n- [Hello!, Hi, Bye]\n- [hello, Good day.]\n- Nobody answers\n"
    write(tmp_path, "chat/greetings.yml", conversations)
    table = read_instructions(tmp_path, params())
    assert table[["id", "instruction", "output"]].to_numpy().tolist() == [
        ["chat/greetings.yml#1.1", "Hello!", "Hi"],
        ["chat/greetings.yml#1.2", "Hi", "Bye"],
        ["chat/greetings.yml#2.1", "hello", "Good day."],
    ]
    assert table["group"].tolist() == ["question: hello", "question: hi", "question: hello"]
    assert set(table["kind"]) == {"conversation"}
    assert set(table["source"]) == {"chat/greetings.yml"}


def test_own_rows_come_from_json_and_json_lines_with_an_optional_input(tmp_path):
    rows = [{"instruction": "Say", "output": "So"}, {"instruction": "Add", "input": "1, 2", "output": "3"}]
    write(tmp_path, "mine/a.json", json.dumps(rows))
    write(tmp_path, "mine/b.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    table = read_instructions(tmp_path, params())
    assert list(table.columns) == COLUMNS
    assert table["id"].tolist() == ["mine/a.json#1", "mine/a.json#2", "mine/b.jsonl#1", "mine/b.jsonl#2"]
    assert table.loc[[0, 3], ["kind", "group", "instruction", "input", "output"]].to_numpy().tolist() == [
        ["own", "question: say", "Say", "", "So"],
        ["own", "question: add 1 2", "Add", "1, 2", "3"],
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{}", r"a\.json: not a list of rows"),
        ("a.json", '[{"instruction": "x", "output": 3}]', r'a\.json, row 1: no string under "output"'),
        (
            "a.jsonl",
            '{"instruction": "x", "output": "y"}\n{"output": "y"}',
            r'a\.jsonl, row 2: no string under "instruc',
        ),
        ("a.jsonl", '{"instruction": "x", "input": null, "output": "y"}', r'a\.jsonl, row 1: no string under "input"'),
        ("a.jsonl", "{", r"a\.jsonl, row 1: not JSON"),
        ("a.yml", "conversations:\n- [a, b\n- c: d\n", r"a\.yml, row 3: not YAML: "),
        ("a.yml", "conversations:\n- [Is it?, Yes]\n", r"a\.yml, conversation 1: True is not text; put it in quotes"),
        ("a.yml", "talks: []\n", r"a\.yml: no list under `conversations`"),
        ("a.csv", "", r"a\.csv: unknown suffix '\.csv'; instructions are \.yml, \.json"),
        ("data.noun", "", r"no data\.adj; let `files` of the WordNet source keep it"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_row_and_reason(tmp_path, name, content, message):
    write(tmp_path, f"mine/{name}", content)
    with pytest.raises(UserError, match=message) as error:
        read_instructions(tmp_path, params())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "row"), [("data.verb", "00000005 29 v zz rise"), ("index.sense", "rise 1 2")])
def test_a_broken_row_of_wordnet_is_named(wordnet, name, row):
    path = wordnet / "wordnet" / name
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(UserError, match=rf"{name}, row {3 if name == 'data.verb' else 14}: not a s\w+ of WordNet"):
        read_instructions(wordnet, params())


def test_the_expectations_hold_for_real_rows_and_tell_bad_ones(wordnet, tmp_path):
    table = read_instructions(wordnet, params())
    validate("instructions", {"rows": (table, instruction_expectations())}, tmp_path / "good")
    bad = table.assign(output=table["output"].mask(table["id"] == "synonym:boat", "a ship").replace("go up", ""))
    with pytest.raises(ValueError, match="instructions: 2 checks failed") as error:
        validate("instructions", {"rows": (bad, instruction_expectations())}, tmp_path / "bad")
    assert "synonym:boat: 'a ship'" in str(error.value)
    assert "definition:rise: ''" in str(error.value)
