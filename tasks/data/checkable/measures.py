"""Measures: units and the clock."""

from collections.abc import Iterator

import numpy as np

from tasks.data.checkable.kind import Item, Sources, kind, pick
from tasks.data.checkable.numbers import spellings

# One of the larger unit, as many of the smaller: only factors that a small model can carry out.
UNITS = (
    ("metre", "centimetre", 100),
    ("kilometre", "metre", 1000),
    ("kilogram", "gram", 1000),
    ("litre", "millilitre", 1000),
    ("centimetre", "millimetre", 10),
    ("week", "day", 7),
    ("year", "month", 12),
    ("hour", "minute", 60),
    ("minute", "second", 60),
    ("day", "hour", 24),
    ("euro", "cent", 100),
    ("tonne", "kilogram", 1000),
)
SHORT = {"metre": "m", "centimetre": "cm", "millimetre": "mm", "gram": "g", "kilogram": "kg", "millilitre": "ml"}
LARGEST = {7: 10, 12: 6, 24: 4, 60: 6}  # so many of the larger unit, by factor; 20 for the others


def _plural(unit: str, count: int) -> str:
    return unit if count == 1 else f"{unit}s"


@kind(
    "How many {small} are there in {n} {large}?",
    "Convert {n} {large} to {small}.",
    "{n} {large} in {small}",
    "Change the unit to {small}.\n{n} {large}",
    "Please convert this to {small}: {n} {large}",
    "{n} {large}: how many {small} is that?",
    "How many {small} make {n} {large}?",
    "{n} {large} equals how many {small}?",
    "Turn {n} {large} into {small}.",
    "I have {n} {large}. How much is that in {small}?",
    "Give this in {small}.\n{n} {large}",
    "{n} {large} to {small}",
    "Could you work out how many {small} are in {n} {large}?",
    "What is {n} {large} in {small}?",
    "Express {n} {large} in {small}.",
    told=["{n} {large} is {answer}.", "{n} {large} is equal to {answer}."],
)
def conversion(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A length, weight, volume, time or sum of money in the smaller unit."""
    while True:
        large, small, factor = pick(generator, UNITS)
        n = int(generator.integers(2, LARGEST.get(factor, 20) + 1))
        unit, result = _plural(small, 2), n * factor
        fields = {"n": str(n), "large": _plural(large, n), "small": unit}
        also = [f"{form} {unit}" for form in spellings(result)] + spellings(result)
        # American spelling of the unit is right, too.
        also += [text.replace("metre", "meter").replace("litre", "liter") for text in also]
        if small in SHORT:
            also += [f"{form}{space}{SHORT[small]}" for form in spellings(result) for space in (" ", "")]
        yield Item(f"{n} {large} {small}", f"{result} {unit}", fields, also)


@kind(
    "Write the time on a 12-hour clock.\n{time}",
    "What is {time} in am or pm?",
    "{time} as am/pm",
    "Convert {time} to the 12-hour clock.",
    "Please put this time into am or pm: {time}",
    "How do you say {time} with am or pm?",
    "{time} with am or pm",
    "My watch shows {time}. What is that in am or pm?",
    "Rewrite the time with am or pm.\n{time}",
    "The train leaves at {time}. Give the time in am or pm.",
    "Turn this 24-hour time into a 12-hour one: {time}",
    "How would an American write {time}, with am or pm?",
    "24-hour clock: {time}, 12-hour clock:",
    "Change {time} to 12-hour time.",
    "What time is {time} on a 12-hour clock?",
    told=["{time} is {answer}."],
)
def clock(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A time of the 24-hour clock with am or pm."""
    while True:
        hour, minute = int(generator.integers(1, 24)), pick(generator, [0, 0, 5, 10, 15, 20, 30, 30, 40, 45, 50])
        if hour == 12 and minute == 0:
            continue  # 12 pm to some, noon to others
        half = "am" if hour < 12 else "pm"
        short = hour if hour <= 12 else hour - 12
        forms = [f"{short}:{minute:02d}", f"{short:02d}:{minute:02d}", *([str(short)] if not minute else [])]
        halves = [f" {half}", half, f" {half[0]}.m.", f" {half[0]}.m"]
        also = [form + ending for form in forms for ending in halves]
        time = f"{hour:02d}:{minute:02d}"
        yield Item(time, f"{short}:{minute:02d} {half}", {"time": time}, also)
