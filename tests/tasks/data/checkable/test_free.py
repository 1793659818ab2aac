"""Free kinds: what an answer says stands in the task, and the forms of an answer are alike."""

import re
from importlib import import_module
from itertools import combinations, islice
from statistics import mean

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from tasks.data.checkable import kinds
from tasks.data.checkable.invented import LAYOUTS, Person, noted
from tasks.data.checkable.kind import SPLITS, Sources, pick
from tasks.data.checkable.rewriting import LIVES, third_person

NOTHING = Sources({})
KNOWLEDGE = ("definition",)  # answers that are not in the task
FREE = {name: kind for name, kind in kinds().items() if not kind.checkable and name not in KNOWLEDGE}
MAILS = ("thank_you_email", "invitation_email", "moved_appointment_email", "request_email")
ROWS = 100
ODD = r"  | [,.?!]|\bthe the\b|\ba [aeio]\w|\ban (?!hour)[^aeiou\W]\w"


@pytest.fixture(scope="module")
def items(sources):
    return {name: kind.items(sources, seed=1, rows=ROWS) for name, kind in FREE.items()}


def words(text):
    return set(re.findall(r"\w+", text.lower()))


def asked(name, item, split):
    return "\n".join(FREE[name].put(item, split))


def test_there_are_sixteen_kinds_with_a_hundred_rows_and_forty_groups_each(items):
    assert len(FREE) == 16
    for name, found in items.items():
        groups = {item.group for item in found}
        if not {"world-countries", "wordnet"} & set(FREE[name].needs):  # of which the slices hold few
            assert (len(found), len(groups) >= 40) == (ROWS, True), name
        assert "" not in groups, name
        assert all(3 <= len(item.output.split()) <= 45 for item in found), name


@pytest.mark.parametrize("name", FREE)
def test_every_wording_of_every_split_is_filled_in_and_reads_well(name, items):
    for item in items[name]:
        for split in SPLITS:
            for number in range(len(FREE[name].wordings(split))):
                text = "\n".join(FREE[name].put(item, split, number))
                assert not re.search(rf"[{{}}]|\*(?! )|{ODD}", text), text
        assert not re.search(rf"[{{}}*|]|[.,!?]{{2}}|{ODD}", item.output), item.output
        assert item.output[0].isupper() or item.output[0].isdigit()


@pytest.mark.parametrize("name", [*MAILS, "country_portrait", "product_description", "two_offers"])
def test_what_is_given_comes_back_in_the_answer_in_every_split(name, items):
    own = {"country_portrait": "is a country in lies and its capital the an official language currency people pay with"}
    own["two_offers"] = "is both cheaper and also costs less but while"
    own["product_description"] = "our this lovely is made of and you can have it for is yours costs only"
    for item in items[name]:
        for split in SPLITS:
            new = words(item.output) - words(asked(name, item, split))
            if name in own:
                assert new <= words(own[name]) | words(item.fields.get("better", "")), item.output
            else:
                assert not new & {"mr", "ms", "monday", "tuesday", "wednesday", "thursday", "friday", "am", "pm"} - {
                    "am"
                }
                assert item.output.endswith(f",\n{item.fields['sender']}")
                assert item.output.startswith(f"Dear {item.fields['to']},\n\n")


def test_a_reply_goes_back_to_the_writer_and_gives_the_reason_that_was_told(items):
    declined = [item for item in items["email_reply"] if " because " in item.fields["told"]]
    assert 0.3 < len(declined) / ROWS < 0.7
    for item in items["email_reply"]:
        assert item.output.startswith(f"Hi {item.fields['sender']},")
        assert ("can't" in item.output) is (item in declined)
    for item in declined:
        reason = item.fields["told"].partition(" because ")[2]
        assert f" because {reason}. " in item.output


def test_a_subject_and_a_summary_of_a_mail_share_its_group(items):
    groups = {name: {item.group for item in items[name]} for name in ("subject_line", "email_summary")}
    assert groups["subject_line"] == groups["email_summary"]
    for item in items["email_summary"]:
        names = set(re.findall(r"\b[A-Z]\w+", item.output.replace("In short, ", "").replace("To sum up, ", "")))
        assert all(names <= words_with_capitals(mail) for mail in item.fields["mail"])


