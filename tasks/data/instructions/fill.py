"""Templates: texts with {fields} that a task's values fill in."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from tasks.data.instructions.choose import BySplit, Values

FIELD = re.compile(r"\{(\w+)(?:\.(\w+))?(?::(\w+))?\}")
ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()


class Person(NamedTuple):
    """Somebody, and the pronouns for them."""

    name: str
    he: str
    his: str
    him: str

    @property
    def title(self) -> str:
        """Ms or Mr."""
        return "Ms" if self.he == "she" else "Mr"

    def __str__(self) -> str:
        return self.name


def capitalised(text: str) -> str:
    """The text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def in_words(number: int) -> str:
    """A number below 1,000 in words, as in British English: one hundred and five."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")
    rest = f" and {in_words(number % 100)}" if number % 100 else ""
    return f"{ONES[number // 100]} hundred{rest}"


def words(number: int) -> list[str]:
    """A number in words, with and without hyphen and `and`; nothing from 1,000 on."""
    text = in_words(number) if number < 1_000 else ""
    forms = [text, text.replace("-", " "), text.replace(" and ", " "), text.replace("-", " ").replace(" and ", " ")]
    return [form for form in forms if form]


def spellings(number: int) -> list[str]:
    """The ways to write a number, in digits and in words."""
    return [str(number), f"{number}.0", f"{number:,}", *words(number)]


def beginnings(answer: str) -> list[str]:
    """The ways in which an answer like this one begins, with and without the short form."""
    first = re.split(r"[,.:!?]", answer)[0]
    short = first.replace("I am ", "I'm ")
    return [f"{first}…", f"{short}…"]


def an(text: str) -> str:
    """The text with its indefinite article."""
    return f"{'an' if re.match('[aeioAEIO]|Uz', text) else 'a'} {text}"


FILTERS: dict[str, Callable[[Any], str | list[str]]] = {
    "an": an,
    "beginnings": beginnings,
    "euros": lambda number: "1 euro" if int(number) == 1 else f"{number} euros",
    "four_digits": lambda number: f"{int(number):04d}",
    "in_words": lambda number: in_words(int(number)),
    "initial": lambda text: text[0].upper(),
    "lower": str.lower,
    "parity": lambda number: ("even", "odd")[int(number) % 2],
    "spellings": lambda number: spellings(int(number)),
    "to_you": lambda text: re.sub(r"\b(my|our)\b", "your", text),
    "unfilled": lambda text: text,
    "upper": str.upper,
    "without_stop": lambda text: text.rstrip("."),
    "words": lambda number: words(int(number)),
}
"""What may follow a field's name and a colon."""


def fields_of(text: str) -> set[str]:
    """The names of a template's fields."""
    return {match[1] for match in FIELD.finditer(text)}


def has(values: Values, name: str) -> bool:
    """Whether a template may use the field: {Name} is {name} with a capital letter."""
    return name in values or name[:1].lower() + name[1:] in values


def _value(match: re.Match[str], values: Values, split: int) -> str | list[str]:
    """The text of a field, or its texts."""
    name, attribute, function = match.groups()
    value = values[name] if name in values else values[name[0].lower() + name[1:]]
    value = getattr(value, attribute) if attribute else value
    if isinstance(value, BySplit):
        value = value[split]
    if isinstance(value, str) and function != "unfilled":
        value = fill(value, values, split)
    if function:
        value = [FILTERS[function](each) for each in value] if isinstance(value, list) else FILTERS[function](value)
    if isinstance(value, list):
        return value
    return str(value) if name in values else capitalised(str(value))


def fill(text: str, values: Values, split: int = 0) -> str:
    """The template filled in, with the texts of one split; of a list it takes the first."""

    def one(match: re.Match[str]) -> str:
        found = _value(match, values, split)
        return found[0] if isinstance(found, list) else found

    return FIELD.sub(one, text)


def fill_each(text: str, values: Values) -> list[str]:
    """The template filled in once for each value of the lists in it."""
    for match in FIELD.finditer(text):
        found = _value(match, values, 0)
        if isinstance(found, list):
            return [filled for one in found for filled in fill_each(text.replace(match[0], one), values)]
    return [fill(text, values)]


def number(name: str, values: Values) -> int:
    """The whole number in a column."""
    return int(fill(f"{{{name}}}", values))
