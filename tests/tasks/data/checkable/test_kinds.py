"""What holds for every kind of task."""

import re
from string import Formatter

import numpy as np
import pytest

from tasks.data.checkable import FILES, checkable_rows, kinds
from tasks.data.checkable.kind import Item, Sources, framed, kind

KINDS = kinds()


def fields_of(phrasing):
    return {field for _, field, _, _ in Formatter().parse(phrasing) if field}


@pytest.fixture(scope="module")
def items(sources):
    return {name: kind.items(sources, seed=1, rows=40) for name, kind in KINDS.items()}


def rows(sources, **sizes):
    return list(checkable_rows(list(sources.paths.values()), 1, sizes, 8))


def test_there_are_many_kinds_of_every_field():
    assert len([kind for kind in KINDS.values() if kind.checkable]) >= 34
    assert {source for kind in KINDS.values() for source in kind.needs} == FILES.keys()


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_put_in_twelve_ways_or_more_and_one_of_them_is_for_test_alone(name, items):
    phrasings = KINDS[name].phrasings
    assert len(set(phrasings)) == len(phrasings) >= 12
    assert all(fields_of(phrasing) <= set(item.fields) for phrasing in phrasings for item in items[name])
    for item in items[name][:5]:
        train = {KINDS[name].put(item, "train", number) for number in range(len(phrasings) - 2)}
        assert not train & {KINDS[name].put(item, "validation"), KINDS[name].put(item, "test")}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_makes_different_tasks_whose_answer_is_among_the_right_ones(name, items):
    found = items[name]
    assert len(found) >= 10
    assert len({item.asked for item in found}) == len(found)
    for item in found:
        right = KINDS[name].answers(item)
        assert (right[:1] == [item.output]) is KINDS[name].checkable
        assert all(text == text.strip() and text for text in [item.output, *right])
        assert len(item.history) % 2 == 0
        assert len(item.output.split()) <= (25 if KINDS[name].checkable else 45)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_asked_reads_as_a_person_would_write_it(name, items):
    for item in items[name]:
        for split in ("train", "validation", "test"):
            instruction, given = KINDS[name].put(item, split)
            assert instruction
            text = f"{instruction}\n{given}"
            assert not re.search(r"[{}]|  | [,.?!]|\bthe the\b", text)
            assert name == "article" or not re.search(r"\ba [aeio]\w", text.replace("a one-way", ""))


def test_equal_seeds_draw_equal_tasks_and_no_kind_changes_another(sources):
    all_rows = rows(sources)
    assert all_rows == rows(sources)
    fewer = rows(sources, capital=0, addition=3)
    assert [row for row in fewer if row["kind"] not in ("capital", "addition")] == [
        row for row in all_rows if row["kind"] not in ("capital", "addition")
    ]
    assert [row["id"] for row in fewer if row["kind"] == "addition"] == [
        row["id"] for row in all_rows if row["kind"] == "addition"
    ][:3]


def test_a_kind_whose_source_is_missing_is_left_out_with_a_line_that_says_so(sources, caplog):
    paths = [path for name, path in sources.paths.items() if name != "cmudict"]
    with caplog.at_level("INFO"):
        left = {row["kind"] for row in checkable_rows(paths, 1, {}, 2)}
    assert KINDS.keys() - left == {"rhyme", "syllables"}
    assert "no rhyme rows: the source cmudict is not there" in caplog.messages


def test_rows_name_their_sources_and_what_would_give_them_away(sources):
    by_kind = {}
    for row in rows(sources):
        by_kind.setdefault(row["kind"], []).append(row)
    assert {row["source"] for row in by_kind["rhyme"]} == {"wordnet, cmudict"}
    assert {row["source"] for row in by_kind["spam"]} == {"written here"}
    capitals = {row["id"].partition(": ")[2]: row["group"] for row in by_kind["capital"]}
    currencies = {row["id"].partition(": ")[2]: row["group"] for row in by_kind["currency"]}
    assert all(capitals[name] == currencies[name] for name in capitals.keys() & currencies)
    assert all(row["group"].startswith("meaning: ") for row in by_kind["definition"] + by_kind["antonym"])


def test_a_sentence_has_frames_of_its_own_for_validation_and_test():
    frames = ["1 {x}", "2 {x}", "3 {x}", "4 {x}", "5 {x}", "6 {x}"]
    seen = [framed(np.random.default_rng(seed), frames, x="y") for seed in range(50)]
    assert [sorted(set(split)) for split in zip(*seen, strict=True)] == [["1 y", "2 y"], ["3 y", "4 y"], ["5 y", "6 y"]]


def test_few_phrasings_are_refused():
    with pytest.raises(ValueError, match="5 phrasings; a kind has at least 6"):
        kind(*"abcde")


def test_a_kind_that_has_no_more_tasks_ends():
    @kind(*"abcdef")
    def one(generator, sources):
        while True:
            yield Item("always", "the same", {})

    assert len(one.items(Sources({}), seed=1, rows=10)) == 1