def words_with_capitals(text):
    return set(re.findall(r"\b[A-Z]\w*", text))


def test_an_answer_from_a_text_says_what_the_text_says(items):
    for item in items["answer_from_text"]:
        said = words(item.output) - words("According to the text, also at of it was you can your come became")
        known = words(item.fields["text"] + item.fields["question"])
        assert len(said - known) <= 1, item.output


def test_the_cheaper_of_two_offers_is_named_first():
    for item in kinds()["two_offers"].items(NOTHING, seed=3, rows=ROWS):
        prices = dict(re.findall(r"(.+): (\d+) euros", item.fields["offers"]))
        cheaper, dearer = sorted(prices, key=lambda offer: int(prices[offer]))
        assert item.output.startswith(f"{cheaper} ")
        assert (dearer in item.output) is bool(re.search(" but | while ", item.output))


@pytest.mark.parametrize(
    ("asked", "result"),
    [
        (r"are (\d+) \w+ with (\d+) ", lambda a, b: a * b),
        (r"^(\d+) children share (\d+) ", lambda a, b: b // a),
        (r"for (\d+) euros and pays with a (\d+)-", lambda a, b: b - a),
        (r"is (\d+) percent of (\d+)", lambda a, b: a * b // 100),
        (r"at (\d+) pm and lasts (\d+) hours", lambda a, b: a + b),
        (r"next: (?:\d+, ){2}(\d+), (\d+)", lambda a, b: 2 * b - a),
        (r"has (\d+) \w+ and \w+ has (\d+)\.", lambda a, b: abs(a - b)),
    ],
)
def test_results_are_right_and_explained(asked, result, items):
    found = [(item, match) for item in items["explained_result"] if (match := re.search(asked, item.asked))]
    assert len(found) >= 10
    for item, match in found:
        assert re.search(rf"\b{result(*map(int, match.groups()))}\b", item.output)
        assert re.search(r", because |, since |That is because ", item.output)


def test_the_first_person_becomes_the_third():
    mei = Person("Mei", "she", "her", "her")
    assert third_person("I study* law. My son calls me when I cry* in my car. I am* fine.", mei) == (
        "Mei studies law. Her son calls her when she cries in her car. She is fine."
    )
    for life in LIVES:
        text = third_person(life, mei)
        assert not re.search(r"\b(I|my|me|My|am|we|We|us|our)\b|\*", text), text


def test_steps_are_told_in_another_order_than_they_are_given(items):
    for item in items["steps_in_order"]:
        steps = item.asked.partition(": ")[2].split("; ")
        places = [item.output.index(step) for step in steps]
        assert len(steps) == 4
        assert places != sorted(places)


@pytest.mark.parametrize("name", FREE)
def test_the_forms_of_an_answer_are_near_enough_that_each_scores_half(name, sources, monkeypatch):
    kind = FREE[name]
    forms = []
    for number in range(3):

        def choose(generator, choices, number=number):
            chosen = pick(generator, choices)
            is_form = all(isinstance(choice, str) and "{" in choice for choice in choices)
            return choices[number % len(choices)] if is_form else chosen

        monkeypatch.setattr(import_module(kind.make.__module__), "pick", choose)
        forms.append([item.output for item in islice(kind.make(kind.stream(1), sources), 20)])
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    scores = [
        scorer.score(*pair)["rougeL"].fmeasure for some in zip(*forms, strict=True) for pair in combinations(some, 2)
    ]
    assert mean(scores) >= 0.7
    if name not in ("about_somebody", "brief_email", "subject_line"):  # which are told in one way
        assert len(set(map(tuple, forms))) > 1


def test_notes_have_a_layout_of_their_own_for_validation_and_test():
    train = {noted(np.random.default_rng(seed), old_date="Monday")[0] for seed in range(60)}
    _, validation, test = noted(np.random.default_rng(0), old_date="Monday", to="Yuki")
    assert len(train) == len({frame for frame, _ in LAYOUTS[:-2]})
    assert " | " in validation
    assert "old date -> Monday" in test
