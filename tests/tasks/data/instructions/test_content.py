"""What holds for the kinds in the packs of this project; answers are worked out a second time where they can be."""

import calendar
import json
import re
from pathlib import Path

import pytest

from llm.objectives.assistant.rows import is_right
from tasks.data.instructions.choose import SPLITS
from tasks.data.instructions.fill import fill
from tasks.data.instructions.packs import read_packs
from tasks.data.instructions.rows import put, tasks_of, told

KINDS = read_packs(Path(__file__).parents[4] / "data/instructions").kinds
ODD = r"[{}]|\*(?! )|  |(?<![=,]) ([,?!]|\.(?!\.))|\bthe the\b|\ba (?!one-)[aeio]\w"
DAYS, MONTHS = list(calendar.day_name), list(calendar.month_name)[1:]


@pytest.fixture(scope="module")
def drawn(packs, sources):
    return {name: tasks_of(packs, name, sources, 1, 60) for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_tasks_differ_and_read_well_in_every_wording(name, drawn):
    tasks, kind = drawn[name], KINDS[name]
    assert len({task.asked for task in tasks}) == len(tasks) >= 10
    for task in tasks:
        assert all(text and text == text.strip() for text in [*task.answers, *task.history, task.asked])
        assert name == "json_object" or not any(re.search(r"[{}|]|  ", answer) for answer in task.answers)
        assert len(task.history) % 2 == 0
        assert len(task.answers[0].split()) <= (25 if kind.checkable else 45)
        asked = [put(text, task, split) for split in SPLITS for text in getattr(kind.wordings, split)]
        assert len(set(asked)) == len(asked)
        odd = [texts for texts in asked if not texts[0] or re.search(ODD, "\n".join(texts))]
        assert not odd


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.sentences])
def test_a_sentence_holds_the_answer_reads_well_and_is_right(name, drawn):
    for task in drawn[name]:
        sentences = told(KINDS[name], task)
        for sentence in sentences[: len(KINDS[name].sentences)]:
            assert task.answers[0].lower() in sentence.lower()
            assert sentence[0].isupper() or not sentence[0].isalpha()
            assert not re.search(ODD + r"|[^.]\.\.$|[^.]$", sentence), sentence
        assert all(is_right(sentence, sentences) for sentence in sentences)


def test_no_list_is_idle(packs):
    texts = [path.read_text() for path in {*packs.files.values()}]
    root = Path(__file__).parents[4] / "tasks"
    readers = [*(root / "data/instructions").glob("*.py"), root / "datasets/instructions.py"]
    code = "".join(path.read_text() for path in readers)
    for name in packs.lists.keys() - {"countries"}:
        used = sum(len(re.findall(rf"\b{name}\b", text)) for text in texts)
        assert used > 1 or re.search(rf"[\"\']{name}[\"\']", code), name


def test_hint_asks_for_the_answer_alone_in_words_of_its_split(packs, drawn):
    france = drawn["continent"][0]
    hints = packs.lists["briefly"]
    every = [hint for split in SPLITS for hint in hints[split]]
    assert len(set(every)) == len(every)
    assert put("continent of {country}?", france, "test", "Be brief.") == ("continent of France? Be brief.", "")
    assert put("continent of\n{country}", france, "train", "Be brief.") == ("Be brief. continent of", "France")
    assert put("Just the continent: {country}", france, "train", "Be brief.") == ("Just the continent: France", "")


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("multiplication", lambda a, b: a * b),
        ("number_in_digits", int),
        ("sort_numbers", lambda *n: ", ".join(map(str, sorted(n)))),
        ("sort_numbers_down", lambda *n: ", ".join(map(str, sorted(n, reverse=True)))),
    ],
)
def test_numbers_come_out_right(name, right, drawn):
    for task in drawn[name]:
        assert task.answers[0] == str(right(*map(int, re.findall(r"\d+", task.asked))))


def test_sort_days_orders_the_days_from_monday_to_sunday(drawn):
    for task in drawn["sort_days"]:
        days = task.asked.split(", ")
        assert task.answers[0].split(", ") == sorted(days, key=DAYS.index) != days


def test_facts_of_months_agree_with_the_calendar(drawn):
    numbers = {task.values["ordinal"]: task.answers[0] for task in drawn["month_number"]}
    assert [numbers[ordinal] for ordinal in ("first", "fifth", "twelfth")] == ["January", "May", "December"]
    lengths = {task.values["month"]: int(task.answers[1]) for task in drawn["days_in_month"]}
    assert lengths == {month: calendar.monthrange(2025, n)[1] for n, month in enumerate(MONTHS, 1)}


def test_counts_are_right(drawn):
    for task in drawn["count_words"]:
        *counted, last = task.answers[0].removesuffix(" words").replace(": ", ", ").split(", ")
        assert counted == [f"{n} {word}" for n, word in enumerate(task.asked.split(), 1)]
        assert int(last) == len(counted)


def test_opening_hours_are_read_from_the_wording(drawn):
    wording = "{opens:clock} {closes:clock} {hour:clock}"
    shown = {fill(wording, task.values) for task in drawn["opening_hours"]}
    assert any(" noon" in text for text in shown)
    for task in drawn["opening_hours"]:
        opens, closes, hour = (int(task.values[column]) for column in ("opens", "closes", "hour"))
        assert task.answers[0].startswith("Yes, " if opens < hour < closes else "No, ")
        assert all(
            re.fullmatch(r"(\d+ [ap]m|noon)", fill(f"{{{column}:clock}}", task.values)) for column in ("opens", "hour")
        )


