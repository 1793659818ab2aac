"""What holds for every kind in the packs of this project."""

import re
from pathlib import Path

import pytest

from tasks.data.conversations import is_right
from tasks.data.instructions.choose import SPLITS, BySplit
from tasks.data.instructions.fill import fill
from tasks.data.instructions.packs import read_packs
from tasks.data.instructions.rows import put, tasks_of, told

KINDS = read_packs(Path(__file__).parents[4] / "data/instructions").kinds
COUNT = 60
KNOWN = ("world-countries", "wordnet", "lemminflect")  # of which the slices hold few
ODD = r"[{}]|\*(?! )|  |(?<![=,]) ([,?!]|\.(?!\.))|\bthe the\b|\ba (?!one-)[aeio]\w"
ODD_SENTENCE = ODD + r"|\ban (?!hour)[^aeiou\W]\w|[^.]\.\.$"


@pytest.fixture(scope="module")
def drawn(packs, sources):
    return {name: tasks_of(packs, name, sources, 1, COUNT) for name in KINDS}


def texts_of(value):
    return list(value) if isinstance(value, BySplit) else [value] * len(SPLITS)


def test_every_list_of_the_packs_is_used(packs):
    files = "\n".join(path.read_text() for path in sorted({*packs.files.values()}))
    code = "\n".join(path.read_text() for path in Path(read_packs.__code__.co_filename).parent.glob("*.py"))
    for name in packs.lists.keys() - {"countries"}:
        assert len(re.findall(rf"\b{name}\b", files)) > 1 or re.search(rf"[\"']{name}[\"']", code), name


@pytest.mark.parametrize("name", KINDS)
def test_tasks_differ_and_learn_an_answer_that_counts(name, drawn):
    tasks, kind = drawn[name], KINDS[name]
    assert len(tasks) == COUNT or {*kind.needs} & {*KNOWN} or name in ("spam", "small_talk", "language_of_text")
    assert len({task.asked for task in tasks}) == len(tasks) >= 10
    assert kind.checkable or "" not in {task.group for task in tasks}
    for task in tasks:
        assert all(text and text == text.strip() for text in [*task.answers, *task.history, task.asked])
        assert len(task.history) % 2 == 0
        assert len(task.answers[0].split()) <= (25 if kind.checkable else 45)


@pytest.mark.parametrize("name", KINDS)
def test_all_wordings_read_well_and_differ_between_splits(name, drawn):
    for task in drawn[name][:25]:
        put_ = [put(text, task, split) for split in SPLITS for text in getattr(KINDS[name].wordings, split)]
        assert len(set(put_)) == len(put_)
        for instruction, given in put_:
            assert instruction
            assert name == "article" or not re.search(ODD, f"{instruction}\n{given}"), (instruction, given)
        for answer in task.answers:
            assert not re.search(r"[{}|]|  ", answer), answer


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.sentences])
def test_a_sentence_holds_the_answer_reads_well_and_is_right(name, drawn):
    for task in drawn[name]:
        sentences = told(KINDS[name], task)
        for sentence in sentences[: len(KINDS[name].sentences)]:
            assert task.answers[0].lower() in sentence.lower()
            assert sentence[0].isupper() or not sentence[0].isalpha()
            assert sentence.endswith(".")
            assert not re.search(ODD_SENTENCE, sentence), sentence
        assert all(is_right(sentence, sentences) for sentence in sentences)


def test_a_hint_asks_for_the_answer_alone_in_words_of_its_split(packs, drawn):
    (capital, *_), hints = drawn["capital"], packs.lists["briefly"]
    every = [hint for split in SPLITS for hint in hints[split]]
    assert len(set(every)) == len(every)
    assert put("What is the capital of {country}?", capital, "test", hints["test"][0])[0].endswith(
        f"? {hints['test'][0]}"
    )
    assert put("capital of\n{country}", capital, "train", "Be brief.") == ("Be brief. capital of", "France")
    assert put("Return just the city.", capital, "train", "Be brief.") == ("Return just the city.", "")


def digits(text):
    return [int(number) for number in re.findall(r"\d+", text)]


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
def test_numbers_come_out_right(name, right, drawn):
    assert all(task.answers[0] == str(right(*digits(task.asked))) for task in drawn[name])


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
def test_results_are_right_and_explained(asked, result, drawn):
    found = [(task, match) for task in drawn["explained_result"] if (match := re.search(asked, task.asked))]
    assert len(found) >= 5
    for task, match in found:
        assert re.search(rf"\b{result(*map(int, match.groups()))}\b", task.answers[0])
        assert re.search(r", because |, since |That is because ", task.answers[0])


