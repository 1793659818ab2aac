"""Tasks that a template can't express, so Python computes them.

A table yields rows. All other functions are steps of `draw`: they return the columns that they add, or None where there
is no task.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tasks.data.instructions.choose import Generator, Lists, Sources, Values, pick, shuffled
from tasks.data.instructions.fill import fill, number

T = TypeVar("T")


def times_tables(generator: Generator, sources: Sources) -> Iterator[Values]:
    """The times tables up to 12 times 10."""
    pairs = [{"a": a, "b": b} for a in range(1, 13) for b in range(2, 11)]
    yield from shuffled(generator, pairs)


def numbers(
    generator: Generator, sources: Sources, bounds: list[int], weights: Sequence[float] = ()
) -> Iterator[Values]:
    """Numbers in random order. If there are two weights, the first is for numbers below 100."""
    choices = range(bounds[0], bounds[1] + 1)
    number_weights = [weights[n >= 100] for n in choices] if weights else []
    for n in shuffled(generator, choices, number_weights):
        yield {"n": n}


def as_much_spam_as_ham(generator: Generator, sources: Sources) -> Iterator[Values]:
    """First every mail once; then, again and again, the mails with {fields}, half of them spam."""
    verdicts = sources.lists["mails"]
    rows = shuffled(generator, [verdict | {"mail": mail} for verdict in verdicts for mail in verdict["mails"]])
    varied = [row for row in rows if "{" in row["mail"]]
    spam = [row for row in varied if row["label"] == verdicts[0]["label"]]
    ham = [row for row in varied if row["label"] == verdicts[1]["label"]]
    while True:
        yield from rows
        rows = shuffled(generator, [*spam, *shuffled(generator, ham)[: len(spam)]])


def _orders(items: list[str], key: Callable[[str], int]) -> Values | None:
    """The items, and how to write them sorted by `key`, ascending and descending; None if they are sorted already."""
    up = sorted(items, key=key)
    down = list(reversed(up))
    if items in (up, down):
        return None
    separators = (", ", " ", ",")
    return {
        "items": ", ".join(items),
        "up": [separator.join(up) for separator in separators],
        "down": [separator.join(down) for separator in separators],
    }


def _three_or_four(generator: Generator, choices: Sequence[T]) -> list[T]:
    """Three or, less often, four different choices."""
    size = 3 if generator.random() < 0.6 else 4
    return shuffled(generator, choices)[:size]


def unsorted_numbers(generator: Generator, values: Values, lists: Lists) -> Values | None:
    """Three or four numbers below 100 that are not in order."""
    numbers = _three_or_four(generator, range(1, 100))
    return _orders([str(n) for n in numbers], key=int)


def unsorted_days(generator: Generator, values: Values, lists: Lists) -> Values | None:
    """Three or four days that are not in the order of the week."""
    days = lists["days"]
    return _orders(_three_or_four(generator, days), key=days.index)


def counted_words(generator: Generator, values: Values, lists: Lists) -> Values:
    """How many words `text` has, and its words with their numbers."""
    words = fill("{text}", values).split()
    counted = ", ".join(f"{n} {word}" for n, word in enumerate(words, 1))
    return {"size": len(words), "counted": counted}


def four_steps(generator: Generator, values: Values, lists: Lists) -> Values:
    """Four numbers from `start` on, `step` apart, and the next."""
    start = number("start", values)
    step = number("step", values)
    return {"numbers": ", ".join(str(start + n * step) for n in range(4)), "next": start + 4 * step}


def who_has_more(generator: Generator, values: Values, lists: Lists) -> Values:
    """A question about who has more: `one`, who has `a`, or `two`, who has `b`."""
    if values["a"] > values["b"]:
        return {"winner": values["one"], "loser": values["two"]}
    return {"winner": values["two"], "loser": values["one"]}


def fixed_form(generator: Generator, values: Values, lists: Lists) -> Values:
    """The `yes_form` or the `no_form`, as the `verdict` says."""
    return {"form": values[f"{values['verdict']}_form"]}


def told_before(generator: Generator, values: Values, lists: Lists) -> Values:
    """One or two facts that a user mentions, and a question about one of them."""
    history: list[str] = []
    facts: list[tuple[Values, Values]] = []
    for topic in shuffled(generator, lists["told"])[:2]:
        facts.append((topic, {"value": pick(generator, lists[topic["values"]])}))
    for topic, value in facts:
        history.append(fill(pick(generator, topic["said"]), value))
        history.append(pick(generator, lists["acknowledgements"]))
    if generator.random() < 0.5:
        topic, value = pick(generator, facts)
    else:
        topic, value = facts[0]
        history = history[:2]
    forms = [fill(form, value) for form in topic["answers"]]
    return {**value, "asked": topic["asked"], "forms": forms, "said": " / ".join(history[::2]), "history": history}
