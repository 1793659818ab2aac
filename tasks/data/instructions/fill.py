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


def in_words(number: int | str) -> str:
    """A number below 1,000 in words, as in British English: one hundred and five."""
    number = int(number)
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")
    tens = f" and {in_words(number % 100)}" if number % 100 else ""
    return f"{ONES[number // 100]} hundred{tens}"


def words(number: int | str) -> list[str]:
    """A number in words, with and without hyphen and `and`; nothing from 1,000 on."""
    if int(number) >= 1_000:
        return []
    text = in_words(number)
    without_and = text.replace(" and ", " ")
    return [text, text.replace("-", " "), without_and, without_and.replace("-", " ")]


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


def with_article(text: str) -> str:
    """The text after `a` or `an`."""
    return f"an {text}" if re.match("[aeioAEIO]|Uz", text) else f"a {text}"


def euros(number: int | str) -> str:
    """An amount of money."""
    return "1 euro" if int(number) == 1 else f"{number} euros"


def spellings(number: int | str) -> list[str]:
    """The ways in which people write a number."""
    return [str(number), f"{number}.0", f"{int(number):,}", *words(int(number))]


FILTERS: dict[str, Callable[[Any], str | list[str]]] = {
    "an": with_article,
    "beginnings": beginnings,
    "clock": clock,
    "euros": euros,
    "four_digits": lambda n: f"{int(n):04d}",
    "in_words": in_words,
    "initial": lambda text: text[0].upper(),
    "lower": str.lower,
    "spellings": spellings,
    "unfilled": lambda text: text,
    "upper": str.upper,
    "with_the": lambda text: re.sub(r"\b(my|our)\b", "the", text),
    "without_stop": lambda text: text.rstrip("."),
    "words": words,
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
    if isinstance(value, list):
        return [str(FILTERS[function](text)) for text in value] if function else value
    value = FILTERS[function](value) if function else value
    if isinstance(value, list):
        return value
    text = str(value)
    return text if name in values else text[:1].upper() + text[1:]


def fill(text: str, values: Values, split: int = 0) -> str:
    """The template filled in, with the texts of one split; of a list it takes the first."""

    def first_text(match: re.Match[str]) -> str:
        texts = _value(match, values, split)
        return texts[0] if isinstance(texts, list) else texts

    return FIELD.sub(first_text, text)


def fill_each(text: str, values: Values) -> list[str]:
    """The template filled in once for each value of the lists in it."""
    for match in FIELD.finditer(text):
        texts = _value(match, values, 0)
        if isinstance(texts, list):
            templates = [text.replace(match[0], value) for value in texts]
            return [filled for template in templates for filled in fill_each(template, values)]
    return [fill(text, values)]


def number(bound: int | str, values: Values) -> int:
    """A whole number, or that of a column."""
    return bound if isinstance(bound, int) else int(fill(f"{{{bound}}}", values))
