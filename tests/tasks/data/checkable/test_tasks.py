"""Tasks made here: their answers are worked out a second time."""

import re

import pytest

from tasks.data.checkable import kinds
from tasks.data.checkable.categories import ALIKE, WORDS
from tasks.data.checkable.kind import Sources
from tasks.data.checkable.numbers import in_words, spellings

NOTHING = Sources({})


def items(name, rows=100):
    return kinds()[name].items(NOTHING, seed=3, rows=rows)


def digits(item):
    return [int(number) for number in re.findall(r"\d+", item.asked)]


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("addition", lambda a, b: a + b),
        ("subtraction", lambda a, b: a - b),
        ("multiplication", lambda a, b: a * b),
        ("larger", max),
        ("even_or_odd", lambda n: "Odd" if n % 2 else "Even"),
        ("number_in_digits", int),
        ("sequence", lambda *n: 2 * n[-1] - n[-2]),
        ("sort_numbers", lambda *n: ", ".join(map(str, sorted(n)))),
    ],
)
def test_numbers_come_out_right(name, right):
    assert all(item.output == str(right(*digits(item))) for item in items(name))


def test_results_stay_small_and_above_zero():
    assert all(0 < int(item.output) < 60 for name in ("addition", "subtraction") for item in items(name))
    assert all(int(item.output) > 0 for item in items("sequence"))


def test_numbers_are_written_as_people_write_them():
    assert [in_words(n) for n in (7, 20, 45, 100, 305, 999)] == [
        *("seven", "twenty", "forty-five", "one hundred", "three hundred and five", "nine hundred and ninety-nine"),
    ]
    assert {"1205", "1,205", "1205.0"} == set(spellings(1205))
    assert {"45", "forty-five", "forty five"} <= set(spellings(45))


def test_conversions_multiply_by_the_factor_and_take_american_units():
    item = next(item for item in items("conversion", 300) if item.asked == "3 kilometre metre")
    assert item.output == "3000 metres"
    assert {"3000", "3,000 metres", "3000 meters"} <= set(item.also)


def test_the_clock_is_read_in_twelve_hours():
    found = {item.asked: kinds()["clock"].answers(item) for item in items("clock", 300)}
    assert found["15:30"][0] == "3:30 pm"
    assert {"3:30pm", "3:30 p.m."} <= set(found["15:30"])
    assert "8 am" in found["08:00"]
    assert found["12:30"][0] == "12:30 pm"
    assert "12:00" not in found


@pytest.mark.parametrize("name", ["email_address", "phone_number", "date", "amount", "person", "city"])
def test_what_is_extracted_stands_in_the_message_of_every_split(name):
    for item in items(name):
        assert len(set(item.fields["message"])) == 3
        assert all(message.count(item.output) == 1 for message in item.fields["message"])


def test_the_number_of_the_thing_asked_for_is_the_answer():
    for item in items("quantity"):
        things = item.fields["things"]
        assert all(f"{item.output} {things}" in message for message in item.fields["message"])


def test_sentences_change_as_grammar_says():
    verbs = {}
    for name in ("question", "negative", "past_sentence", "passive", "contraction", "polite"):
        for item in items(name, 300):
            verbs.setdefault(name, {})[item.fields["sentence"]] = item.output
    assert verbs["question"]["He buys the lamp."] == "Does he buy the lamp?"
    assert verbs["past_sentence"]["Clara buys the lamp."] == "Clara bought the lamp."
    assert all(output.startswith(("Do ", "Does ", "Did ")) for output in verbs["question"].values())
    assert all(re.search(r"\b(do|does|did) not\b", output) for output in verbs["negative"].values())
    assert all(re.search(r" (is|was) \w+ by ", output) for output in verbs["passive"].values())
    assert all("n't" in output or "won't" in output for output in verbs["contraction"].values())
    assert verbs["polite"]["Close the door."] == "Could you please close the door?"


def test_forms_of_a_verb_share_the_group_of_its_inflections():
    assert {item.group for item in items("past_sentence") if " walk" in item.output} <= {"lemma: walk"}


def test_the_odd_one_out_is_of_another_kind_than_the_three():
    for item in items("odd_one_out"):
        shown = item.fields["words"].split(", ")
        rest = [word for word in shown if word != item.output]
        (one,) = [name for name, words in WORDS.items() if set(rest) <= set(words)]
        (other,) = [name for name, words in WORDS.items() if item.output in words]
        assert one != other
        assert {one, other} not in ALIKE


def test_no_thing_is_in_two_categories():
    words = [word for listed in WORDS.values() for word in listed]
    assert sorted(set(words)) == sorted(words)


def test_verdicts_are_shared_out_evenly():
    for name, label in (("sentiment", "Positive"), ("spam", "Spam"), ("yes_or_no", "Yes")):
        share = sum(item.output.startswith(label) for item in items(name)) / 100
        assert 0.35 < share < 0.65, name


def test_only_the_yes_or_no_of_a_reason_is_checked():
    assert {item.also[0] for item in items("yes_or_no")} == {"Yes…", "No…"}
    sizes = {item.asked: item.output for item in items("yes_or_no", 300)}
    assert sizes.get("Is a mouse bigger than a horse?", "No…")[:2] == "No"
    assert sizes.get("Is a horse bigger than a mouse?", "Yes…")[:3] == "Yes"


def test_letters_lists_and_acronyms():
    assert all(item.output == item.asked.upper() for item in items("capital_letters"))
    assert all(item.output == str(len(item.asked.split())) for item in items("word_count"))
    assert all(item.output == "".join(word[0] for word in item.asked.split()) for item in items("acronym"))
    for item in items("alphabetical"):
        assert item.output.split(", ") == sorted(item.fields["words"].split(", "))
        assert item.output != item.fields["words"]
    for item in items("list_item"):
        place = {"first": 0, "second": 1, "last": -1}[item.fields["place"]]
        assert item.output == item.fields["words"].split(", ")[place]
    assert all(item.output != item.fields["word"] for item in items("spelling"))


def test_the_assistant_says_what_it_is_and_what_it_does_not_know():
    identity = {item.asked: item for item in items("identity", 200)}
    assert len(identity) == 190
    assert identity["So who are you?"].output == "I am a small language model, fine-tuned with Threestage."
    assert "I'm a small language model…" in identity["So who are you?"].also
    assert identity["Are you a person?"].also[0] == "No…"
    for name in ("beyond_it", "invented"):
        assert all(item.output.startswith("I do not know") for item in items(name))
        assert all({"I do not know…", "I don't know…"} <= set(item.also) for item in items(name))


def test_what_was_told_stands_in_the_conversation_and_a_name_in_the_system_prompt():
    for item in items("told_before"):
        assert any(item.output.lower() in turn.lower() for turn in item.history[::2])
    for item in items("role"):
        name = item.output.removeprefix("My name is ").rstrip(".")
        assert name in item.system
        assert name in item.also
