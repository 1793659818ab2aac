"""Templates: texts with {fields} that the columns of a task fill in.

`{Name}` is {name} with a capital letter, `{sender}` the name of a person and `{sender.title}` another column of theirs,
`{n:in_words}` a column after one of FILTERS. Columns may be templates themselves.
"""

import re
from collections.abc import Callable
from typing import Any

from tasks.data.instructions.choose import BySplit, Values

FIELD = re.compile(r"\{(\w+)(?:\.(\w+))?(?::(\w+))?\}")
ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
ONES += [f"{stem}teen" for stem in ("thir", "four", "fif", "six", "seven", "eigh", "nine")]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


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


def beginnings(answer: str) -> list[str]:
    """The ways in which an answer like this one begins, with and without the short form."""
    first = re.split(r"[,.:!?]", answer)[0]
    return [f"{first}…", f"{first}…".replace("I am ", "I'm ")]


def clock(hour: int | str) -> str:
    """A full hour of the day: 9 am, noon, 6 pm."""
    hour = int(hour)
    if hour == 12:
        return "noon"
    return f"{hour} am" if hour < 12 else f"{hour - 12} pm"


FILTERS: dict[str, Callable[[Any], str | list[str]]] = {
    "an": lambda text: f"{'an' if re.match('[aeioAEIO]|Uz', text) else 'a'} {text}",
    "beginnings": beginnings,
    "clock": clock,
    "euros": lambda n: "1 euro" if int(n) == 1 else f"{n} euros",
    "four_digits": lambda n: f"{int(n):04d}",
    "in_words": lambda n: in_words(int(n)),
    "initial": lambda text: text[0].upper(),
    "lower": str.lower,
    "spellings": lambda n: [str(n), f"{n}.0", f"{int(n):,}", *words(int(n))],
    "unfilled": lambda text: text,
    "upper": str.upper,
    "with_the": lambda text: re.sub(r"\b(my|our)\b", "the", text),
    "without_stop": lambda text: text.rstrip("."),
    "words": lambda n: words(int(n)),
}


def _column(name: str, values: Values) -> str:
    return name if name in values else name[0].lower() + name[1:]


def unknown_fields(text: str, values: Values) -> list[str]:
    """The fields of a template that no column fills in."""
    return [match[1] for match in FIELD.finditer(text) if _column(match[1], values) not in values]


def _value(match: re.Match[str], values: Values, split: int) -> str | list[str]:
    """The text of a field, or its texts."""
    name, attribute, function = match.groups()
    value = values[_column(name, values)]
    value = value[attribute or "name"] if isinstance(value, dict) else value
    value = value[split] if isinstance(value, BySplit) else value
    if isinstance(value, str) and function != "unfilled":
        value = fill(value, values, split)
    if function:
        value = [FILTERS[function](each) for each in value] if isinstance(value, list) else FILTERS[function](value)
    if isinstance(value, list) or name in values:
        return value if isinstance(value, list) else str(value)
    return str(value)[:1].upper() + str(value)[1:]


def fill(text: str, values: Values, split: int = 0) -> str:
    """The template filled in, with the texts of one split; of a list it takes the first."""

    def one(match: re.Match[str]) -> str:
        found = _value(match, values, split)
        return found[0] if isinstance(found, list) else found

    return FIELD.sub(one, text)


def fill_each(text: str, values: Values) -> list[str]:
    """The template filled in once for each value of the lists in it."""
    for match in FIELD.finditer(text):
        if isinstance(found := _value(match, values, 0), list):
            return [filled for one in found for filled in fill_each(text.replace(match[0], one), values)]
    return [fill(text, values)]


def number(bound: int | str, values: Values) -> int:
    """A whole number, or that of a column."""
    return bound if isinstance(bound, int) else int(fill(f"{{{bound}}}", values))
