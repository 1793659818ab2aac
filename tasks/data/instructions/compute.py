"""Tasks that Python makes, as their answers are computed in a way that no template says.

A Table yields rows. All other functions are steps of `draw`: they take what is known of a task and return what it adds,
or None where it makes no task.
"""

import re
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from tasks.data.instructions.choose import Lists, Sources, Values, pick, shuffled, table
from tasks.data.instructions.fill import Person, an, capitalised, fill, number, spellings

Generator = np.random.Generator


@table()
def times_tables(generator: Generator, lists: Lists, sources: Sources) -> Iterator[Values]:
    """The times tables up to 12 times 10."""
    for a, b in shuffled(generator, [(a, b) for a in range(1, 13) for b in range(2, 11)]):
        yield {"a": a, "b": b}


@table()
def numbers(
    generator: Generator, lists: Lists, sources: Sources, lowest: int, highest: int, weights: tuple[float, float] = ()
) -> Iterator[Values]:
    """Numbers in random order; with two weights, those below 100 have the first of them."""
    found = range(lowest, highest + 1)
    for n in shuffled(generator, found, [weights[n >= 100] for n in found] if weights else []):
        yield {"n": n}


def unsorted_numbers(generator: Generator, values: Values, lists: Lists) -> Values | None:
    """Three or four numbers below 100 that are not in order."""
    size = 3 if generator.random() < 0.6 else 4
    found = [int(n) for n in generator.choice(np.arange(1, 100), size=size, replace=False)]
    right = [str(n) for n in sorted(found)]
    forms = [between.join(right) for between in (", ", " ", ",")]
    return {"numbers": ", ".join(map(str, found)), "forms": forms, "right": forms[1]} if sorted(found) != found else None


def four_steps(generator: Generator, values: Values, lists: Lists) -> Values:
    """Four numbers from `start` on, `step` apart, and the next."""
    start, step = number("start", values), number("step", values)
    return {"numbers": ", ".join(str(start + n * step) for n in range(4)), "next": start + 4 * step}


def in_smaller_unit(generator: Generator, values: Values, lists: Lists) -> Values:
    """The forms of `result` smaller units: with American spellings and, if the unit has one, its `symbol`."""
    small, written = f"{values['smaller']}s", spellings(values["result"])
    forms = [f"{form} {small}" for form in written] + written
    forms += [text.replace("metre", "meter").replace("litre", "liter") for text in forms]
    if values["symbol"]:
        forms += [f"{form}{space}{values['symbol']}" for form in written for space in (" ", "")]
    return {"forms": forms}


def told_before(generator: Generator, values: Values, lists: Lists) -> Values:
    """One or two things that a user says, and which of them is asked for."""
    first, second = shuffled(generator, lists["told"])[:2]
    facts = [(what, pick(generator, lists[what["values"]])) for what in (first, second)]
    history = []
    for what, value in facts:
        history += [fill(pick(generator, what["said"]), {"value": value}), pick(generator, lists["acknowledgements"])]
    history = history[: 4 if generator.random() < 0.5 else 2]
    what, value = pick(generator, facts) if len(history) == 4 else facts[0]
    more = {"value": value, "said": " / ".join(history[::2]), "history": history}
    return {"asked": what["asked"], "forms": [fill(form, {"value": value}) for form in what["answers"]], **more}


def who_has_more(generator: Generator, values: Values, lists: Lists) -> Values:
    """Which of `one`, who has `a`, and `two`, who has `b`, has more."""
    people = (values["one"], values["two"]) if values["a"] > values["b"] else (values["two"], values["one"])
    return dict(zip(("winner", "loser"), people, strict=True))


def third_person(generator: Generator, values: Values, lists: Lists) -> Values:
    """A text in the first person, its verbs marked with *, in the third."""
    person = Person(*(values[name] for name in Person._fields))
    first = values["life"].format(city=values["city"])
    text = re.sub(r"(\w+)\*", lambda verb: _third(verb[1]), first)
    for mine, theirs in (("my", person.his), ("me", person.him)):
        text = re.sub(rf"\b{mine}\b", theirs, text)
        text = re.sub(rf"\b{mine.capitalize()}\b", theirs.capitalize(), text)
    text = re.sub(r"\bI\b", person.name, text, count=1)
    text = re.sub(r"(?<=[.!?] )I\b", capitalised(person.he), text)
    return {"text": first.replace("*", ""), "retold": re.sub(r"\bI\b", person.he, text)}


def _third(verb: str) -> str:
    """A verb as it goes with he or she."""
    irregular = {"am": "is", "have": "has", "do": "does", "go": "goes"}
    ending = "es" if re.search(r"(s|sh|ch|x)$", verb) else "s"
    return irregular.get(verb) or re.sub(r"(?<=[^aeiou])y$", "ie", verb) + ending


@table()
def yes_or_no(generator: Generator, lists: Lists, sources: Sources) -> Iterator[Values]:
    """Facts as questions, and which of two things is bigger, with the reason."""
    items = [(fact["asked"], fact["answer"]) for fact in lists["facts_with_reasons"]]
    weights = [3.0] * len(items)
    for sizes, measured in (("animals_by_size", "weighs {}"), ("things_by_size", "takes up {} room")):
        for small, large in combinations(map(an, lists[sizes]), 2):
            first, second = pick(generator, [(small, large), (large, small)])
            compared = pick(generator, ["bigger", "smaller"])
            verdict = "Yes" if (first == small) == (compared == "smaller") else "No"
            than = measured.format("less" if first == small else "more")
            items.append((f"Is {first} {compared} than {second}?", f"{verdict}, because {first} {than} than {second}."))
    for asked, answer in shuffled(generator, items, weights + [1.0] * (len(items) - len(weights))):
        yield {"question": asked, "answer": answer, "verdict": answer.partition(",")[0]}


@table()
def as_much_spam_as_ham(generator: Generator, lists: Lists, sources: Sources) -> Iterator[Values]:
    """All mails once; then those that differ from draw to draw, as many of spam as of ham."""
    rows = shuffled(generator, [verdict | {"mail": mail} for verdict in lists["mails"] for mail in verdict["mails"]])
    labels = [verdict["label"] for verdict in lists["mails"]]
    spam, ham = ([row for row in rows if "{" in row["mail"] and row["label"] == label] for label in labels)
    while True:
        yield from rows
        rows = shuffled(generator, [*spam, *shuffled(generator, ham)[: len(spam)]])
