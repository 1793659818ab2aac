"""What holds for the kinds in the packs of this project; answers are worked out a second time where they can be."""

import calendar
import json
import math
import re
from pathlib import Path

import pytest

from llm.objectives.assistant.rows import is_right
from tasks.data.instructions.choose import SPLITS
from tasks.data.instructions.fill import fill
from tasks.data.instructions.packs import read_packs
from tasks.data.instructions.rows import in_sentences, put, tasks_of

KINDS = read_packs(Path(__file__).parents[4] / "data/instructions").kinds
ODD = r"[{}]|\*(?! )|  |(?<![=,]) ([,?!]|\.(?!\.))|\bthe the\b|\ba (?!one-)[aeio]\w"
DAYS = list(calendar.day_name)
MONTHS = list(calendar.month_name)[1:]


@pytest.fixture(scope="module")
def drawn(packs, sources):
    return {name: tasks_of(packs, name, sources, seed=1, count=60) for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_tasks_differ_and_read_well_in_every_wording(name, drawn):
    tasks = drawn[name]
    kind = KINDS[name]
    assert len({task.asked for task in tasks}) == len(tasks) >= 10
    for task in tasks:
        assert all(text and text == text.strip() for text in [*task.answers, *task.history, task.asked])
        assert name == "json_object" or not any(re.search(r"[{}|]|  ", answer) for answer in task.answers)
        assert len(task.history) % 2 == 0
        assert len(task.answers[0].split()) <= (25 if kind.checkable else 45)
        asked = [put(text, task, split) for split in SPLITS for text in getattr(kind.wordings, split)]
        assert len(set(asked)) == len(asked)
        for instruction, task_input in asked:
            assert instruction
            assert not re.search(ODD, f"{instruction}\n{task_input}")


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.sentences])
def test_sentences_hold_the_answer_read_well_and_are_right(name, drawn):
    for task in drawn[name]:
        sentences = in_sentences(KINDS[name], task)
        for sentence in sentences[: len(KINDS[name].sentences)]:
            assert task.answers[0].lower() in sentence.lower()
            assert sentence[0].isupper() or not sentence[0].isalpha()
            assert not re.search(ODD + r"|[^.]\.\.$|[^.]$", sentence), sentence
        assert all(is_right(sentence, sentences) for sentence in sentences)


def test_lists_are_all_used(packs):
    texts = [path.read_text() for path in {*packs.files.values()}]
    root = Path(__file__).parents[4] / "tasks"
    readers = [*(root / "data/instructions").glob("*.py"), root / "datasets/instructions.py"]
    code = "".join(path.read_text() for path in readers)
    for name in packs.lists.keys() - {"countries"}:
        uses = len(re.findall(rf"\b{name}\b", "\n".join(texts)))
        assert uses > 1 or re.search(rf"[\"\']{name}[\"\']", code), name


def test_hint_asks_for_the_answer_alone_in_words_of_its_split(packs, drawn):
    france = drawn["continent"][0]
    hints = packs.lists["briefly"]
    every = [hint for split in SPLITS for hint in hints[split]]
    assert len(set(every)) == len(every)
    assert put("continent of {country}?", france, "test", hint="Be brief.") == ("continent of France? Be brief.", "")
    assert put("continent of\n{country}", france, "train", hint="Be brief.") == ("Be brief. continent of", "France")
    assert put("Just the continent: {country}", france, "train", hint="Be brief.") == ("Just the continent: France", "")