def test_units_are_converted_by_their_factor(packs, sources):
    found = {task.asked: task.answers for task in tasks_of(packs, "conversion", sources, 3, 300)}
    assert found["3 kilometre metre"][0] == "3000 metres"
    assert {"3000", "3,000 metres", "3000 meters", "3000 m", "3000m"} <= set(found["3 kilometre metre"])
    assert not any(answer.endswith(" ") for answers in found.values() for answer in answers)


@pytest.mark.parametrize("name", ["email_address", "phone_number", "date", "amount", "person", "city", "quantity"])
def test_what_is_to_be_found_stands_in_the_message_of_every_split(name, drawn):
    for task in drawn[name]:
        messages = [fill("{message}", task.values, split) for split in range(3)]
        wanted = f"{task.answers[0]} {task.values['things']}" if name == "quantity" else task.answers[0]
        assert len(set(messages)) == 3
        assert all(message.count(wanted) == 1 for message in messages)


@pytest.mark.parametrize("name", ["thank_you_email", "invitation_email", "moved_appointment_email", "request_email"])
def test_a_mail_says_what_its_notes_say(name, drawn):
    for task in drawn[name]:
        answer = task.answers[0].lower()
        for key in ("favour", "result", "event", "place", "day", "time", "meeting", "thing", "purpose", "to", "sender"):
            assert key not in task.values or fill(f"{{{key}}}", task.values).lower() in answer, (key, answer)
        for split in range(3):
            assert fill("{sender}", task.values) in fill("{notes}", task.values, split)


def test_a_reply_gives_the_reason_that_it_was_given(drawn):
    for task in drawn["email_reply"]:
        answer, asked = task.answers[0], fill("{told}", task.values)
        assert answer.startswith(f"Hi {task.values['writer']['name']},")
        assert ("can't" in answer) is (" because " in asked)
        assert asked.partition(" because ")[2] in answer


def test_sentences_change_as_grammar_says(packs, sources):
    changed = {
        name: {task.asked: task.answers[0] for task in tasks_of(packs, name, sources, 3, 300)}
        for name in ("question", "negative", "past_sentence", "passive", "contraction", "polite")
    }
    assert changed["question"]["He buys the lamp."] == "Does he buy the lamp?"
    assert changed["past_sentence"]["Clara buys the lamp."] == "Clara bought the lamp."
    assert changed["polite"]["Close the door."] == "Could you please close the door?"
    assert all(re.match("(Do|Does|Did) ", text) for text in changed["question"].values())
    assert all(re.search(r"\b(do|does|did) not\b", text) for text in changed["negative"].values())
    assert all(re.search(r" (is|was) \w+ by ", text) for text in changed["passive"].values())
    assert all("n't" in text or "won't" in text for text in changed["contraction"].values())


def test_letters_and_lists(drawn):
    assert all(task.answers[0] == task.asked.upper() for task in drawn["capital_letters"])
    assert all(task.answers[0] == "".join(word[0] for word in task.asked.split()) for task in drawn["acronym"])
    for task in drawn["list_item"]:
        place, words = task.asked.split(": ")
        assert task.answers[0] == words.split(", ")[{"first": 0, "second": 1, "last": -1}[place]]


def test_steps_and_offers_are_given_in_any_order(drawn):
    for task in drawn["steps_in_order"]:
        steps = task.asked.partition(": ")[2].split("; ")
        places = [task.answers[0].index(step) for step in steps]
        assert len(steps) == 4
        assert places != sorted(places)
    for task in drawn["two_offers"]:
        prices = {offer: int(price) for offer, price in re.findall(r"(?:^| / )([^:]+): (\d+) euros", task.asked)}
        cheaper, dearer = sorted(prices, key=prices.get)
        assert task.answers[0].startswith(f"{cheaper} ")
        assert (dearer in task.answers[0]) is bool(re.search(" but | while ", task.answers[0]))


def test_the_assistant_says_what_it_is_and_what_it_does_not_know(packs, sources, drawn):
    identity = {task.asked: task.answers for task in tasks_of(packs, "identity", sources, 1, 200)}
    assert identity["So who are you?"][0] == "I am a small language model, fine-tuned with Threestage."
    assert "I'm a small language model…" in identity["So who are you?"]
    assert identity["Are you a person?"][1] == "No…"
    for task in [*drawn["beyond_it"], *drawn["invented"]]:
        assert task.answers[0].startswith("I do not know")
        assert "I don't know…" in task.answers


def test_what_was_told_stands_in_the_conversation_and_a_name_in_the_system_prompt(drawn):
    for task in drawn["told_before"]:
        assert any(task.answers[0].lower() in turn.lower() for turn in task.history[::2])
    for task in drawn["role"]:
        assert task.answers[1] in task.system


def test_verdicts_are_shared_out_evenly(drawn):
    for name, label in (("sentiment", "Positive"), ("spam", "Spam")):
        assert 0.3 < sum(task.answers[0] == label for task in drawn[name]) / len(drawn[name]) < 0.7
