"""What holds for every kind of task."""

import re
from collections import Counter
from string import Formatter

import numpy as np
import pytest

from tasks.data.checkable import FILES, checkable_rows, kinds
from tasks.data.checkable.kind import BRIEF, BRIEFLY, SPLITS, Item, Sources, framed, kind
from tasks.data.conversations import is_right

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
def test_a_kind_is_put_in_twelve_ways_or_more_three_of_them_for_test_alone_and_two_for_validation(name, items):
    kind = KINDS[name]
    assert len(set(kind.phrasings)) == len(kind.phrasings) >= 12
    assert all(fields_of(phrasing) <= set(item.fields) for phrasing in kind.phrasings for item in items[name])
    assert (len(kind.wordings("validation")), len(kind.wordings("test"))) == (2, 3)
    for item in items[name][:5]:
        put = {split: {kind.put(item, split, n) for n in range(len(kind.wordings(split)))} for split in SPLITS}
        assert sum(map(len, put.values())) == len(set.union(*put.values())) == len(kind.phrasings)


def test_each_wording_of_test_has_its_share_of_rows_which_name_it_and_no_row_of_train_has_one(sources):
    by_kind = {}
    for row in rows(sources, capital=30, brief_email=30, addition=30):
        by_kind.setdefault(row["kind"], []).append(row)
    for name in ("capital", "brief_email", "addition"):
        kind, found = KINDS[name], by_kind[name]
        counts = Counter(row["test_wording"] for row in found)
        assert counts.keys() == set(kind.phrasings[-3:])
        assert max(counts.values()) - min(counts.values()) <= 1
        assert {row["validation_wording"] for row in found} == set(kind.phrasings[-5:-3])
        assert {row["wording"] for row in found} == set(kind.phrasings[:-5])
    row = by_kind["addition"][0]
    start = row["test_wording"].partition("{")[0].partition("\n")[0]
    assert start in row["test_instruction"]
    assert start not in row["instruction"]


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
        for split in SPLITS:
            for number in range(1 if split == "train" else len(KINDS[name].wordings(split))):
                instruction, given = KINDS[name].put(item, split, number)
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
    with pytest.raises(ValueError, match="7 phrasings; a kind has at least 8"):
        kind(*"abcdefg")


def test_a_kind_that_has_no_more_tasks_ends():
    @kind(*"abcdefgh")
    def one(generator, sources):
        while True:
            yield Item("always", "the same", {})

    assert len(one.items(Sources({}), seed=1, rows=10)) == 1


TOLD = {name: kind for name, kind in KINDS.items() if kind.sentences}
ODD = r"  | [,.?!]|[{}]|\bthe the\b|\ba [aeio]\w|\ban (?!hour)[^aeiou\W]\w|[^.]\.\.$"


def test_many_kinds_tell_their_answers_in_sentences():
    assert len(TOLD) >= 30


@pytest.mark.parametrize("name", TOLD)
def test_a_sentence_holds_the_answer_reads_well_and_is_right(name, items):
    for item in items[name]:
        told = TOLD[name].told(item)
        for sentence in told[: len(TOLD[name].sentences)]:
            assert item.output.lower() in sentence.lower()
            assert not re.search(ODD, sentence), sentence
            assert sentence[0].isupper() or not sentence[0].isalpha()
            assert sentence.endswith(".")
        assert all(is_right(sentence, told) for sentence in told)
        short = {each.lower() for each in TOLD[name].answers(item) if len(each.split()) == 1} - {"yes", "no"}
        assert all(any(each in sentence.lower() for sentence in told) for each in short)


def test_every_other_row_asks_for_the_answer_alone_in_all_the_ways_that_there_are(sources):
    found = [row for row in rows(sources, **dict.fromkeys(TOLD, 40)) if row["kind"] in TOLD]
    asked = {hint: [row for row in found if hint in row["instruction"]] for hint in BRIEFLY[SPLITS["train"]]}
    assert all(asked.values()), asked.keys()
    briefly = [row for several in asked.values() for row in several]
    assert len(briefly) == pytest.approx(len(found) / 2, rel=0.05)
    drawn = {"validation": set(), "test": set()}
    for row in briefly:
        kind = KINDS[row["kind"]]
        for split in ("validation", "test"):
            asks = [hint for hint in BRIEFLY if hint in row[f"{split}_instruction"]]
            assert set(asks) <= set(BRIEFLY[SPLITS[split]])
            assert asks or BRIEF.search(row[f"{split}_wording"])
            drawn[split].update(asks)
        assert len(row["output"]) < 60
        assert not any(row["answers"][0] == text for item in kind.items(sources, 1, 40) for text in kind.told(item))
    assert {split: len(hints) for split, hints in drawn.items()} == {"validation": 2, "test": 3}
    rest = [row for row in found if row not in briefly and not BRIEF.search(row["instruction"])]
    assert all(len(row["answers"]) > 1 for row in rest)
    assert sum(row["output"].endswith(".") for row in rest) > 0.9 * len(rest)


def test_sentences_of_what_can_not_be_checked_are_refused():
    with pytest.raises(ValueError, match="sentences are told of answers that can be checked"):
        kind(*"abcdefgh", checkable=False, told=["It is {answer}."])