def numbers_in(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def test_multiplication_is_right(drawn):
    for task in drawn["multiplication"]:
        assert int(task.answers[0]) == math.prod(numbers_in(task.asked))


def test_number_in_digits_is_right(drawn):
    for task in drawn["number_in_digits"]:
        assert int(task.answers[0]) == int(task.asked)


@pytest.mark.parametrize(("name", "reverse"), [("sort_numbers", False), ("sort_numbers_down", True)])
def test_sorted_numbers_are_right(name, reverse, drawn):
    for task in drawn[name]:
        assert numbers_in(task.answers[0]) == sorted(numbers_in(task.asked), reverse=reverse)


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
        is_open = int(task.values["opens"]) < int(task.values["hour"]) < int(task.values["closes"])
        assert task.answers[0].startswith("Yes, " if is_open else "No, ")
        assert re.fullmatch(r"(\d+ [ap]m|noon)", fill("{opens:clock}", task.values))
        assert re.fullmatch(r"(\d+ [ap]m|noon)", fill("{hour:clock}", task.values))


def test_forms_are_as_the_user_sets_them(drawn):
    assert all(len(re.findall(r"\[\w+\]", task.answers[0])) == 2 for task in drawn["placeholders"])
    for task in drawn["json_object"]:
        keys = re.findall(r'"(\w+)"', task.values["keys"])
        assert list(json.loads(task.answers[0])) == keys
    for task in drawn["list_format"]:
        marks = [line.split()[0] for line in task.answers[0].splitlines()]
        assert marks in (["*"] * len(marks), ["-"] * len(marks), [f"{n}." for n in range(1, len(marks) + 1)])


RESULTS = {  # what is asked about two numbers, and the result of these as a formula
    r"are (\d+) \w+ with (\d+) ": "a * b",
    r"^(\d+) children share (\d+) ": "b // a",
    r"for (\d+) euros and pays with a (\d+)-": "b - a",
    r"is (\d+) percent of (\d+)": "a * b // 100",
    r"at (\d+) pm and lasts (\d+) hours": "a + b",
    r"next: (?:\d+, ){2}(\d+), (\d+)": "2 * b - a",
    r"has (\d+) \w+ and \w+ has (\d+)\.": "abs(a - b)",
}


@pytest.mark.parametrize("asked", RESULTS)
def test_results_are_right_and_explained(asked, drawn):
    tasks = [task for task in drawn["explained_result"] if re.search(asked, task.asked)]
    assert len(tasks) >= 5
    for task in tasks:
        first, second = re.search(asked, task.asked).groups()
        result = eval(RESULTS[asked], {"a": int(first), "b": int(second)})
        assert re.search(rf"\b{result}\b", task.answers[0])
        assert re.search(r", because |, since |That is because ", task.answers[0])


@pytest.mark.parametrize("name", ["email_address", "phone_number", "date", "amount", "person", "quantity"])
def test_answer_stands_in_the_message_of_every_split(name, drawn):
    for task in drawn[name]:
        messages = [fill("{message}", task.values, split) for split in range(3)]
        wanted = f"{task.answers[0]} {task.values['things']}" if name == "quantity" else task.answers[0]
        assert len(set(messages)) == 3
        assert all(message.count(wanted) == 1 for message in messages)


def test_kind_which_one_asks_for_one_of_two_facts_that_stand_in_every_message(drawn):
    for task in drawn["which_one"]:
        asked, _, facts = task.asked.partition(": ")
        fact_of = {fact.split()[0]: fact.partition(" ")[2] for fact in facts.split(", ")}
        assert task.answers[0] == fact_of[asked]
        assert len(fact_of) == len(set(fact_of.values())) == 2
        for split in range(3):
            message = fill("{message}", task.values, split)
            for name, fact in fact_of.items():
                assert re.search(rf"\b{name}\b.*\b{fact}\b|\b{fact}\b.*\b{name}\b", message)


def test_missing_item_is_in_the_longer_list_alone(drawn):
    for task in drawn["missing_item"]:
        longer, shorter = task.asked.split(" / ")
        longer_items = set(re.split(", | and ", longer))
        shorter_items = set(re.split(", | and ", shorter))
        assert longer_items - shorter_items == {task.answers[0]}
        assert shorter_items < longer_items
        messages = [fill("{message}", task.values, split).lower() for split in range(3)]
        assert all(message.count(task.answers[0].lower()) == 1 for message in messages)


@pytest.mark.parametrize("name", ["thank_you_email", "invitation_email", "moved_appointment_email", "request_email"])
def test_email_says_what_its_notes_say(name, drawn):
    keys = {"favour", "result", "event", "place", "day", "meeting", "thing", "purpose", "to"}
    for task in drawn[name]:
        for key in keys & task.values.keys():
            assert fill(f"{{{key}}}", task.values).lower() in task.answers[0].lower()
        assert all(fill("{sender}", task.values) in fill("{notes}", task.values, split) for split in range(3))


def test_email_reply_gives_the_reason_of_its_task(drawn):
    for task in drawn["email_reply"]:
        asked = fill("{wanted}", task.values)
        assert ("can't" in task.answers[0]) is (" because " in asked)
        assert asked.partition(" because ")[2] in task.answers[0]


def test_answers_of_further_kinds_are_right(packs, sources, drawn):
    def answers_of(name):
        return {task.asked: task.answers for task in tasks_of(packs, name, sources, seed=3, count=300)}

    assert answers_of("question")["He buys the lamp."][0] == "Does he buy the lamp?"
    past = {asked: answers[0] for asked, answers in answers_of("past_sentence").items()}
    assert any(asked.endswith(" although it is cold.") for asked in past)
    assert not any(re.search(r" (is|are|knows|shines|rains)\b", sentence) for sentence in past.values())
    assert answers_of("polite")["Close the door, now!"][0] == "Could you please close the door?"
    polite = r"Could you please [a-z]+ [\w ]+\?"
    assert all(re.fullmatch(polite, answers[0]) for answers in answers_of("polite").values())
    assert all(re.search(r"\b(do|does|did) not\b", answers[0]) for answers in answers_of("negative").values())
    assert all("n't" in answers[0] for answers in answers_of("contraction").values())
    assert all(answers[0] == asked.upper() for asked, answers in answers_of("capital_letters").items())
    assert all(answers[0] == re.sub("[a-z ]", "", asked) for asked, answers in answers_of("acronym").items())
    assert answers_of("identity")["So who are you?"][0] == "I am a small language model, fine-tuned with Threestage."
    assert "I'm a small language model…" in answers_of("identity")["So who are you?"]
    for asked, (answer, *_) in answers_of("steps_in_order").items():
        positions = [answer.index(step) for step in asked.partition(": ")[2].split("; ")]
        assert len(positions) == 4
        assert positions != sorted(positions)
    for asked, (answer, *_) in answers_of("two_offers").items():
        prices = {offer: int(price) for offer, price in re.findall(r"(?:^| / )([^:]+): (\d+) euros", asked)}
        assert answer.startswith(f"{min(prices, key=prices.get)} ")
    for task in drawn["told_before"]:
        assert any(task.answers[0].lower() in turn.lower() for turn in task.history[::2])
    assert all(task.answers[1] in task.system for task in drawn["role"])


def test_identity_claims_nothing_about_where_it_runs_and_keeps_the_role_of_a_system_prompt(packs, sources, drawn):
    for task in tasks_of(packs, "identity", sources, seed=1, count=300):
        assert "your machine" not in task.answers[0]
        if re.search(r"private|sent away|stored|saved", task.asked):
            assert task.answers[0] == "I do not know: please ask the people who run me here."
    for task in drawn["nameless"]:
        assert "Threestage" not in task.answers[0]
        assert fill("{city}", task.values) in task.answers[0]