def test_forms_are_as_the_user_sets_them(drawn):
    assert all(len(re.findall(r"\[\w+\]", task.answers[0])) == 2 for task in drawn["placeholders"])
    for task in drawn["json_object"]:
        keys = re.findall(r'"(\w+)"', task.values["keys"])
        assert list(json.loads(task.answers[0])) == keys
    for task in drawn["list_format"]:
        marks = [line.split()[0] for line in task.answers[0].splitlines()]
        assert marks in (["*"] * len(marks), ["-"] * len(marks), [f"{n}." for n in range(1, len(marks) + 1)])


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
        reason = r", because |, since |That is because "
        assert re.search(rf"\b{result(*map(int, match.groups()))}\b", task.answers[0])
        assert re.search(reason, task.answers[0])


@pytest.mark.parametrize("name", ["email_address", "phone_number", "date", "amount", "person", "quantity"])
def test_what_is_to_be_found_stands_in_the_message_of_every_split(name, drawn):
    for task in drawn[name]:
        messages = [fill("{message}", task.values, split) for split in range(3)]
        wanted = f"{task.answers[0]} {task.values['things']}" if name == "quantity" else task.answers[0]
        assert len(set(messages)) == 3
        assert all(message.count(wanted) == 1 for message in messages)


def test_which_one_asks_for_one_of_two_facts_that_stand_in_every_message(drawn):
    for task in drawn["which_one"]:
        asked, _, facts = task.asked.partition(": ")
        fact_of = {fact.split()[0]: fact.partition(" ")[2] for fact in facts.split(", ")}
        assert task.answers[0] == fact_of[asked]
        assert len(fact_of) == len(set(fact_of.values())) == 2
        for split in range(3):
            message = fill("{message}", task.values, split)
            assert all(
                re.search(rf"\b{name}\b.*\b{fact}\b|\b{fact}\b.*\b{name}\b", message) for name, fact in fact_of.items()
            )


def test_missing_item_is_in_the_longer_list_alone(drawn):
    for task in drawn["missing_item"]:
        longer, shorter = (re.split(", | and ", part) for part in task.asked.split(" / "))
        assert {*longer} - {*shorter} == {task.answers[0]}
        assert {*shorter} < {*longer}
        messages = [fill("{message}", task.values, split).lower() for split in range(3)]
        assert all(message.count(task.answers[0].lower()) == 1 for message in messages)


@pytest.mark.parametrize("name", ["thank_you_email", "invitation_email", "moved_appointment_email", "request_email"])
def test_a_mail_says_what_its_notes_say(name, drawn):
    for task in drawn[name]:
        for key in {
            "favour",
            "result",
            "event",
            "place",
            "day",
            "meeting",
            "thing",
            "purpose",
            "to",
        } & task.values.keys():
            assert fill(f"{{{key}}}", task.values).lower() in task.answers[0].lower()
        assert all(fill("{sender}", task.values) in fill("{notes}", task.values, split) for split in range(3))


def test_a_reply_gives_the_reason_that_it_was_given(drawn):
    for task in drawn["email_reply"]:
        asked = fill("{wanted}", task.values)
        assert ("can't" in task.answers[0]) is (" because " in asked)
        assert asked.partition(" because ")[2] in task.answers[0]


def test_other_answers_say_what_was_asked_for(packs, sources, drawn):
    many = {name: {t.asked: t.answers for t in tasks_of(packs, name, sources, 3, 300)} for name in KINDS}
    assert many["question"]["He buys the lamp."][0] == "Does he buy the lamp?"
    past = {asked: answers[0] for asked, answers in many["past_sentence"].items()}
    assert any(asked.endswith(" although it is cold.") for asked in past)
    assert not any(re.search(r" (is|are|knows|shines|rains)\b", sentence) for sentence in past.values())
    assert many["polite"]["Close the door, now!"][0] == "Could you please close the door?"
    assert all(re.fullmatch(r"Could you please [a-z]+ [\w ]+\?", answers[0]) for answers in many["polite"].values())
    assert all(re.search(r"\b(do|does|did) not\b", answers[0]) for answers in many["negative"].values())
    assert all("n't" in answers[0] for answers in many["contraction"].values())
    assert all(answers[0] == asked.upper() for asked, answers in many["capital_letters"].items())
    assert all(answers[0] == re.sub("[a-z ]", "", asked) for asked, answers in many["acronym"].items())
    assert many["identity"]["So who are you?"][0] == "I am a small language model, fine-tuned with Threestage."
    assert "I'm a small language model…" in many["identity"]["So who are you?"]
    for asked, (answer, *_) in many["steps_in_order"].items():
        places = [answer.index(step) for step in asked.partition(": ")[2].split("; ")]
        assert len(places) == 4
        assert places != sorted(places)
    for asked, (answer, *_) in many["two_offers"].items():
        prices = {offer: int(price) for offer, price in re.findall(r"(?:^| / )([^:]+): (\d+) euros", asked)}
        assert answer.startswith(f"{min(prices, key=prices.get)} ")
    for task in drawn["told_before"]:
        assert any(task.answers[0].lower() in turn.lower() for turn in task.history[::2])
    assert all(task.answers[1] in task.system for task in drawn["role"])


def test_the_assistant_claims_nothing_about_where_it_runs_and_keeps_the_role_of_a_system_prompt(packs, sources, drawn):
    for task in tasks_of(packs, "identity", sources, 1, 300):
        assert "your machine" not in task.answers[0]
        if re.search(r"private|sent away|stored|saved", task.asked):
            assert task.answers[0] == "I do not know: please ask the people who run me here."
    for task in drawn["nameless"]:
        assert "Threestage" not in task.answers[0]
        assert fill("{city}", task.values) in task.answers[0]
